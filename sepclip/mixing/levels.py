"""The levels of the sources in a mixture: in recipes, and when voices are mixed dynamically in training."""

import random
from dataclasses import asdict, dataclass
from typing import TypedDict, cast

LEVEL_DBFS = -25.0  # of a source, by the level law of the set, before its relative level is added
PEAK = 0.9  # no sample of a mixture exceeds it (as in wsj0-2mix)
RELATIVE_LEVEL_DB = 5.0  # the two voices of wsj0-2mix differ by 0 to 5 dB


class LevelFields(TypedDict, total=False):
    """A :class:`LevelLaw` as plain data; a key that is missing has the default of the class."""

    by: str
    to_db: float
    apart_db: float
    peak: float | None


@dataclass(frozen=True)
class LevelLaw:
    """How the sources of a set are brought to level: the entry ``levels`` of ``set.json``.

    ``by`` is one of :data:`sepclip.audio.loudness.LAWS`, measured over the whole utterance, or ``recipe``: the gains
    of the recipes, without their relative levels. A source of 0 dB comes to ``to_db``, and two sources are up to
    ``apart_db`` apart. With a ``peak``, one gain for all brings the loudest sample to it. Noise is as far below the
    louder voice as in the recipe that names it: by the levels there or, for ``recipe``, by the RMS of both files with
    their gains.
    """

    by: str = "rms"
    to_db: float = LEVEL_DBFS
    apart_db: float = RELATIVE_LEVEL_DB
    peak: float | None = None

    def document(self) -> LevelFields:
        """Return the law as plain data."""
        return cast(LevelFields, asdict(self))


def relative_levels(chance: random.Random, sources: int) -> list[float]:
    """Draw levels in dB: two sources are 0 to 5 dB apart, either one the louder, and any others are between them."""
    half = chance.uniform(0, RELATIVE_LEVEL_DB) / 2
    levels = [half, -half, *[0.0] * (sources - 2)]
    chance.shuffle(levels)
    return levels
