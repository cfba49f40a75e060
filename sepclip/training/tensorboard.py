"""Scalars for TensorBoard, as a view of ``metrics.jsonl``: ``RUN/tensorboard`` can be made anew from it at any time."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sepclip.errors import UserError
from sepclip.terminal import warn

FOLDER = "tensorboard"


def require_tensorboard() -> None:
    """Raise UserError where TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError("--tensorboard needs TensorBoard: pip install 'sepclip[tensorboard]'") from error


class Scalars:
    """Writes every number of a row as a scalar of its key; a run that has the folder is followed, others are not."""

    def __init__(self, metrics: Path):
        """Begin anew with the rows that ``metrics`` holds: what a resumed run has cut off is then gone here too."""
        self._writer: Any = None
        folder = metrics.parent / FOLDER
        if not folder.is_dir():
            return
        try:
            require_tensorboard()
        except UserError as error:
            warn(f"{folder} is not written any further: {error}")
            return
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder)
        self._writer = SummaryWriter(str(folder))
        for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else ():
            self.add(json.loads(line))

    def add(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row at its step."""
        if self._writer is None:
            return
        for key, value in row.items():
            if key != "step" and isinstance(value, int | float):
                self._writer.add_scalar(key, value, row["step"])

    def close(self) -> None:
        """Write all that is left."""
        if self._writer is not None:
            self._writer.close()
