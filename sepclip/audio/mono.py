"""Sound files of any length as one channel at another rate, in blocks, so that memory does not grow with the length."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sepclip.audio.arrays import Float32
from sepclip.audio.channels import ChannelMeter, mono_at_rate, one_channel
from sepclip.audio.files import read_header, stream_sound

# samples of all channels: in a block, and in the longest file that is kept in memory, and so resampled in one piece
_BLOCK_VALUES, _WHOLE_VALUES = 1 << 20, 1 << 22
_LOSSLESS = ("PCM", "FLOAT", "DOUBLE", "ALAC")  # subtypes of libsndfile; that of FLAC is PCM_16 or PCM_24


class MonoSound:
    """A sound file as one channel: the mean of its channels, or one of them if they cancel, without an offset.

    The file is read once to measure it, and again in each method unless it is short. Raises BadSound, while it
    is measured, if it cannot be read or contains NaN or infinite samples.
    """

    def __init__(self, path: Path):
        header = read_header(path)
        self._path, self.rate_hz, self.channels = path, header.rate_hz, header.channels
        self.header_fault = header.header_fault  # as in Header
        self.is_lossless = header.subtype.startswith(_LOSSLESS)
        self._whole: Float32 | None = None  # all samples, if they are few
        meter, kept = ChannelMeter(header.channels, header.rate_hz), list[Float32]()
        self._digest = hashlib.sha256()  # of the first channel
        for block in self._blocks():
            meter.add(block)
            self._digest.update(block[0].tobytes())
            if self.channels * meter.samples <= _WHOLE_VALUES:
                kept.append(block)
            else:
                kept.clear()
        if self.channels * meter.samples <= _WHOLE_VALUES:
            self._whole = np.concatenate(kept, 1) if len(kept) != 1 else kept[0]
        self.samples, self.channel, self.dc = meter.samples, meter.channel, meter.dc

    def _blocks(self) -> Iterator[Float32]:
        """Yield the samples in blocks (C, n)."""
        if self._whole is not None:
            yield self._whole
            return
        for block in stream_sound(self._path, max(1, _BLOCK_VALUES // self.channels)):
            yield np.ascontiguousarray(block)

    def at_rate(self, rate_hz: int) -> Iterator[Float32]:
        """Yield the one channel, resampled to ``rate_hz``, in pieces (n,). Raises UserError if the rates do not fit."""
        if self._whole is not None:
            yield mono_at_rate(self._whole, self.rate_hz, rate_hz, self.channel, self.dc)
            return
        mono = (one_channel(block, self.channel, self.dc) for block in self._blocks())
        if rate_hz == self.rate_hz:
            yield from mono
            return
        import torch  # takes a second, and a corpus with the right rate does not need it

        from sepclip.audio.resample import resample_stream

        for piece in resample_stream(map(torch.from_numpy, mono), self.rate_hz, rate_hz):
            yield piece.numpy()

    def digest(self) -> str:
        """Return the SHA-256 of the samples (C, T), one channel after the other."""
        digest = self._digest.copy()
        for channel in range(1, self.channels):
            for block in self._blocks():
                digest.update(block[channel].tobytes())
        return digest.hexdigest()

    def corrections(self) -> str | None:
        """Return in words what else than the mean of the channels makes the one channel, or None."""
        parts = []
        if self.channel is not None:
            parts.append(f"its channels cancel: channel {self.channel + 1} of {self.channels} is used")
        if self.dc is not None:
            parts.append(f"a constant offset of {self.dc:.3g} of full scale is removed")
        return "; ".join(parts) or None
