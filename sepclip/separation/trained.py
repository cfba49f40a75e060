"""The trained separator for use from Python."""

import os
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sepclip.errors import UserError
from sepclip.model.inference import BlockSeparator, Channels, InferenceOptions, MaskSource
from sepclip.pretrained.model_cards import DEFAULT
from sepclip.separation.stream import separate_wave
from sepclip.training.hardware import resolve_device, resolve_precision
from sepclip.training.run import Run

Wave = TypeVar("Wave", Tensor, NDArray[Any])
# Integer samples: the value of silence and that of full scale. Integers of other widths have no usual full scale.
_INTEGERS = {"int8": (0, 2**7), "uint8": (2**7, 2**7), "int16": (0, 2**15), "int32": (0, 2**31)}
_READ = "wave, rate_hz = soundfile.read(path, always_2d=True), then separate(wave, rate_hz, channels_last=True)"


class Separator:
    """Separates waves of any rate, length and channel count as ``sepclip separate`` separates files."""

    def __init__(self, separator: BlockSeparator, device: torch.device):
        self._separator, self.device = separator, device

    @classmethod
    def load(
        cls,
        run: str | Path = DEFAULT,
        *,
        device: str = "auto",
        precision: str = "auto",
        masks: MaskSource | None = None,
        channels: Channels = "mid",
        misi: int = 0,
    ) -> "Separator":
        """Load the best weights of a run, or the model of that name; the options are those of ``sepclip separate``.

        Raises UserError if there is no such run or model, if it is damaged, or if the run does not support the options.
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

    def separate(self, wave: Wave, rate_hz: int | None = None, *, channels_last: bool = False) -> Wave:
        """Separate a wave (T,) or (C, T) into waves (S, T) or (S, C, T) of the same rate, length and level.

        With ``channels_last``, a wave is (T, C), as soundfile and scipy read it, and the result is (S, T, C). Floats
        are in [-1, 1]; integers of 8, 16 or 32 bits are scaled to this range. The wave is a numpy array or a tensor,
        and the result is the same kind, in float32. Raises UserError if the wave is a path, has another shape, more
        channels than samples, no samples, or samples that are NaN or infinite, and if there is no valid rate.
        """
        if isinstance(wave, str | bytes | os.PathLike):
            raise UserError(f"{wave!r} is a path, not a wave: {_READ}; or use the command `sepclip separate`")
        rate_hz = _checked_rate(rate_hz)
        samples = _full_scale(wave)
        if samples.dim() not in (1, 2) or 0 in samples.shape:
            raise UserError(f"a wave is (T,), (C, T) or (T, C) with samples, not {tuple(samples.shape)}")
        if not samples.isfinite().all():
            raise UserError("the wave contains NaN or infinite samples")
        # to channels, through the blocks of `sepclip separate`, and back to the shape and kind of the input
        swaps = channels_last and samples.dim() == 2
        channels = (samples.T if swaps else samples).reshape(-1, samples.shape[0 if swaps else -1])  # (C, T)
        if channels.shape[0] > channels.shape[1]:
            raise UserError(
                f"the wave {tuple(samples.shape)} would be {len(channels)} channels of {channels.shape[1]} samples: "
                f"pass channels_last={not channels_last}, or transpose it"
            )
        waves = separate_wave(self._separator, channels.contiguous(), rate_hz, self.device)  # (S, C, T)
        shaped = waves.mT if swaps else waves.reshape(-1, *samples.shape)  # (S, T), (S, C, T) or (S, T, C)
        if isinstance(wave, Tensor):
            return shaped.to(wave.device)
        return shaped.contiguous().numpy()


def _checked_rate(rate_hz: int | None) -> int:
    """Return the rate as an int. Raises UserError if it is not a positive whole number."""
    valid = isinstance(rate_hz, int | float | np.number) and not isinstance(rate_hz, bool)
    if not valid or not rate_hz or not 0 < float(rate_hz) < 2**31 or rate_hz != int(rate_hz):
        raise UserError(f"rate_hz is {rate_hz!r}: pass the sampling rate of the wave in Hz, such as 44100")
    return int(rate_hz)


def _full_scale(wave: object) -> Tensor:
    """Return samples on the CPU in float32, integers scaled to [-1, 1). Raises UserError if they are not numbers."""
    # numpy, because torch cannot take an array with negative strides or of the other byte order
    if isinstance(wave, Tensor):
        floating = wave.detach().cpu()
        values = floating.float().numpy() if floating.is_floating_point() else floating.numpy()
    else:
        try:
            values = np.asarray(wave)
        except ValueError as error:  # lists of different lengths
            raise UserError(f"the wave cannot be converted to an array: {error}") from error
    name = values.dtype.newbyteorder("=").name
    if name in _INTEGERS:
        silence, full_scale = _INTEGERS[name]
        values = (values.astype(np.float64) - silence) / full_scale
    elif values.dtype.kind != "f":
        known = ", ".join(_INTEGERS)
        raise UserError(f"the wave has samples of {name}: pass floats in [-1, 1], or integers of {known}")
    with np.errstate(over="ignore"):  # beyond float32, samples become infinite and are refused
        return torch.from_numpy(np.ascontiguousarray(values, np.float32))
