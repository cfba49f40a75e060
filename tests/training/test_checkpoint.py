import shutil
from pathlib import Path

import pytest
import torch

from sepclip.audio.layout import Layout
from sepclip.config.load import load_config
from sepclip.errors import UserError
from sepclip.training import checkpoint
from sepclip.training.state import TrainingState, build_separator
from tests.conftest import TINY


def state(step: int) -> TrainingState:
    config = load_config(settings=TINY)
    made = TrainingState.start(config, build_separator(config, Layout(8000, 2)), torch.device("cpu"), 10)
    made.progress.step = step
    with torch.no_grad():
        next(made.separator.parameters()).fill_(step)
    return made


def loaded(folder: Path) -> int:
    """Return the step of the checkpoint that is found, having checked that weights and counters belong together."""
    found = checkpoint.find(folder)
    assert found is not None
    fresh = state(0)
    checkpoint.load(found, fresh)
    assert next(fresh.separator.parameters()).unique().tolist() == [fresh.step]
    return fresh.step


class Killed(BaseException):
    """Stands for a kill: nothing in between catches it."""


@pytest.mark.parametrize("moment", range(8))
def test_whenever_saving_is_cut_a_whole_checkpoint_is_found(moment: int, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "last"
    checkpoint.save(folder, state(1))
    calls = 0

    def counting(original):
        def call(*arguments, **options):
            nonlocal calls
            if calls == moment:
                raise Killed
            calls += 1
            return original(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((Path, "rename"), (shutil, "rmtree"), (torch, "save"), (checkpoint, "save_file")):
            patch.setattr(owner, name, counting(getattr(owner, name)))
        try:
            checkpoint.save(folder, state(2))
            whole = True
        except Killed:
            whole = False
    assert loaded(folder) in ((2,) if whole else (1, 2))
    # the next save after it, cut at the same places, keeps what there is as well
    calls = 0
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counting(Path.rename))
        moment = 0
        with pytest.raises(Killed):
            checkpoint.save(folder, state(3))
    assert loaded(folder) in (1, 2)
    checkpoint.save(folder, state(4))
    assert loaded(folder) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_damaged_or_foreign_checkpoint_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "last"
    checkpoint.save(folder, state(1))
    config = load_config(settings=[*TINY, "model.hidden=9"])
    with pytest.raises(UserError, match="of another network"):
        checkpoint.load_weights(folder, build_separator(config, Layout(8000, 2)))
    for name in (checkpoint.WEIGHTS, checkpoint.REST, checkpoint.COUNTERS):
        broken = tmp_path / f"broken {name}"
        shutil.copytree(folder, broken)
        (broken / name).write_bytes(b"{")
        with pytest.raises(UserError, match="damaged"):
            checkpoint.load(broken, state(0))


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    import os

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    folder = tmp_path / "last"
    checkpoint.save(folder, state(1))
    torch.save({"optimizer": Evil()}, folder / checkpoint.REST)
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(folder, state(0))
    assert not (tmp_path / "pwned").exists()
