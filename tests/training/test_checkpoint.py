import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sepclip.audio.layout import Layout
from sepclip.config.load import load_config
from sepclip.errors import UserError
from sepclip.training import checkpoint
from sepclip.training.state import TrainingState, build_separator
from tests.conftest import TINY


def state(step: int) -> TrainingState:
    config = load_config(settings=TINY)
    new_state = TrainingState.start(config, build_separator(config, Layout(8000, 2)), torch.device("cpu"), 10)
    new_state.progress.step = step
    with torch.no_grad():
        next(new_state.separator.parameters()).fill_(step)
    return new_state


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
def test_an_interrupted_save_leaves_a_whole_checkpoint(moment: int, tmp_path: Path, monkeypatch) -> None:
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


def whole_checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if (path / checkpoint.COUNTERS).is_file())


@pytest.mark.parametrize("keep", [2, 3])
@pytest.mark.parametrize("moment", range(12))
def test_a_killed_save_leaves_no_checkpoint_too_many(moment: int, keep: int, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "last"
    for step in range(1, 5):
        checkpoint.save(folder, state(step), keep)
    assert whole_checkpoints(tmp_path) == ["last", *(f"last-{step:08d}" for step in range(5 - keep, 4))]
    calls = 0

    def counting(original):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls > moment:
                raise Killed
            return original(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((Path, "rename"), (shutil, "rmtree"), (os, "fsync")):
            patch.setattr(owner, name, counting(getattr(owner, name)))
        with pytest.raises(Killed):
            checkpoint.save(folder, state(5), keep)
    assert len([name for name in whole_checkpoints(tmp_path) if not name.endswith((".new", ".removed"))]) <= keep
    latest = loaded(folder)
    checkpoint.tidy(folder, keep)  # as the next command does before it trains, or finds that there is nothing to do
    assert loaded(folder) == latest
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == whole_checkpoints(tmp_path)
    assert len(names) <= keep
    for name in names[1:]:
        loaded(tmp_path / name)
    checkpoint.save(folder, state(6), keep)
    assert len(list(tmp_path.iterdir())) <= keep
    assert loaded(folder) == 6


def test_fewer_kept_checkpoints_take_effect_and_other_folders_stay(tmp_path: Path) -> None:
    folder = tmp_path / "last"
    for step in (1, 2, 100_000_001, 3):  # more digits than names are padded to
        checkpoint.save(folder, state(step), 4)
    (tmp_path / "last-00000001-copy").mkdir()
    checkpoint.tidy(folder, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "last-00000001-copy", "last-100000001"]


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.REST, checkpoint.COUNTERS])
@pytest.mark.parametrize(
    "damage", [lambda file: file.write_bytes(b"{"), Path.unlink, lambda file: file.write_bytes(b"")]
)
def test_a_checkpoint_with_an_unreadable_file_is_reported_as_damaged(name: str, damage, tmp_path: Path) -> None:
    folder = tmp_path / "last"
    checkpoint.save(folder, state(1))
    damage(folder / name)
    with pytest.raises(UserError, match=r"last is damaged \(.*\): remove it, or train again in another folder"):
        checkpoint.load(folder, state(0))


def change_rest(folder: Path, change) -> None:
    """Apply ``change`` to the content of a checkpoint's state.pt."""
    rest = torch.load(folder / checkpoint.REST, weights_only=True)
    change(rest)
    torch.save(rest, folder / checkpoint.REST)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rest: rest.pop("clip"), "has no 'clip'"),
        (lambda rest: rest["clip"].pop("histories"), "clip has no 'histories'"),
        (lambda rest: rest["clip"].update(skipped="3"), "skipped is '3', not a number"),
        (lambda rest: rest["clip"].update(histories=[1.0]), "histories is not a mapping"),
        (lambda rest: rest.update(schedule=None), "schedule is not a mapping"),
        (lambda rest: rest.update(recent=[[1.0, 2.0]]), "not loss, norm and threshold"),
        (lambda rest: rest["optimizer"].update(param_groups=[3]), "optimizer is not a mapping"),
        (lambda rest: rest["optimizer"]["state"].update({0: 3}), "optimizer is not a mapping"),
        (lambda rest: rest.update(recent_since="now"), "recent_since is 'now', not a number"),
    ],
)
def test_a_state_of_the_wrong_structure_is_reported_as_damaged(change, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "last"
    checkpoint.save(folder, state(1))
    change_rest(folder, change)
    with pytest.raises(UserError, match=rf"last is damaged \(.*{words}.*\)"):
        checkpoint.load(folder, state(0))


def other_state(*settings: str) -> TrainingState:
    config = load_config(settings=[*TINY, *settings])
    return TrainingState.start(config, build_separator(config, Layout(8000, 2)), torch.device("cpu"), 10)


@pytest.mark.parametrize("settings", [("model.hidden=9",), ("model.layers=2",), ("model.input_norm=none",)])
def test_weights_of_another_network_are_not_reported_as_damaged(settings: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "last"
    checkpoint.save(folder, state(1))
    other = other_state(*settings)
    for load in (lambda: checkpoint.load_weights(folder, other.separator), lambda: checkpoint.load(folder, other)):
        with pytest.raises(UserError, match=r"last is of another network \(.*\): use the settings"):
            load()


def test_a_state_of_another_clip_rule_is_not_reported_as_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "last"
    checkpoint.save(folder, state(1))
    with pytest.raises(UserError, match=r"last is of another clip rule \(.*'auto:10'.*\): use the settings"):
        checkpoint.load(folder, other_state("clip=none"))


@pytest.mark.parametrize("error", [RuntimeError, TypeError, KeyError, AttributeError, ZeroDivisionError, OSError])
@pytest.mark.parametrize("part", ["clip", "schedule", "optimizer"])
def test_a_bug_while_restoring_a_good_checkpoint_is_not_reported_as_damage(error, part: str, tmp_path: Path) -> None:
    folder, restored = tmp_path / "last", state(0)
    checkpoint.save(folder, state(1))

    def raise_bug(_) -> None:
        raise error("bug")

    getattr(restored, part).load_state_dict = raise_bug
    with pytest.raises(error, match="bug"):
        checkpoint.load(folder, restored)


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


def test_initial_weights_may_have_other_heads_and_nothing_else(tmp_path: Path) -> None:
    def separator(*settings: str) -> nn.Module:
        return build_separator(load_config(settings=[*TINY, *settings]), Layout(8000, 2))

    embeddings, masks = separator("loss.name=dc"), separator("loss.name=mi")
    save_file({name: value + 1 for name, value in embeddings.state_dict().items()}, tmp_path / checkpoint.WEIGHTS)
    before = {name: value.clone() for name, value in masks.state_dict().items()}
    assert checkpoint.load_initial_weights(tmp_path, masks) == ["mask"]
    for name, value in masks.state_dict().items():
        expected = before[name] if ".heads.mask." in name else embeddings.state_dict()[name] + 1
        assert torch.equal(value, expected), name
    with pytest.raises(UserError, match="another network"):
        checkpoint.load_initial_weights(tmp_path, separator("loss.name=mi", "model.hidden=9"))
