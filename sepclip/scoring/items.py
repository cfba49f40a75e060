"""What goes into scoring, a file at a time, and the rows that come out of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sepclip.audio.arrays import FloatWaves
from sepclip.audio.files import BadSound
from sepclip.scoring.table import DEFAULT, ORACLES

if TYPE_CHECKING:  # torch takes a second in every process, and much of what is scored needs none
    from sepclip.audio.stft import STFT

STRETCH = 2**18  # samples of a longer file that the oracles transform at a time


@dataclass
class ScoreRow:
    """The scores of one source of one file by column; None where there is none, and then ``reason`` says why.

    ``status``: ``ok``; ``perfect``, where a score is infinite; ``partial``, where some scores are missing;
    ``excluded``, where all are. ``notes`` say what was done to score it nevertheless.
    """

    name: str
    source: str
    group: str | None = None
    voice: str | None = None
    sexes: str | None = None
    status: str = "ok"
    reason: str | None = None
    notes: list[str] = field(default_factory=list)
    scores: dict[str, float | None] = field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """Return the row as one flat mapping, as ``scores.json`` holds it."""
        told = {key: value for key, value in vars(self).items() if key != "scores"}
        return {**told, **self.scores}

    @classmethod
    def from_flat(cls, flat: dict[str, Any]) -> "ScoreRow":
        """Read what :meth:`flat` made."""
        told = {key: flat[key] for key in cls.__dataclass_fields__ if key != "scores"}
        return cls(**told, scores={key: value for key, value in flat.items() if key not in told})


@dataclass(frozen=True)
class Waves:
    """What one file is scored from: ``est`` and ``ref`` (S, T, C), ``mixture`` (T, C)."""

    rate_hz: int
    est: FloatWaves
    ref: FloatWaves
    mixture: FloatWaves
    notes: tuple[str, ...] = ()
    fixed_order: bool = False  # estimates belong to the references of the same index


@dataclass(frozen=True)
class Item:
    """One file to score: a row for each source, still without scores, and where its waves come from.

    ``load`` returns the waves, or the reason for none; it may raise BadSound. ``here``: in this process (a network),
    not in that which scores. ``values``: samples times sources times channels, for the memory that it takes.
    ``identity`` changes with what is scored. ``fixed_order``: estimates belong to the references of the same index.
    """

    rows: list[ScoreRow]
    load: Callable[[], Waves | str]
    here: bool = False
    values: int = 0
    channels: int = 1
    identity: str = ""
    fixed_order: bool = False

    def waves(self) -> Waves | str:
        """Return the waves, or why there are none."""
        try:
            loaded = self.load()
        except BadSound as error:
            return f"{error.reason} ({error.path})"
        return loaded if isinstance(loaded, str) else replace(loaded, fixed_order=self.fixed_order)


@dataclass(frozen=True)
class ScoringPlan:
    """What is scored, and how; ``stft`` is the transform of the oracles where a run gives one."""

    metrics: tuple[str, ...] = DEFAULT
    oracles: tuple[str, ...] = tuple(ORACLES)
    engine: str = "museval"
    stft: "STFT | None" = None
    improvements: bool = True  # score the mixture too
    in_blocks: bool = False  # by the fast engine whatever comes, for museval would not fit into the memory


def default_frame(rate_hz: int) -> tuple[int, int]:
    """Return window and hop in samples where no run gives a transform: about 32 ms, and a quarter of it."""
    window = 2 ** round(math.log2(0.032 * rate_hz))
    return window, window // 4
