"""The trained separator for use from Python."""

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

        Raises UserError if the folder is not a run or is damaged, or if the run does not support the options.
        """
        torch_device = resolve_device(device)
        opened = Run.open(Path(run))
        resolved = resolve_precision(precision, torch_device, opened.config.model.network)
        options = InferenceOptions(misi, channels, masks, resolved)
        return cls(opened.separator(torch_device, options), torch_device)

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

        The wave is a numpy array or a tensor, and the result is the same kind, in float32. Raises UserError if the wave
        has another shape, no samples, or samples that are NaN or infinite.
        """
        samples = torch.as_tensor(wave, dtype=torch.float32)
        if samples.dim() not in (1, 2) or 0 in samples.shape:
            raise UserError(f"a wave is (T,) or (C, T) with samples, not {tuple(samples.shape)}")
        if not samples.isfinite().all():
            raise UserError("the wave contains NaN or infinite samples")
        # to channels, through the blocks of `sepclip separate`, and back to the shape and kind of the input
        channels = samples.reshape(-1, samples.shape[-1])  # (C, T)
        waves = separate_wave(self._separator, channels, rate_hz, self.device)  # (S, C, T)
        shaped = waves.reshape(-1, *samples.shape)  # (S, T) or (S, C, T)
        return shaped.to(wave.device) if isinstance(wave, Tensor) else shaped.numpy()
