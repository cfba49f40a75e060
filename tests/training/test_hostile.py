"""A run from anybody is only data: an error in it is reported in a line, and no byte of it is executed."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sepclip.cli import main
from sepclip.training.checkpoint import REST, WEIGHTS
from sepclip.training.run import CONFIG, ENVIRONMENT
from tests.conftest import SPEECH, TINY

Damage = Callable[[Path], object]  # of a run's folder


class _Evil:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.mkdir, (str(self.trace),)


def _trace(run: Path) -> Path:
    return run.parent / "executed"


def _each(name: str, change: Callable[[Path], object]) -> Damage:
    """Change the files of a name in all checkpoints."""
    return lambda run: [change(path) for path in sorted(run.glob(f"checkpoints/*/{name}"))]


def _pickled(name: str) -> Damage:
    return lambda run: _each(name, lambda path: path.write_bytes(pickle.dumps(_Evil(_trace(run)))))(run)


def _saved_by_torch(name: str) -> Damage:
    return lambda run: _each(name, lambda path: torch.save({"a": _Evil(_trace(run))}, path))(run)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _reshaped(path: Path) -> None:
    weights = load_file(path)
    name = max(weights, key=lambda key: weights[key].dim())
    save_file({**weights, name: torch.zeros(3, 5)}, path)


def _edited(name: str, old: str, new: str) -> Damage:
    def edit(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new, 1))

    return edit


WRONG_WEIGHTS: dict[str, Damage] = {
    "pickled weights": _pickled(WEIGHTS),
    "weights by torch.save": _saved_by_torch(WEIGHTS),
    "weights cut short": _each(WEIGHTS, _cut),
    "empty weights": _each(WEIGHTS, lambda path: path.write_bytes(b"")),
    "weights of another shape": _each(WEIGHTS, _reshaped),
}
WRONG_STATE: dict[str, Damage] = {
    "pickled state": _pickled(REST),
    "hostile state by torch.save": _saved_by_torch(REST),
    "state cut short": _each(REST, _cut),
}
WRONG_FOLDER: dict[str, Damage] = {
    "unknown network": _edited(CONFIG, "network: blstm", "network: transformer"),
    "of a newer sepclip": _edited(CONFIG, "model:", "model:\n  attention_heads: 4"),
    "configuration that calls": _edited(CONFIG, "seed: 0", "seed: !!python/object/apply:os.getpid []"),
    "configuration of no text": lambda run: (run / CONFIG).write_bytes(bytes(range(256))),
    "environment cut short": lambda run: _cut(run / ENVIRONMENT),
}


def assert_told(run: Path, capfd: pytest.CaptureFixture[str], *arguments: object) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main([str(argument) for argument in arguments])
    output = capfd.readouterr().err
    assert exit_code.value.code == 1, output
    assert "Traceback" not in output
    assert len(output.strip().splitlines()) <= 6, output
    assert run.name in output
    assert not _trace(run).exists()


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "foreign"))


@pytest.mark.parametrize(
    "damage", [*WRONG_WEIGHTS.values(), *WRONG_FOLDER.values()], ids=[*WRONG_WEIGHTS, *WRONG_FOLDER]
)
def test_separate_and_eval_refuse_a_damaged_run(damage, run, small_set, tmp_path, capfd) -> None:
    damage(run)
    assert_told(run, capfd, "separate", run, SPEECH / "en-f" / "0000.flac", "--out", tmp_path / "out")
    assert_told(run, capfd, "eval", run, small_set, "--out", tmp_path / "scores")
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    "damage",
    [*WRONG_WEIGHTS.values(), *WRONG_STATE.values(), *WRONG_FOLDER.values()],
    ids=[*WRONG_WEIGHTS, *WRONG_STATE, *WRONG_FOLDER],
)
def test_a_resumed_training_refuses_a_damaged_run(damage, run, small_set, capfd) -> None:
    damage(run)
    settings = [part for setting in TINY for part in ("--set", setting)]
    assert_told(run, capfd, "train", small_set, "--run", run, "--steps", 30, *settings)


@pytest.mark.parametrize("damage", [*WRONG_WEIGHTS.values(), *WRONG_STATE.values()], ids=[*WRONG_WEIGHTS, *WRONG_STATE])
def test_a_report_shows_what_is_text_and_executes_nothing(damage, run, capfd) -> None:
    damage(run)
    with pytest.raises(SystemExit) as exit_code:
        main(["report", str(run)])
    output = capfd.readouterr().err
    assert not exit_code.value.code, output
    assert (run / "report.html").stat().st_size > 10_000
    words = "is of another network" if damage is WRONG_WEIGHTS["weights of another shape"] else "is damaged"
    assert damage in WRONG_STATE.values() or words in output
    assert not _trace(run).exists()


def test_separating_does_not_read_the_training_state(run, tmp_path) -> None:
    WRONG_STATE["pickled state"](run)
    with pytest.raises(SystemExit) as exit_code:
        main(["separate", str(run), str(SPEECH / "en-f" / "0000.flac"), "--out", str(tmp_path / "out")])
    assert not exit_code.value.code
    assert not _trace(run).exists()


def test_the_hostile_files_execute_code_if_trusted(tmp_path) -> None:
    path = tmp_path / "run" / "checkpoints" / "best" / REST
    path.parent.mkdir(parents=True)
    path.touch()
    for number, damage in enumerate((_pickled(REST), _saved_by_torch(REST))):
        damage(tmp_path / "run")
        with path.open("rb") as file:
            pickle.load(file) if number == 0 else torch.load(path, weights_only=False)
        _trace(tmp_path / "run").rmdir()
