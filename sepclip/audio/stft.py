"""Short-time Fourier transform with the conventions of the AutoClip paper and its author's code.

Square-root Hann window (periodic) for analysis and synthesis, zeros beyond both ends, and by default the scaling
of ``scipy.signal.stft``: divided by the sum of the window. The scaling matters more than it seems: it sets the size
of the mask-inference loss and its gradients, hence what Adam's epsilon does to them (AutoClip paper, footnote 1).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Scale = Literal["window_sum", "none"]


@lru_cache(maxsize=16)
def _window(length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # it is kept, and may be needed by a backward pass later
        return torch.hann_window(length, periodic=True, device=device, dtype=dtype).sqrt()


def _is_fast(length: int) -> bool:
    for prime in (2, 3, 5):
        while length % prime == 0:
            length //= prime
    return length == 1


def power(spectrum: Tensor) -> Tensor:
    """Return the squared magnitudes of a complex ``spectrum``."""
    return spectrum.real.square() + spectrum.imag.square()


def magnitude(spectrum: Tensor) -> Tensor:
    """Return the magnitudes of a complex ``spectrum``, less than half as long as ``abs`` takes.

    That guards against overflow and underflow of the squares; no bin of audio is that loud, and those below 1e-19 are
    silence to all that use this.
    """
    return power(spectrum).sqrt()


def _added_up(frames: Tensor, hop: int) -> Tensor:
    """Add up frames (..., N, W), each ``hop`` samples after the one before: (..., (N - 1 + R) hop), R hops a window."""
    *lead, count, length = frames.shape
    hops = -(-length // hop)
    parts = F.pad(frames, (0, hops * hop - length)).reshape(*lead, count, hops, hop)  # (..., N, R, hop)
    wave = frames.new_zeros(*lead, count + hops - 1, hop)
    for part in range(hops):
        wave[..., part : part + count, :] += parts[..., part, :]
    return wave.flatten(-2)


class _Inverse(Function):
    """The inverse of spectra (..., N, F) as waves as long as ``envelope``, with the gradient in one transform.

    ``window`` (W,) is that of the synthesis, ``envelope`` (T,) what the windows of all frames add up to, from the
    first sample on, which is the middle of the first frame.
    """

    @staticmethod
    def forward(ctx: Any, spectrum: Tensor, window: Tensor, envelope: Tensor, hop: int) -> Tensor:
        length = len(window)
        pieces = torch.fft.irfft(spectrum, length).mul_(window)  # (..., N, W)
        ctx.save_for_backward(window, envelope)
        ctx.hop, ctx.frames = hop, spectrum.shape[-2]
        return _added_up(pieces, hop)[..., length // 2 : length // 2 + len(envelope)] / envelope

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        window, envelope = ctx.saved_tensors
        length, half = len(window), len(window) // 2
        whole = (ctx.frames - 1) * ctx.hop + length
        filled = F.pad(gradients[0] / envelope, (half, whole - half - len(envelope)))
        # every bin but the first and, of an even window, the last stands for two of the full transform
        bins = torch.fft.rfft(filled.unfold(-1, length, ctx.hop) * (window * (2 / length)))  # (..., N, F)
        bins[..., 0] *= 0.5
        if length % 2 == 0:
            bins[..., -1] *= 0.5
        return bins, None, None, None


@dataclass(frozen=True)
class STFT:
    """The transform, fixed by its window and hop in samples.

    ``scale`` is ``"window_sum"`` (divide by the sum of the window, as scipy's "spectrum" scaling does) or ``"none"``
    (as ``torch.stft`` gives it). Inversion is exact when the hop divides the window at least twice.
    """

    window_length: int = 256
    hop_length: int = 64
    scale: Scale = "window_sum"

    def __post_init__(self) -> None:
        if not 0 < self.hop_length < self.window_length:
            raise ValueError(f"a hop of {self.hop_length} samples loses some between windows of {self.window_length}")

    @classmethod
    def of_seconds(cls, window: float, hop: float, rate_hz: int, scale: Scale = "window_sum") -> "STFT":
        """Return the transform nearest to so many seconds of window and hop: 256 and 64 for 32 and 8 ms at 8 kHz.

        The hop is a product of 2, 3 and 5 alone, which transforms are fast at, and the window a multiple of it.
        """
        near = hop * rate_hz
        length = min((n for n in range(1, 2 * round(near) + 2) if _is_fast(n)), key=lambda n: abs(n - near))
        return cls(length * round(window / hop), length, scale)

    @property
    def bins(self) -> int:
        """Number of frequency bins F."""
        return self.window_length // 2 + 1

    def frames(self, samples: int) -> int:
        """Return the number of frames N of a wave of ``samples`` samples: the last hop is filled with zeros."""
        return -(-samples // self.hop_length) + 1

    def samples(self, frames: int) -> int:
        """Return the longest wave that gives ``frames`` frames (400 frames at hop 64: 25,536 samples)."""
        return (frames - 1) * self.hop_length

    def forward(self, wave: Tensor) -> Tensor:
        """Transform ``wave`` (..., T), real, into a complex spectrogram (..., N, F)."""
        window = _window(self.window_length, wave.device, wave.dtype)
        if self.scale == "window_sum":
            window = window / window.sum()
        half = self.window_length // 2
        filled = F.pad(wave, (half, half + -wave.shape[-1] % self.hop_length))  # (..., T')
        frames = filled.unfold(-1, self.window_length, self.hop_length)  # (..., N, W)
        # what torch.stft does but for its transposition to (..., F, N), which would make all that follows slow
        spectrum: Tensor = torch.fft.rfft(frames * window)  # (..., N, F)
        return spectrum

    def inverse(self, spectrum: Tensor, samples: int) -> Tensor:
        """Turn ``spectrum`` (..., N, F) back into a wave (..., T) of ``samples`` samples."""
        frames, half = spectrum.shape[-2], self.window_length // 2
        window = _window(self.window_length, spectrum.device, spectrum.real.dtype)
        scaled = window * window.sum() if self.scale == "window_sum" else window
        known = slice(half, half + min(samples, self.samples(frames)))
        envelope = _added_up(window.square().expand(frames, -1), self.hop_length)[known]
        wave: Tensor = _Inverse.apply(spectrum, scaled, envelope, self.hop_length)  # type: ignore[no-untyped-call]
        return F.pad(wave, (0, samples - wave.shape[-1]))  # (..., T)
