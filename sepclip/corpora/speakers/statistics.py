"""What the mixtures of a set are like: how long, of whom, how much of the speech overlaps, how far levels are apart."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepclip.corpora.speakers.pauses import HOP_SECONDS
from sepclip.errors import counted
from sepclip.mixing.recipe import Recipe

Activity = Mapping[tuple[str, int], bytes]  # as of a survey


def describe(recipes: Sequence[Recipe], activity: Activity, rate_hz: int) -> dict[str, Any]:
    """Return the statistics of one split, as plain data.

    ``overlap`` is the share of the time in which somebody speaks where two or more do; ``apart_db`` are the levels
    between the loudest and the softest voice, ``snr_db`` the louder voice over the noise; all over all mixtures.
    """
    speaks = overlaps = 0
    for recipe in recipes:
        together = _speaking(recipe, activity, rate_hz)
        speaks += int((together > 0).sum())
        overlaps += int((together > 1).sum())
    levels = [[source.level_db for source in recipe.sources] for recipe in recipes]
    apart = [max(found) - min(found) for found in levels] or [0.0]
    snrs = [recipe.snr_db for recipe in recipes if recipe.snr_db is not None]
    sources = [source for recipe in recipes for source in recipe.sources]
    sexes = Counter(recipe.sexes or "unknown" for recipe in recipes)
    return {
        "mixtures": len(recipes),
        "minutes": round(sum(recipe.length for recipe in recipes) / rate_hz / 60, 2),
        "voices": len({source.voice for source in sources}),
        "utterances": len({(source.path, source.offset) for source in sources}),
        "overlap": round(overlaps / speaks, 4) if speaks else 0.0,
        "apart_db": _spread(apart),
        "snr_db": _spread(snrs) if snrs else None,
        "sexes": dict(sorted(sexes.items())),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    quantiles = {"least": 0.0, "median": 0.5, "most": 1.0}
    return {name: round(float(np.quantile(values, share)), 2) for name, share in quantiles.items()}


def _speaking(recipe: Recipe, activity: Activity, rate_hz: int) -> NDArray[np.int64]:
    """Return how many voices speak in each 10 ms of a mixture (H,)."""
    hops = -(-recipe.length // round(HOP_SECONDS * rate_hz))
    together = np.zeros(hops, np.int64)
    for source in recipe.sources:
        packed = np.frombuffer(activity[source.path, source.offset], np.uint8)
        speaks = np.unpackbits(packed)[:hops]
        together[: len(speaks)] += speaks
    return together


def told(split: str, found: Mapping[str, Any]) -> str:
    """Return the statistics of a split in a line."""
    sexes = found["sexes"]
    parts = [
        f"{found['overlap']:.0%} of the speech overlaps",
        f"levels {_range(found['apart_db'])} apart",
        *([f"noise {_range(found['snr_db'])} below the louder voice"] if found["snr_db"] else []),
        f"{counted(found['utterances'], 'utterance')} of {counted(found['voices'], 'voice')}",
        *(f"{count} {name}" for name, count in sexes.items() if set(sexes) != {"unknown"}),
    ]
    return f"{split}: {', '.join(parts)}"


def _range(spread: Mapping[str, float]) -> str:
    return f"{spread['least']:.1f} to {spread['most']:.1f} dB (median {spread['median']:.1f})"
