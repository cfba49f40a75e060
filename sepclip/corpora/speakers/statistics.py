"""What the mixtures of a set are like: their length and voices, how much speech overlaps, how far levels are apart."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sepclip.audio.activity import HOP_SECONDS
from sepclip.corpora.speakers.excerpts import Activity
from sepclip.errors import counted
from sepclip.mixing.mixture_set import SplitStatistics, Spread
from sepclip.mixing.recipe import Recipe


def describe(recipes: Sequence[Recipe], activity: Activity, rate_hz: int) -> SplitStatistics:
    """Return the statistics of the mixtures of one split, taken together."""
    speaks = overlaps = 0
    for recipe in recipes:
        voices = _speaking(recipe, activity, rate_hz)
        speaks += int((voices > 0).sum())
        overlaps += int((voices > 1).sum())
    levels = [[source.level_db for source in recipe.sources if not source.absent] for recipe in recipes]
    snrs = [recipe.snr_db for recipe in recipes if recipe.snr_db is not None]
    sources = [source for recipe in recipes for source in recipe.sources if not source.absent]
    sexes = Counter(recipe.sexes or "unknown" for recipe in recipes)
    return {
        "mixtures": len(recipes),
        "minutes": round(sum(recipe.length for recipe in recipes) / rate_hz / 60, 2),
        "voices": len({source.voice for source in sources}),
        "utterances": len({(source.path, source.offset) for source in sources}),
        "overlap": round(overlaps / speaks, 4) if speaks else 0.0,
        "apart_db": _spread([max(values) - min(values) for values in levels] or [0.0]),
        "snr_db": _spread(snrs) if snrs else None,
        "sexes": dict(sorted(sexes.items())),
    }


def _spread(values: Sequence[float]) -> Spread:
    least, median, most = (round(float(np.quantile(values, share)), 2) for share in (0.0, 0.5, 1.0))
    return {"least": least, "median": median, "most": most}


def _speaking(recipe: Recipe, activity: Activity, rate_hz: int) -> NDArray[np.int64]:
    """Return how many voices speak in each 10 ms of a mixture (H,)."""
    hop = round(HOP_SECONDS * rate_hz)
    hops = -(-recipe.length // hop)
    voices = np.zeros(hops, np.int64)
    for source in recipe.sources:
        if source.absent:
            continue
        packed = np.frombuffer(activity[source.path, source.offset], np.uint8)
        start, skip, count = (n // hop for n in source.turn) if source.turn else (0, 0, hops)
        speaks = np.unpackbits(packed)[skip : skip + max(count, 1)][: hops - start]
        voices[start : start + len(speaks)] += speaks
    return voices


def statistics_line(split: str, statistics: SplitStatistics) -> str:
    """Return the statistics of a split as a line."""
    sexes, snr_db = statistics["sexes"], statistics["snr_db"]
    parts = [
        f"{statistics['overlap']:.0%} of the speech overlaps",
        f"levels {_in_words(statistics['apart_db'])} apart",
        *([f"noise {_in_words(snr_db)} below the louder voice"] if snr_db else []),
        f"{counted(statistics['utterances'], 'utterance')} of {counted(statistics['voices'], 'voice')}",
        *(f"{count} {name}" for name, count in sexes.items() if set(sexes) != {"unknown"}),
    ]
    return f"{split}: {', '.join(parts)}"


def _in_words(spread: Spread) -> str:
    return f"{spread['least']:.1f} to {spread['most']:.1f} dB (median {spread['median']:.1f})"
