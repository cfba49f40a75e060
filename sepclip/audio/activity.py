"""When somebody speaks: the levels of a recording in hops of 10 ms, and which of them are speech."""

import numpy as np
from numpy.typing import NDArray

from sepclip.audio.arrays import Float64

HOP_SECONDS = 0.01
FLOOR_DB = -120.0
_ACTIVE_DB = 40.0  # below the loudest hop; softer hops are not speech (like the bins left out of deep clustering)


def hop_levels(wave: NDArray[np.floating], rate_hz: int) -> Float64:
    """Return the RMS of each 10 ms of ``wave`` (T,) in dB relative to full scale: (H,); the last one may be shorter."""
    hop = hop_samples(rate_hz)
    starts = np.arange(0, len(wave), hop)
    energy = np.add.reduceat(np.square(wave, dtype=np.float64), starts) if len(wave) else np.zeros(0)
    power = energy / np.minimum(hop, len(wave) - starts)
    return 10 * np.log10(np.maximum(power, 10 ** (FLOOR_DB / 10)))


def hop_samples(rate_hz: int) -> int:
    """Return the samples of a hop."""
    return max(1, round(HOP_SECONDS * rate_hz))


def is_active(levels: Float64) -> NDArray[np.bool_]:
    """Tell for each hop (H,) whether somebody speaks: it is within 40 dB of the loudest."""
    active: NDArray[np.bool_] = levels > max(levels.max(initial=FLOOR_DB) - _ACTIVE_DB, FLOOR_DB)
    return active


def active_seconds(packed: bytes, begin: int, end: int, rate_hz: int) -> float:
    """Return for how long somebody speaks between two samples, by the activity of hops as packed bits."""
    hop = hop_samples(rate_hz)
    active = np.unpackbits(np.frombuffer(packed, np.uint8))
    return float(active[begin // hop : -(-end // hop)].sum()) * HOP_SECONDS


def agreement(first: bytes, second: bytes) -> float:
    """Return the share of the time in which two recordings are both active or both not, by hops as packed bits."""
    length = min(len(first), len(second))
    different = np.unpackbits(np.bitwise_xor(*(np.frombuffer(bits[:length], np.uint8) for bits in (first, second))))
    return 1.0 - float(different.mean()) if length else 0.0
