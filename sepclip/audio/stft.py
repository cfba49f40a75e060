"""The short-time Fourier transform with the conventions of the AutoClip paper and its authors' code.

Square-root Hann window (periodic) for analysis and synthesis, zeros beyond both ends, and by default the scaling of
``scipy.signal.stft``: divided by the sum of the window. The scaling matters: it sets the size of the mask-inference
loss and its gradients, and so the effect of Adam's epsilon on them (AutoClip paper, footnote 1).
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
    # the window is cached: made in inference mode, it could not take part in a later backward pass
    with torch.inference_mode(False):
        return torch.hann_window(length, periodic=True, device=device, dtype=dtype).sqrt()


def _is_fast(length: int) -> bool:
    """Return whether ``length`` has no prime factors but 2, 3 and 5, as fast transforms need."""
    for prime in (2, 3, 5):
        while length % prime == 0:
            length //= prime
    return length == 1


def power(spectrum: Tensor) -> Tensor:
    """Return the squared magnitudes of a complex ``spectrum``."""
    return spectrum.real.square() + spectrum.imag.square()


def magnitude(spectrum: Tensor) -> Tensor:
    """Return the magnitudes of a complex ``spectrum``, in less than half of the time that ``abs`` takes.

    ``abs`` guards against overflow and underflow of the squares. No bin of audio is that loud, and every caller treats
    bins below 1e-19 as silence.
    """
    return power(spectrum).sqrt()


def _overlap_add(frames: Tensor, hop: int) -> Tensor:
    """Return the sum (..., (N - 1 + R) hop) of frames (..., N, W) that start ``hop`` samples apart, R hops a window."""
    *lead, count, length = frames.shape
    hops = -(-length // hop)
    # cut each frame into R hops and add the same hop of all frames at once: R additions instead of N
    parts = F.pad(frames, (0, hops * hop - length)).reshape(*lead, count, hops, hop)  # (..., N, R, hop)
    wave = frames.new_zeros(*lead, count + hops - 1, hop)  # (..., N - 1 + R, hop)
    for part in range(hops):
        wave[..., part : part + count, :] += parts[..., part, :]
    return wave.flatten(-2)


class _Inverse(Function):
    """The inverse transform of spectra (..., N, F) to waves (..., T), whose gradient takes one forward transform.

    ``window`` (W,) is the synthesis window, ``envelope`` (T,) the sum of the squared windows of all frames. The first
    sample of both is the middle of the first frame.
    """

    @staticmethod
    def forward(ctx: Any, spectrum: Tensor, window: Tensor, envelope: Tensor, hop: int) -> Tensor:
        length = len(window)
        pieces = torch.fft.irfft(spectrum, length).mul_(window)  # (..., N, W)
        ctx.save_for_backward(window, envelope)
        ctx.hop, ctx.frames = hop, spectrum.shape[-2]
        # keep the samples between the middle of the first and the last frame, and undo the windows
        return _overlap_add(pieces, hop)[..., length // 2 : length // 2 + len(envelope)] / envelope

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        window, envelope = ctx.saved_tensors
        length, half = len(window), len(window) // 2
        span = (ctx.frames - 1) * ctx.hop + length
        padded = F.pad(gradients[0] / envelope, (half, span - half - len(envelope)))  # (..., T')
        # The adjoint of irfft is rfft up to weights: 2 / W for bins that represent two of the full transform, and 1 / W
        # for the first bin and, with an even window, the last.
        bins = torch.fft.rfft(padded.unfold(-1, length, ctx.hop) * (window * (2 / length)))  # (..., N, F)
        bins[..., 0] *= 0.5
        if length % 2 == 0:
            bins[..., -1] *= 0.5
        return bins, None, None, None


@dataclass(frozen=True)
class STFT:
    """The transform with a window and a hop in samples.

    ``scale`` is ``"window_sum"`` (divided by the sum of the window, scipy's "spectrum" scaling) or ``"none"`` (as in
    ``torch.stft``). The inverse is exact if the hop divides the window at least twice.
    """

    window_length: int = 256
    hop_length: int = 64
    scale: Scale = "window_sum"

    def __post_init__(self) -> None:
        if not 0 < self.hop_length < self.window_length:
            raise ValueError(f"a hop of {self.hop_length} samples: it must be from 1 to {self.window_length - 1}")

    @classmethod
    def of_seconds(cls, window: float, hop: float, rate_hz: int, scale: Scale = "window_sum") -> "STFT":
        """Return the transform whose window and hop are nearest to these seconds: 256 and 64 for 32 and 8 ms at 8 kHz.

        The hop has no prime factors but 2, 3 and 5, for fast transforms, and the window is a multiple of the hop.
        """
        target = hop * rate_hz
        samples = min((n for n in range(1, 2 * round(target) + 2) if _is_fast(n)), key=lambda n: abs(n - target))
        return cls(samples * round(window / hop), samples, scale)

    @property
    def bins(self) -> int:
        """Number of frequency bins F."""
        return self.window_length // 2 + 1

    def frames(self, samples: int) -> int:
        """Return the number of frames N of a wave of ``samples`` samples, whose last hop is padded with zeros."""
        return -(-samples // self.hop_length) + 1

    def samples(self, frames: int) -> int:
        """Return the longest wave that gives ``frames`` frames (400 frames at hop 64: 25,536 samples)."""
        return (frames - 1) * self.hop_length

    def forward(self, wave: Tensor) -> Tensor:
        """Return the complex spectrogram (..., N, F) of a real ``wave`` (..., T)."""
        window = _window(self.window_length, wave.device, wave.dtype)
        if self.scale == "window_sum":
            window = window / window.sum()
        half = self.window_length // 2
        padded = F.pad(wave, (half, half + -wave.shape[-1] % self.hop_length))  # (..., T')
        frames = padded.unfold(-1, self.window_length, self.hop_length)  # (..., N, W)
        # as torch.stft, but without its transposition to (..., F, N), which makes everything downstream slow
        spectrum: Tensor = torch.fft.rfft(frames * window)  # (..., N, F)
        return spectrum

    def inverse(self, spectrum: Tensor, samples: int) -> Tensor:
        """Return the wave (..., T) of ``samples`` samples that has the ``spectrum`` (..., N, F)."""
        frames, half = spectrum.shape[-2], self.window_length // 2
        window = _window(self.window_length, spectrum.device, spectrum.real.dtype)
        scaled = window * window.sum() if self.scale == "window_sum" else window
        # beyond the last frame nothing is known, and the wave is padded with zeros
        known = slice(half, half + min(samples, self.samples(frames)))
        envelope = _overlap_add(window.square().expand(frames, -1), self.hop_length)[known]  # (T,)
        wave: Tensor = _Inverse.apply(spectrum, scaled, envelope, self.hop_length)  # type: ignore[no-untyped-call]
        return F.pad(wave, (0, samples - wave.shape[-1]))  # (..., T)
