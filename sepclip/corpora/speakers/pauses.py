"""The pauses of a recording: where to cut a long one, and where somebody speaks."""

import math

import numpy as np
from numpy.typing import NDArray

from sepclip.audio.arrays import Float64

HOP_SECONDS = 0.01
_PAUSE_HOPS = 20  # a cut has the quietest 0.2 s around it
_FLOOR_DB = -120.0
_ACTIVE_DB = 40.0  # below the loudest hop; softer hops are not speech (like the bins left out of deep clustering)


def hop_levels(wave: NDArray[np.floating], rate_hz: int) -> Float64:
    """Return the RMS of each 10 ms of ``wave`` (T,) in dB relative to full scale: (H,); the last one may be shorter."""
    hop = hop_samples(rate_hz)
    starts = np.arange(0, len(wave), hop)
    energy = np.add.reduceat(np.square(wave, dtype=np.float64), starts) if len(wave) else np.zeros(0)
    power = energy / np.minimum(hop, len(wave) - starts)
    return 10 * np.log10(np.maximum(power, 10 ** (_FLOOR_DB / 10)))


def hop_samples(rate_hz: int) -> int:
    """Return the samples of a hop."""
    return max(1, round(HOP_SECONDS * rate_hz))


def cut_at_pauses(levels: Float64, least: float, most: float) -> list[int]:
    """Return where to cut a recording of ``levels`` (H,) into pieces of ``least`` to ``most`` hops: 0, ..., H.

    Each cut is the quietest place from half of ``most`` to ``most`` after the one before, with ``least`` or more left
    after it; of places that are equal to a tenth of a dB, the last. ``most`` is at least twice ``least``, so there is
    always one.
    """
    total, reserve = len(levels), math.ceil(least)
    power = np.pad(10 ** (levels / 10), _PAUSE_HOPS // 2, constant_values=10 ** (_FLOOR_DB / 10))
    around = np.convolve(power, np.full(_PAUSE_HOPS, 1 / _PAUSE_HOPS), "valid")  # (H + 1,)
    quiet = np.round(10 * np.log10(around), 1)
    cuts = [0]
    while total - cuts[-1] > most:
        first, last = cuts[-1] + math.ceil(most / 2), min(cuts[-1] + math.floor(most), total - reserve)
        places = quiet[first : last + 1]
        cuts.append(last - int(places[::-1].argmin()))
    return [*cuts, total]


def is_active(levels: Float64) -> NDArray[np.bool_]:
    """Tell for each hop (H,) whether somebody speaks: it is within 40 dB of the loudest."""
    active: NDArray[np.bool_] = levels > max(levels.max(initial=_FLOOR_DB) - _ACTIVE_DB, _FLOOR_DB)
    return active
