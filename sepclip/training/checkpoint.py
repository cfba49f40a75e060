"""Checkpoints: weights in safetensors, the rest as tensors and plain data that load with ``weights_only``.

A checkpoint is a folder that is filled under another name and then renamed into place. If the process dies between the
two renames, the previous checkpoint is still beside it as ``NAME.old`` and is read instead. Earlier checkpoints that
are kept are called ``NAME-STEP``.
"""

import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, get_args, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sepclip.audio.files import write_text
from sepclip.errors import UserError
from sepclip.training.state import ENDS, UNKNOWN, Progress, StateMismatch, TrainingState

WEIGHTS, AVERAGE, REST, COUNTERS = "weights.safetensors", "average.safetensors", "state.pt", "state.json"
VERSION = 1  # of the format of a checkpoint
_ADDED = {"falls_to": 0, "ended": UNKNOWN}  # counters that version 0.1 did not have
# what the readers of torch, safetensors and json raise for a file that is cut short, changed or hostile; only calls of
# these readers are guarded with it, so that an error in our own code stays a traceback
_UNREADABLE = (
    OSError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    SafetensorError,
    TypeError,
    UnpicklingError,
    ValueError,
    struct.error,
)


def save(folder: Path, state: TrainingState, keep: int = 1) -> None:
    """Save ``state`` as the checkpoint ``folder``, which replaces the previous one in one step.

    ``keep``: the number of latest checkpoints to keep, this one included. Raises UserError, with the previous
    checkpoint still in place, if the disk is full or the folder cannot be written.
    """
    # collected outside the try block, since an error in here would be a bug and not a full disk
    rest = _on_cpu(state.rest())
    counters = {"version": VERSION, **asdict(state.progress)}

    def fill(new: Path) -> None:
        new.mkdir(parents=True)
        _save_weights(state.separator, new / WEIGHTS)
        if state.average is not None:
            _save_weights(state.average.separator, new / AVERAGE)
        torch.save(rest, new / REST)
        (new / COUNTERS).write_text(json.dumps(counters, indent=1) + "\n", encoding="utf-8")

    _replace(folder, fill, keep)


def copy(source: Path, folder: Path) -> None:
    """Make the checkpoint ``folder`` a copy of ``source``, as :func:`save` does; without a ``source`` remove it."""
    place = find(source)
    if place is not None:
        _replace(folder, lambda new: shutil.copytree(place, new), 1)
    else:
        remove(folder)


def remove(folder: Path) -> None:
    """Remove a checkpoint if there is one."""
    for place in (_old(folder), folder):  # in this order, or a kill would bring the old one back
        shutil.rmtree(place, ignore_errors=True)


def write_progress(folder: Path, progress: Progress) -> None:
    """Replace the progress of the checkpoint ``folder`` in one step."""
    write_text(folder / COUNTERS, json.dumps({"version": VERSION, **asdict(progress)}, indent=1) + "\n")


def _replace(folder: Path, fill: Callable[[Path], object], keep: int) -> None:
    """Replace the checkpoint ``folder``, in one step, with what ``fill`` writes into a new folder."""
    new, old = folder.with_name(f"{folder.name}.new"), _old(folder)
    try:
        # fill a new folder and flush it, so that its files are complete before it gets its name
        # a save that was killed may have left one of this name
        shutil.rmtree(new, ignore_errors=True)
        fill(new)
        for file in new.iterdir():
            _flush(file)
        # swap the two by renaming; a kill between the renames leaves only the old one, which then must stay
        if folder.exists():
            # rename does not replace a folder that has files: make room for the old checkpoint first. This loses
            # nothing, because ``folder`` itself is whole here; then room for one more, so that a kill leaves no more
            # than ``keep``
            _retire(old, keep)
            _prune(folder, max(0, keep - 2))
            folder.rename(old)
        new.rename(folder)
        # the names are data of the parent folder: without this, a power cut could undo the renames
        _flush(folder.parent)
        # only now, with the new checkpoint in place, is the old one not needed any more
        _retire(old, keep)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(new, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise UserError(f"{folder} cannot be written: {reason}; the checkpoint before is still there") from error


def drop_later(folder: Path, step: int) -> None:
    """Remove the earlier checkpoints that were kept of ``folder`` if they are of steps after ``step``."""
    for kept in folder.parent.glob(f"{folder.name}-[0-9]*"):
        if int(kept.name.rpartition("-")[2]) > step:
            shutil.rmtree(kept, ignore_errors=True)


def tidy(folder: Path, keep: int = 1) -> None:
    """Remove what a killed save left beside the checkpoint ``folder``, and the earliest ones beyond ``keep``."""
    shutil.rmtree(folder.with_name(f"{folder.name}.new"), ignore_errors=True)
    shutil.rmtree(folder.with_name(f"{folder.name}.removed"), ignore_errors=True)
    if (folder / COUNTERS).is_file():  # if not, the old one is the only one
        _retire(_old(folder), keep)


def find(folder: Path) -> Path | None:
    """Return where the checkpoint ``folder`` is: there, beside it after a kill in the middle of saving, or None."""
    return next((place for place in (folder, _old(folder)) if (place / COUNTERS).is_file()), None)


def load_progress(folder: Path) -> Progress:
    """Return the progress of the run at a checkpoint. Raises UserError if its file is damaged."""
    with _damage_as_user_error(folder, _UNREADABLE):
        counters = json.loads((folder / COUNTERS).read_text(encoding="utf-8"))
    with _damage_as_user_error(folder, (ValueError,)):
        return _progress(counters)


def load_weights(folder: Path, separator: nn.Module) -> None:
    """Load the weights of a checkpoint for use into ``separator``: their average if the checkpoint has one.

    Raises UserError if their file is damaged or they are of another network.
    """
    _load_weights(_used_weights(folder), separator)


def _used_weights(folder: Path) -> Path:
    # validation chose the best checkpoint by the average, so that is what separation uses
    average = folder / AVERAGE
    return average if average.is_file() else folder / WEIGHTS


def load_initial_weights(folder: Path, separator: nn.Module) -> list[str]:
    """Load what fits of the weights of a checkpoint into ``separator``, to train it further; return its new heads.

    The heads of the two networks may differ, as after deep clustering: heads that only the checkpoint has are left out,
    and those that only ``separator`` has keep their random weights. Raises UserError if anything else differs.
    """
    path = _used_weights(folder)
    weights, own = _read_weights(path), separator.state_dict()
    kept = {name: value for name, value in weights.items() if name in own or not _head_of(name)}
    new = {name: value for name, value in own.items() if name not in weights and _head_of(name)}
    _fill(separator, {**new, **kept}, path)
    return sorted({_head_of(name) for name in new})


def _head_of(name: str) -> str:
    """Return the head of a network that a tensor belongs to, or an empty text."""
    before, heads, rest = name.partition("network.heads.")
    return rest.partition(".")[0] if heads and not before else ""


def load(folder: Path, state: TrainingState, *, fresh_clip: bool = False) -> None:
    """Load a whole checkpoint into ``state``, with ``fresh_clip`` all but the history of the clip rule.

    Raises UserError if a file of it is damaged, or if it is of another network or clip rule.
    """
    # weights first: their names and shapes give the clearest message about another network
    _load_weights(folder / WEIGHTS, state.separator)
    if state.average is not None:
        _load_weights(folder / AVERAGE, state.average.separator)  # present, since train.average cannot change on resume
    progress = load_progress(folder)
    try:
        with _damage_as_user_error(folder, _UNREADABLE):
            # on the CPU, whatever device saved it: the optimizer moves its moments to their parameters, bit for bit
            rest = torch.load(folder / REST, weights_only=True, map_location="cpu")
        with _damage_as_user_error(folder, (ValueError,)):
            state.require_compatible(rest, fresh_clip=fresh_clip)
        state.restore(
            progress, rest, fresh_clip=fresh_clip
        )  # unguarded: it cannot fail now, unless there is a bug in it
    except StateMismatch as error:
        raise _mismatch(folder, str(error)) from error


@contextmanager
def _damage_as_user_error(folder: Path, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Raise UserError if the block, which reads a file of the checkpoint or checks its content, raises ``errors``."""
    try:
        yield
    # a ValueError too, but the file is sound and needs another message
    except StateMismatch:
        raise
    except errors as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        # one line of the reader's message at most: safetensors and torch print whole paragraphs
        raise UserError(
            f"the checkpoint {folder} is damaged ({reason}): remove it, or train again in another folder"
        ) from error


def _mismatch(folder: Path, reason: str) -> UserError:
    return UserError(
        f"the checkpoint {folder} is of {reason}: use the settings that it was trained with, or choose another run"
    )


def _save_weights(separator: nn.Module, path: Path) -> None:
    # safetensors refuses tensors that are not contiguous
    save_file({name: value.cpu().contiguous() for name, value in separator.state_dict().items()}, path)


def _on_cpu(value: Any) -> Any:
    """Return data with its tensors on the CPU, so that a machine without this GPU can read the file."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    return [_on_cpu(item) for item in value] if isinstance(value, list) else value


def _load_weights(path: Path, separator: nn.Module) -> None:
    _fill(separator, _read_weights(path), path)


def _read_weights(path: Path) -> dict[str, Tensor]:
    with _damage_as_user_error(path.parent, _UNREADABLE):
        return load_file(path)


def _fill(separator: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    difference = _difference(separator.state_dict(), weights)
    if difference:
        raise _mismatch(path.parent, f"another network ({difference})")
    # copies into the parameters, so that optimizers built before still refer to them
    separator.load_state_dict(weights)


def _difference(expected: dict[str, Tensor], weights: dict[str, Tensor]) -> str:
    """Return the first difference between the names and shapes of two sets of weights; empty if there is none."""
    # shapes only: load_state_dict converts types, as for a float64 run that is separated in float32
    for name, value in expected.items():
        if name not in weights:
            return f"it has no {name}"
        if weights[name].shape != value.shape:
            return f"{name} is {tuple(weights[name].shape)}, not {tuple(value.shape)}"
    return next((f"{name} is unknown" for name in weights if name not in expected), "")


def _progress(counters: object) -> Progress:
    """Return the progress from the content of its file. Raises ValueError if a counter is missing, unknown or wrong."""
    if not isinstance(counters, dict) or counters.pop("version", None) != VERSION:
        raise ValueError(f"made by another version of sepclip: {COUNTERS} is not of version {VERSION}")
    # exactly the fields of Progress, so that a counter which a later version adds needs a new VERSION
    kinds = get_type_hints(Progress)
    counters = {**_ADDED, **counters}
    if counters.keys() != kinds.keys():
        raise ValueError(f"{COUNTERS} lacks or has too many counters: {', '.join(counters.keys() ^ kinds.keys())}")
    if counters["ended"] not in ENDS:
        raise ValueError(f"ended is {counters['ended']!r:.40}")
    for name, kind in kinds.items():
        if name == "ended":
            continue
        _require_number(name, counters[name], kind)
    return Progress(**counters)


def _require_number(name: str, value: object, kind: Any) -> None:
    """Raise ValueError if ``value`` is not a number of ``kind`` (int, float, float | None)."""
    # ``float | None`` has both as arguments, ``int`` has none
    kinds = get_args(kind) or (kind,)
    if value is None and type(None) in kinds:
        return
    # compared with the largest float, since an integer may be too large to be converted to one; NaN compares false
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if not number or (int in kinds and (not isinstance(value, int) or value < 0)):
        raise ValueError(f"{name} is {value!r:.40}")


def _retire(old: Path, keep: int) -> None:
    """Keep the checkpoint ``old`` under the name of its step if ``keep`` allows, and remove the earliest ones."""
    # either it becomes one of the earlier checkpoints, or it is removed
    folder = old.with_name(old.name.removesuffix(".old"))
    if keep > 1 and (old / COUNTERS).is_file():
        kept = folder.with_name(f"{folder.name}-{load_progress(old).step:08d}")
        _remove(kept, folder)
        old.rename(kept)
    _remove(old, folder)
    _prune(folder, keep - 1)


def _prune(folder: Path, count: int) -> None:
    """Remove the earlier checkpoints of ``folder`` but the latest ``count``."""
    pattern = re.compile(rf"{re.escape(folder.name)}-(\d{{8,}})")
    steps = {path: int(match[1]) for path in folder.parent.iterdir() if (match := pattern.fullmatch(path.name))}
    for path in sorted(steps, key=steps.__getitem__)[: max(0, len(steps) - count)]:
        _remove(path, folder)


def _remove(path: Path, folder: Path) -> None:
    """Remove a checkpoint of ``folder`` under another name, so that a kill leaves no half of one under its own."""
    removed = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    if path.is_dir():
        path.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)  # of a folder too, for which Linux accepts a read-only handle
    finally:
        os.close(handle)
