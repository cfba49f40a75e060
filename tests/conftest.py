"""The demo voices, a small mixture set, a run trained on it for a second, a browser, and the mark ``process``."""

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import pytest

from tests.report.browser import CHROMIUM, Browser

REPOSITORY = Path(__file__).parent.parent
SPEECH = REPOSITORY / "data" / "speech"
# settings of a network that trains in a second or two, for tests that are not about learning
TINY = (
    "model.layers=1",
    "model.hidden=8",
    "data.segment_frames=60",
    "data.batch_size=4",
    "train.valid_every=10",
    "optimizer.schedule=constant",
)

# Modules that start processes or train. A test that uses one of them has the mark `process`, and `make check` leaves
# it out. What a test reaches only through other modules of the package is not seen; such tests carry the mark by hand.
PROCESS_MODULES = {
    "multiprocessing",
    "sepclip.scoring.score_many",
    "sepclip.training.batch_processes",
    "sepclip.training.loop",
    "subprocess",
    "tests.training.launch",
}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test as ``process`` if it, its fixtures or their helpers in tests/ use one of PROCESS_MODULES."""
    fixtures = item._fixtureinfo.name2fixturedefs.values()  # type: ignore[attr-defined]
    functions = [item.function, *(fixture.func for group in fixtures for fixture in group)]  # type: ignore[attr-defined]
    visited: set[CodeType] = set()
    if any(_starts_processes(function, visited) for function in functions):
        item.add_marker("process")


def _starts_processes(function: object, visited: set[CodeType]) -> bool:
    """Follow the names that a function uses into its helpers in tests/; ``visited`` is the code seen before."""
    function = inspect.unwrap(function) if callable(function) else function
    if not isinstance(function, FunctionType) or function.__code__ in visited:
        return False
    visited.add(function.__code__)
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        module = value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", None))
        if {name, module} & PROCESS_MODULES:  # the name itself is that of a module imported inside the function
            return True
        if module.startswith("tests.") and _starts_processes(value, visited):
            return True
    return False


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that a piece of code uses, with those of the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def sepclip(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in a separate process."""
    return subprocess.run(
        [sys.executable, "-m", "sepclip", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", **environment},
        timeout=600,
        check=False,
    )


def assert_told(result: subprocess.CompletedProcess[str], *words: str, code: int = 1) -> None:
    """Assert that a command exited with ``code`` and a short error that has all ``words`` and no traceback."""
    assert result.returncode == code, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 8, result.stderr


@pytest.fixture(scope="session")
def speech() -> Path:
    """Return the folder of the demo voices."""
    return SPEECH


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a mixture set of the demo voices: 12 for training, 4 for validation, 3 seen and 3 unseen for testing."""
    out = tmp_path_factory.mktemp("sets") / "small"
    result = sepclip(
        "prepare", "speakers", SPEECH, out, "--tr", 12, "--cv", 4, "--tt", 3, "--unseen", "fr-f,ru-m"
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return out


def train_tiny(data: Path, run: Path, *more: object) -> subprocess.CompletedProcess[str]:
    """Train the tiny network through the command line."""
    settings = [part for setting in TINY for part in ("--set", setting)]
    return sepclip("train", data, "--run", run, "--steps", 20, *settings, *more)


@pytest.fixture(scope="session")
def tiny_run(small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run of the tiny network."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    result = train_tiny(small_set, run, "--no-report")
    assert result.returncode == 0, result.stderr
    return run


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return a headless Chromium. Without Chromium the tests that need it are skipped with a reason."""
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH: on Debian `apt-get install chromium`")
    opened = Browser()
    yield opened
    opened.close()
