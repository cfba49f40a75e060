"""Real voices, a small mixture set of them, a run trained on it for a moment, and a browser."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.browser import CHROMIUM, Browser

REPOSITORY = Path(__file__).parent.parent
SPEECH = REPOSITORY / "data" / "speech"
# a network that learns next to nothing in a second or two, for all that is not about learning
TINY = (
    "model.layers=1",
    "model.hidden=8",
    "data.segment_frames=60",
    "data.batch_size=4",
    "train.valid_every=10",
    "optimizer.schedule=constant",
)


def sepclip(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in a process of its own."""
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
    """Assert that a command ended with ``code``, said all ``words``, and showed no traceback and not many lines."""
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
    """Return a mixture set of the demo voices: 12 mixtures to train on, 4 to validate, 3 seen and 3 unseen to test."""
    out = tmp_path_factory.mktemp("sets") / "small"
    result = sepclip(
        "prepare", "speakers", SPEECH, out, "--tr", 12, "--cv", 4, "--tt", 3, "--unseen", "fr-f,ru-m"
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return out


def train_tiny(data: Path, run: Path, *more: object) -> subprocess.CompletedProcess[str]:
    """Train the tiny network by the command line."""
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
    """Return a headless Chromium; without one the tests that need it are skipped, and say so."""
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH: on Debian `apt-get install chromium`")
    opened = Browser()
    yield opened
    opened.close()
