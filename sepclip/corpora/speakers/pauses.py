"""The pieces of a recording of any length, which is cut at its pauses."""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from sepclip.audio.activity import FLOOR_DB, hop_levels, hop_samples
from sepclip.audio.arrays import Float32, Float64

_PAUSE_HOPS = 20  # a cut has the quietest 0.2 s around it


def first_cut(levels: Float64, least: float, most: float) -> int:
    """Return where to cut a recording of ``levels`` (H,), longer than ``most`` hops.

    It is the quietest place from half of ``most`` to ``most``, with ``least`` or more left after it; of places that are
    equal to a tenth of a dB, the last. ``most`` is at least twice ``least``, so there is always one.
    """
    power = np.pad(10 ** (levels / 10), _PAUSE_HOPS // 2, constant_values=10 ** (FLOOR_DB / 10))
    around = np.convolve(power, np.full(_PAUSE_HOPS, 1 / _PAUSE_HOPS), "valid")  # (H + 1,)
    quiet = np.round(10 * np.log10(around), 1)
    first, last = math.ceil(most / 2), min(math.floor(most), len(levels) - math.ceil(least))
    places = quiet[first : last + 1]
    return last - int(places[::-1].argmin())


def cut_at_pauses(
    blocks: Iterable[Float32], rate_hz: int, min_seconds: float, max_seconds: float
) -> Iterator[tuple[Float32, Float64]]:
    """Yield the pieces of a recording that comes in ``blocks`` (n,), each with the levels of its hops.

    All but the last are whole hops. Memory does not grow with the length of the recording.
    """
    hop = hop_samples(rate_hz)
    least, most = min_seconds * rate_hz / hop, max_seconds * rate_hz / hop  # in hops
    # a cut depends on nothing after this: the longest piece, and what is left after it or averaged around it
    enough = (math.floor(most) + max(math.ceil(least), _PAUSE_HOPS) + 1) * hop
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block]) if rest.size else block
        while len(rest) >= enough:
            levels = hop_levels(rest[:enough], rate_hz)
            cut = first_cut(levels, least, most)
            yield rest[: cut * hop], levels[:cut]
            rest = rest[cut * hop :]
    # the end of the recording
    while len(levels := hop_levels(rest, rate_hz)) > most:
        cut = first_cut(levels, least, most)
        yield rest[: cut * hop], levels[:cut]
        rest = rest[cut * hop :]
    yield rest, levels
