"""Checkpoints: weights in safetensors, the rest as tensors and plain data that load with ``weights_only``.

A checkpoint is a folder that is filled under another name and then put in place by renaming. Should the process
die between the two renames, the one before lies beside it as ``NAME.old`` and is read instead. Those that are kept
besides are ``NAME-STEP``.
"""

import json
import math
import os
import shutil
from dataclasses import asdict, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, get_args, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sepclip.errors import UserError
from sepclip.training.state import Progress, TrainingState

WEIGHTS, AVERAGE, REST, COUNTERS = "weights.safetensors", "average.safetensors", "state.pt", "state.json"
VERSION = 1  # of what a checkpoint holds
# what reading a file that is cut short, changed, or made to harm can raise
_BROKEN = (
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
)


def save(folder: Path, state: TrainingState, keep: int = 1) -> None:
    """Save ``state`` as the checkpoint ``folder``, replacing the one before in one step.

    ``keep``: so many of the latest stay, this one among them. Raises UserError, with the checkpoint before still in
    place, where the disk is full or cannot be written.
    """
    new, old = folder.with_name(f"{folder.name}.new"), _old(folder)
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        _save_weights(state.separator, new / WEIGHTS)
        if state.average is not None:
            _save_weights(state.average.separator, new / AVERAGE)
        torch.save(state.rest(), new / REST)
        counters = {"version": VERSION, **asdict(state.progress)}
        (new / COUNTERS).write_text(json.dumps(counters, indent=1) + "\n", encoding="utf-8")
        for file in new.iterdir():
            _flush(file)
        if folder.exists():  # else the old one is the only one, after a kill between the renames: it stays
            _retire(old, keep)
            folder.rename(old)
        new.rename(folder)
        _flush(folder.parent)
        _retire(old, keep)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(new, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise UserError(f"{folder} cannot be written: {reason}; the checkpoint before is still there") from error


def find(folder: Path) -> Path | None:
    """Return where the checkpoint ``folder`` is: there, beside it after a kill in the middle of saving, or nowhere."""
    return next((place for place in (folder, _old(folder)) if (place / COUNTERS).is_file()), None)


def load_progress(folder: Path) -> Progress:
    """Read where the run of a checkpoint stands."""
    try:
        counters = json.loads((folder / COUNTERS).read_text(encoding="utf-8"))
        if counters.pop("version", None) != VERSION:
            raise ValueError(f"made by another version of sepclip: {COUNTERS} is not of version {VERSION}")
        kinds = get_type_hints(Progress)
        for field in fields(Progress):
            _require_number(field.name, counters[field.name], kinds[field.name])
        return Progress(**counters)
    except _BROKEN as error:
        raise _damaged(folder, error) from error


def load_weights(folder: Path, separator: nn.Module) -> None:
    """Load the weights that a checkpoint has for use into ``separator``: their average, where it has one."""
    found = folder / AVERAGE
    _load_weights(found if found.is_file() else folder / WEIGHTS, separator)


def load(folder: Path, state: TrainingState) -> None:
    """Load a whole checkpoint into ``state``."""
    _load_weights(folder / WEIGHTS, state.separator)
    if state.average is not None:
        _load_weights(folder / AVERAGE, state.average.separator)
    progress = load_progress(folder)
    try:
        state.restore(progress, torch.load(folder / REST, weights_only=True, map_location="cpu"))
    except _BROKEN as error:
        raise _damaged(folder, error) from error


def _save_weights(separator: nn.Module, path: Path) -> None:
    save_file({name: value.contiguous() for name, value in separator.state_dict().items()}, path)


def _load_weights(path: Path, separator: nn.Module) -> None:
    try:
        separator.load_state_dict(load_file(path))
    except _BROKEN as error:
        raise _damaged(path.parent, error) from error


def _require_number(name: str, value: object, kind: Any) -> None:
    """Raise ValueError where ``value`` is not of the numbers that ``kind`` (int, float, float | None) takes."""
    kinds = get_args(kind) or (kind,)
    if value is None and type(None) in kinds:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (int in kinds and (not isinstance(value, int) or value < 0)):
        raise ValueError(f"{name} is {value!r:.40}")


def _retire(old: Path, keep: int) -> None:
    """Keep the checkpoint ``old`` under the name of its step, or remove it; and what is more than ``keep``."""
    name = old.name.removesuffix(".old")
    if keep > 1 and (old / COUNTERS).is_file():
        kept = old.with_name(f"{name}-{load_progress(old).step:08d}")
        shutil.rmtree(kept, ignore_errors=True)
        old.rename(kept)
    shutil.rmtree(old, ignore_errors=True)
    earlier = sorted(old.parent.glob(f"{name}-[0-9]*"))
    for folder in earlier[: max(0, len(earlier) - (keep - 1))]:
        shutil.rmtree(folder, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _damaged(folder: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return UserError(f"the checkpoint {folder} is damaged or of another network ({reason}): remove it, or start anew")
