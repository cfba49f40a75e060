"""Checkpoints: weights in safetensors, the rest as tensors and plain data that load with ``weights_only``.

A checkpoint is a folder that is filled under another name and then put in place by renaming. Should the process
die between the two renames, the one before lies beside it as ``NAME.old`` and is read instead.
"""

import json
import os
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sepclip.errors import UserError
from sepclip.training.state import TrainingState

WEIGHTS, REST, COUNTERS = "weights.safetensors", "state.pt", "state.json"


def save(folder: Path, state: TrainingState) -> None:
    """Save ``state`` as the checkpoint ``folder``, replacing the one before in one step.

    Raises UserError, with the checkpoint before still in place, where the disk is full or cannot be written.
    """
    new, old = folder.with_name(f"{folder.name}.new"), _old(folder)
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        weights = {name: value.contiguous() for name, value in state.separator.state_dict().items()}
        save_file(weights, new / WEIGHTS)
        torch.save(state.rest(), new / REST)
        (new / COUNTERS).write_text(json.dumps(state.counters(), indent=1) + "\n", encoding="utf-8")
        for file in new.iterdir():
            _flush(file)
        if folder.exists():  # else the old one is the only one, after a kill between the renames: it stays
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        new.rename(folder)
        _flush(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(new, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise UserError(f"{folder} cannot be written: {reason}; the checkpoint before is still there") from error


def find(folder: Path) -> Path | None:
    """Return where the checkpoint ``folder`` is: there, beside it after a kill in the middle of saving, or nowhere."""
    return next((place for place in (folder, _old(folder)) if (place / COUNTERS).is_file()), None)


def load_counters(folder: Path) -> dict[str, Any]:
    """Read where the run of a checkpoint stands."""
    try:
        counters: dict[str, Any] = json.loads((folder / COUNTERS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error
    return counters


def load_weights(folder: Path, separator: nn.Module) -> None:
    """Load the weights of a checkpoint into ``separator``."""
    try:
        separator.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise _damaged(folder, error) from error


def load(folder: Path, state: TrainingState) -> None:
    """Load a whole checkpoint into ``state``."""
    load_weights(folder, state.separator)
    try:
        rest = torch.load(folder / REST, weights_only=True, map_location="cpu")
        state.restore(load_counters(folder), rest)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        raise _damaged(folder, error) from error


def _old(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _damaged(folder: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"the checkpoint {folder} is damaged or of another network ({reason}): remove it, or start anew")
