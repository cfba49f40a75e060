"""The levels of the sources in a mixture: in recipes, and when voices are mixed again in training."""

import random
from dataclasses import asdict, dataclass
from typing import Any

LEVEL_DBFS = -25.0  # of a source, by the level law of the set, before its share of the relative level


PEAK = 0.9  # no mixture's samples exceed it (as in wsj0-2mix)


RELATIVE_LEVEL_DB = 5.0  # the two voices of wsj0-2mix differ by 0 to 5 dB


@dataclass(frozen=True)
class LevelLaw:
    """How the sources of a set come to level, as ``levels`` in ``set.json``.

    ``by`` is one of :data:`LAWS`, measured over the whole utterance; or ``recipe``: the gains of the recipes, without
    their relative levels. A source of 0 dB comes to ``to_db``, two sources are up to ``apart_db`` apart, and
    with ``peak`` one gain for all brings the loudest sample to it. Noise is as far below the louder voice as in the
    recipe that names it: by the levels there, or for ``recipe`` by the RMS of both files with their gains.
    """

    by: str = "rms"
    to_db: float = LEVEL_DBFS
    apart_db: float = RELATIVE_LEVEL_DB
    peak: float | None = None

    def document(self) -> dict[str, Any]:
        """Return the law as plain data."""
        return asdict(self)


def relative_levels(chance: random.Random, sources: int) -> list[float]:
    """Return the levels in dB: two sources 0 to 5 dB apart, either the louder, and any others between them."""
    half = chance.uniform(0, RELATIVE_LEVEL_DB) / 2
    levels = [half, -half, *[0.0] * (sources - 2)]
    chance.shuffle(levels)
    return levels
