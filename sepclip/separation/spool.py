"""Temporary storage for separated waves of any length: in memory, or on disk if they are long."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_IN_MEMORY = 8 << 20  # bytes


class Spool:
    """Stores waves (S, C, n) piece by piece, and returns those of each source as often as they are needed.

    Waves that do not fit into memory are stored in an unnamed file in ``folder``, which disappears with the process.
    Peaks and factors that are known only after the last piece can thus be applied to the first sample of a result.
    """

    def __init__(self, folder: Path, sources: int, channels: int):
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=str(folder))  # noqa: SIM115
        self._shape = (sources, channels)
        self._lengths: list[int] = []
        self.peaks = torch.zeros(sources, channels)  # of the absolute values
        self.factors = torch.ones(sources, channels)

    def add(self, waves: Tensor) -> None:
        """Append waves (S, C, n)."""
        if not waves.shape[-1]:
            return
        self.peaks = torch.maximum(self.peaks, waves.abs().amax(-1))
        self._file.seek(0, os.SEEK_END)
        self._file.write(waves.contiguous().numpy().tobytes())
        self._lengths.append(waves.shape[-1])

    @property
    def samples(self) -> int:
        """The number of samples T stored so far."""
        return sum(self._lengths)

    @property
    def peak(self) -> float:
        """The largest absolute value of all waves, after multiplication by their factors."""
        return float((self.peaks * self.factors.abs()).max())

    def pieces(self, source: int) -> Iterator[NDArray[np.float32]]:
        """Yield the wave of a source in pieces (C, n), multiplied by its factors."""
        # on disk, a piece is followed by the next one, and in a piece, the sources follow one another
        sources, channels = self._shape
        begin = 0
        factors = self.factors[source].numpy()[:, None]  # (C, 1)
        for length in self._lengths:
            values = channels * length
            self._file.seek(4 * (begin + source * values))
            piece = np.frombuffer(self._file.read(4 * values), np.float32).reshape(channels, length)
            yield piece * factors
            begin += sources * values

    def close(self) -> None:
        """Free the memory or the disk space."""
        self._file.close()
