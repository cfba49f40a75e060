"""Short-time Fourier transform with the conventions of the AutoClip paper and its author's code.

Square-root Hann window (periodic) for analysis and synthesis, zeros beyond both ends, and by default the scaling
of ``scipy.signal.stft``: divided by the sum of the window. The scaling matters more than it seems: it sets the size
of the mask-inference loss and its gradients, hence what Adam's epsilon does to them (AutoClip paper, footnote 1).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
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


@dataclass(frozen=True)
class STFT:
    """The transform, fixed by its window and hop in samples.

    ``scale`` is ``"window_sum"`` (divide by the sum of the window, as scipy's "spectrum" scaling does) or ``"none"``
    (as ``torch.stft`` gives it). Inversion is exact when the hop divides the window at least twice.
    """

    window_length: int = 256
    hop_length: int = 64
    scale: Scale = "window_sum"

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
        window = _window(self.window_length, spectrum.device, spectrum.real.dtype)
        if self.scale == "window_sum":
            spectrum = spectrum * window.sum()
        frames = torch.fft.irfft(spectrum, n=self.window_length) * window  # (..., N, W)
        # what torch.istft does, by sums of whole slices, which takes two thirds of its time on a CPU
        weight = self._overlap_add(window.square().expand(frames.shape[-2], -1)).clamp_min(1e-11)  # (T',)
        half = self.window_length // 2
        return (self._overlap_add(frames) / weight)[..., half : half + samples]

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """Sum frames (..., N, W), each a hop after the one before, into (..., T')."""
        hop, count = self.hop_length, frames.shape[-2]
        filled = F.pad(frames, (0, -self.window_length % hop))
        slices = filled.reshape(*frames.shape[:-1], -1, hop).unbind(-2)  # (..., N, hop) each
        added = frames.new_zeros(*frames.shape[:-2], count + len(slices) - 1, hop)
        for index, part in enumerate(slices):
            added[..., index : index + count, :] += part
        return added.flatten(-2)
