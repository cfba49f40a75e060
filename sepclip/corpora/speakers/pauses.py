"""The pauses of a recording, at which a long one is cut."""

import math

import numpy as np

from sepclip.audio.activity import FLOOR_DB
from sepclip.audio.arrays import Float64

_PAUSE_HOPS = 20  # a cut has the quietest 0.2 s around it


def cut_at_pauses(levels: Float64, least: float, most: float) -> list[int]:
    """Return where to cut a recording of ``levels`` (H,) into pieces of ``least`` to ``most`` hops: 0, ..., H.

    Each cut is the quietest place from half of ``most`` to ``most`` after the one before, with ``least`` or more left
    after it; of places that are equal to a tenth of a dB, the last. ``most`` is at least twice ``least``, so there is
    always one.
    """
    total, reserve = len(levels), math.ceil(least)
    power = np.pad(10 ** (levels / 10), _PAUSE_HOPS // 2, constant_values=10 ** (FLOOR_DB / 10))
    around = np.convolve(power, np.full(_PAUSE_HOPS, 1 / _PAUSE_HOPS), "valid")  # (H + 1,)
    quiet = np.round(10 * np.log10(around), 1)
    cuts = [0]
    while total - cuts[-1] > most:
        first, last = cuts[-1] + math.ceil(most / 2), min(cuts[-1] + math.floor(most), total - reserve)
        places = quiet[first : last + 1]
        cuts.append(last - int(places[::-1].argmin()))
    return [*cuts, total]
