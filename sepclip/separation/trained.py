"""A trained run for use from Python."""

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sepclip.errors import UserError
from sepclip.model.separator import Channels, MaskSource
from sepclip.model.separator import Separator as Network
from sepclip.separation.stream import separate_wave
from sepclip.training.hardware import resolve_device, resolve_precision
from sepclip.training.run import Run

Wave = TypeVar("Wave", Tensor, NDArray[np.float32])


class Separator:
    """Separates waves of any rate, length and channel count as ``sepclip separate`` does files.

    ``network`` is the module with its weights.
    """

    def __init__(self, network: Network, device: torch.device):
        self.network, self.device = network, device

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

        Raises UserError where the folder is no run, is damaged, or has not what is asked for.
        """
        where = resolve_device(device)
        network = Run.open(Path(run)).separator(where, masks=masks)
        bf16 = resolve_precision(precision, where) == "bf16"
        network.set_inference(misi=misi, channels=channels, bf16=bf16)
        return cls(network, where)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sources, in their order."""
        return self.network.layout.names

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
        waves = separate_wave(self.network, given.reshape(-1, given.shape[-1]), rate_hz, self.device)  # (S, C, T)
        shaped = waves.reshape(-1, *given.shape)
        return shaped.to(wave.device) if isinstance(wave, Tensor) else shaped.numpy()
