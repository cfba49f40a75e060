"""Recordings: streams of samples that can be read more than once, from a file or from memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from sepclip.audio.files import Header, stream_sound

_CHUNK_VALUES = 1 << 20  # samples of all channels in a chunk: 4 MB


class Recording(Protocol):
    """A sound of ``channels`` at ``rate_hz``."""

    @property
    def rate_hz(self) -> int:
        """The sampling rate."""

    @property
    def channels(self) -> int:
        """The number of channels."""

    def chunks(self) -> Iterator[Tensor]:
        """Yield the samples from the beginning, in pieces (C, n)."""


@dataclass(frozen=True)
class FileRecording:
    """A sound file, read piece by piece, as far as it can be read: its header says what is known to be missing."""

    path: Path
    header: Header

    @property
    def rate_hz(self) -> int:
        """The sampling rate."""
        return self.header.rate_hz

    @property
    def channels(self) -> int:
        """The number of channels."""
        return self.header.channels

    def chunks(self) -> Iterator[Tensor]:
        """Yield the samples in pieces (C, n). Raises BadSound at a piece that cannot be used."""
        for samples in stream_sound(self.path, max(1, _CHUNK_VALUES // self.channels), whole=False):
            yield torch.from_numpy(samples)


@dataclass(frozen=True)
class WaveRecording:
    """A wave (C, T) in memory."""

    wave: Tensor
    rate_hz: int

    @property
    def channels(self) -> int:
        """The number of channels."""
        return len(self.wave)

    def chunks(self) -> Iterator[Tensor]:
        """Yield the samples in pieces (C, n)."""
        length = max(1, _CHUNK_VALUES // self.channels)
        for begin in range(0, self.wave.shape[-1], length):
            yield self.wave[:, begin : begin + length]
