"""Scalars for TensorBoard, a copy of ``metrics.jsonl`` from which ``RUN/tensorboard`` can always be rewritten."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sepclip.errors import UserError
from sepclip.terminal import warn

FOLDER = "tensorboard"


def require_tensorboard() -> None:
    """Raise UserError if TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401  # at the top it would be required
    except ImportError as error:
        raise UserError("--tensorboard needs TensorBoard: pip install 'sepclip[tensorboard]'") from error


class TensorBoardWriter:
    """Writes every number of a row as a scalar named by its key, if the run has a folder for TensorBoard."""

    def __init__(self, metrics: Path):
        """Write the rows in ``metrics`` again, so that rows which a resumed run has cut off disappear here too."""
        self._writer: Any = None
        folder = metrics.parent / FOLDER
        # the folder is the setting: `--tensorboard` creates it once, and every resumed run finds it
        if not folder.is_dir():
            return
        try:
            require_tensorboard()
        except UserError as error:
            # a warning only: training is worth more than its curves, which metrics.jsonl has too
            warn(f"{folder} is not updated: {error}")
            return
        from torch.utils.tensorboard import SummaryWriter

        # event files can only be appended to, and TensorBoard would draw repeated steps as a zigzag
        shutil.rmtree(folder)
        self._writer = SummaryWriter(str(folder))
        # the run has cut off its later rows by now, so all that are left are true
        for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else ():
            self.add(json.loads(line))

    def add(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row, at its step."""
        if self._writer is None:
            return
        for key, value in row.items():
            if key != "step" and isinstance(value, int | float):  # leaves out None (not finite) and dicts
                self._writer.add_scalar(key, value, row["step"])

    def close(self) -> None:
        """Write what is still buffered."""
        if self._writer is not None:
            self._writer.close()
