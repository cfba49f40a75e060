"""From the channels of a sound to one: their mean, or one channel if the others cancel it, without a constant offset.

``prepare`` and ``separate`` decide by the same :class:`ChannelMeter`. Recordings whose channels cancel (left = -right,
from a swapped plug or a balanced line) have a mean that is silent, or contains only what differs between the channels:
noise, or the errors of a codec. An offset (DC) is not heard, but counts as level.
"""

import numpy as np

from sepclip.audio.arrays import AnyArray, Float32, Float64

# The power of the mean of C unrelated channels is 1 / C of theirs. Below a quarter of that, channels cancel: a
# correlation of -0.75 in stereo, or noise more than 6 dB below what cancels.
_CANCEL = 0.25
_CANCELLED_SHARE = 0.1  # of the energy, in windows that cancel, above which one channel is taken
_WINDOW_SECONDS = 1.0
_LOUDER = 2.0  # power of another channel over that of the first for which it is taken instead
# An offset is removed if it is above 3 % of full scale, or has more than half of the power of the rest. A smaller one
# changes a level by less than 1.8 dB, and is left in, as by all other tools.
_OFFSET, _OFFSET_SHARE = 0.03, 0.5
_LEAST_POWER = 1e-12  # of an offset, a hundredth of a step of 16 bits


class ChannelMeter:
    """Measures a sound of several channels, given piece by piece, and says how to make one channel of it."""

    def __init__(self, channels: int, rate_hz: int):
        self.samples = 0
        self._window = max(1, round(_WINDOW_SECONDS * rate_hz))
        self._rest = np.zeros((channels, 0), np.float32)  # of a window that is not complete yet
        self._sums, self._squares = np.zeros(1 + channels), np.zeros(1 + channels)  # of the mean, then each channel
        self._powers, self._cancelled = np.zeros(channels), 0.0  # of all windows; of those that cancel

    def add(self, samples: AnyArray) -> None:
        """Measure the next ``samples`` (C, n)."""
        self.samples += samples.shape[1]
        pieces = np.concatenate([self._rest, samples], 1) if self._rest.size else samples
        whole = pieces.shape[1] // self._window * self._window
        for start in range(0, whole, self._window):
            self._add_window(pieces[:, start : start + self._window].astype(np.float64))
        self._rest = pieces[:, whole:].astype(np.float32)

    def _add_window(self, window: Float64) -> None:
        waves = np.concatenate([window.mean(0, keepdims=True), window])  # (1 + C, n)
        self._sums += waves.sum(1)
        self._squares += np.square(waves).sum(1)
        # the variance, because an offset does not tell whether the sound cancels
        mean_power, *powers = waves.var(1) * window.shape[1]
        self._powers += powers
        if len(powers) * mean_power < _CANCEL * np.mean(powers):
            self._cancelled += float(np.sum(powers))

    def _finish(self) -> None:
        if self._rest.size:
            self._add_window(self._rest.astype(np.float64))
            self._rest = self._rest[:, :0]

    @property
    def channel(self) -> int | None:
        """The channel to take (from 0) because the channels cancel in their mean, or None to take the mean.

        It is the first, unless another one is more than 3 dB louder.
        """
        self._finish()
        if self._cancelled <= _CANCELLED_SHARE * self._powers.sum():
            return None
        loudest = int(self._powers.argmax())
        return loudest if self._powers[loudest] > _LOUDER * self._powers[0] else 0

    @property
    def offsets(self) -> Float64:
        """The constant offsets (1 + C,) of the mean of the channels and of each; 0 if less than half of the power."""
        means, powers = self._means_and_powers()
        offsets: Float64 = np.where(means**2 > np.maximum(_OFFSET_SHARE * powers, _LEAST_POWER), means, 0.0)
        return offsets

    @property
    def dc(self) -> float | None:
        """The constant offset to remove from the one channel of a recording, or None if it is too small to matter."""
        row = 0 if self.channel is None else 1 + self.channel
        mean = float(self._means_and_powers()[0][row])
        return mean if abs(mean) > _OFFSET else float(self.offsets[row]) or None

    def _means_and_powers(self) -> tuple[Float64, Float64]:
        """Return the means (1 + C,) and the powers without them."""
        self._finish()
        means = self._sums / max(self.samples, 1)
        return means, self._squares / max(self.samples, 1) - means**2


def one_channel(samples: Float32, channel: int | None = None, dc: float | None = None) -> Float32:
    """Return the mean of the channels of ``samples`` (C, T), or one ``channel``, without the offset ``dc``: (T,)."""
    mono: Float32 = samples.mean(0) if channel is None else samples[channel]
    return mono if dc is None else mono - np.float32(dc)


def mono_at_rate(
    samples: Float32, from_hz: int, to_hz: int, channel: int | None = None, dc: float | None = None
) -> Float32:
    """Return ``samples`` (C, T) as :func:`one_channel` makes one of them, resampled to ``to_hz``: (T',)."""
    mono = one_channel(samples, channel, dc)
    if from_hz == to_hz:
        return mono
    import torch  # takes a second, and a corpus with the right rate does not need it

    from sepclip.audio.resample import resample

    return resample(torch.from_numpy(mono), from_hz, to_hz).numpy()
