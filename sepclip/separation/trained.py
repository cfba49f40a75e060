"""A trained run for use from Python."""

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sepclip.errors import UserError
from sepclip.model.inference import BlockSeparator, Channels, InferenceOptions, MaskSource
from sepclip.separation.stream import separate_wave
from sepclip.training.hardware import resolve_device, resolve_precision
from sepclip.training.run import Run

Wave = TypeVar("Wave", Tensor, NDArray[np.float32])


class Separator:
    """Separates waves of any rate, length and channel count as ``sepclip separate`` separates files."""

    def __init__(self, separator: BlockSeparator, device: torch.device):
        self._separator, self.device = separator, device

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        masks: MaskSource | None = None,
        channels: Channels = "mid",
        misi: int = 0,
    ) -> "Separator":
        """Load the best weights of a run; the options are those of ``sepclip separate``.

        Raises UserError if the folder is not a run or is damaged, or if the run cannot do what the options ask for.
        """
        where = resolve_device(device)
        options = InferenceOptions(misi, channels, masks, resolve_precision(precision, where))
        return cls(Run.open(Path(run)).separator(where, options), where)

    @property
    def network(self) -> nn.Module:
        """The module with the weights."""
        return self._separator.model

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sources, in their order."""
        return self._separator.layout.names

    def separate(self, wave: Wave, rate_hz: int) -> Wave:
        """Separate a wave (T,) or (C, T) in [-1, 1] into waves (S, T) or (S, C, T) of the same rate, length and level.

        Takes and gives a numpy array or a tensor, in float32. Raises UserError for another shape, no samples, NaN or
        infinity.
        """
        given = torch.as_tensor(wave, dtype=torch.float32)
        if given.dim() not in (1, 2) or 0 in given.shape:
            raise UserError(f"a wave is (T,) or (C, T) with samples, not {tuple(given.shape)}")
        if not given.isfinite().all():
            raise UserError("the wave holds NaN or infinite samples")
        waves = separate_wave(self._separator, given.reshape(-1, given.shape[-1]), rate_hz, self.device)  # (S, C, T)
        shaped = waves.reshape(-1, *given.shape)
        return shaped.to(wave.device) if isinstance(wave, Tensor) else shaped.numpy()
