"""The input of scoring, one file at a time, and the rows of scores that come out."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sepclip.audio.arrays import FloatWaves
from sepclip.audio.files import BadSound
from sepclip.scoring.table import DEFAULT_METRICS, ORACLES

if TYPE_CHECKING:  # importing torch takes a second in every process, and most scores do not need it
    from sepclip.audio.stft import STFT

STRETCH = 2**18  # samples of a longer file that the oracles transform at a time
FlatRow = dict[str, Any]  # a ScoreRow in JSON: its fields but ``scores``, then every column of ``scores``


@dataclass
class ScoreRow:
    """The scores of one source of one file, by column; None if there is no score, and then ``reason`` says why.

    ``status``: ``ok``; ``perfect`` if a distortion ratio is infinite; ``partial`` if some scores are missing;
    ``excluded`` if all are. ``notes`` say what had to be done to score the source.
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

    def flat(self) -> FlatRow:
        """Return the row as one flat mapping, as it is in ``scores.json``."""
        fields = {key: value for key, value in vars(self).items() if key != "scores"}
        return {**fields, **self.scores}

    @classmethod
    def from_flat(cls, flat: FlatRow) -> "ScoreRow":
        """Return the row of a mapping that :meth:`flat` returned."""
        fields = {key: flat[key] for key in cls.__dataclass_fields__ if key != "scores"}
        return cls(**fields, scores={key: value for key, value in flat.items() if key not in fields})


@dataclass(frozen=True)
class Waves:
    """The waves of one file to score: ``est`` and ``ref`` (S, T, C), ``mixture`` (T, C).

    ``missing`` says for each source why it has no estimate (which is zero then), or None; empty if all have one.
    ``mixture_missing`` says why there is no mixture, or None; ``mixture`` means nothing then.
    """

    rate_hz: int
    est: FloatWaves
    ref: FloatWaves
    mixture: FloatWaves
    notes: tuple[str, ...] = ()
    fixed_order: bool = False  # each estimate belongs to the reference of the same index
    missing: tuple[str | None, ...] = ()
    mixture_missing: str | None = None


@dataclass(frozen=True)
class Item:
    """One file to score: a row for each source, still without scores, and how to get its waves.

    ``load`` returns the waves, or the reason why there are none; it may raise BadSound. ``load_in_parent``: call it in
    the main process (because it runs a network) and not in the process that scores. ``total_samples``: samples times
    sources times channels, to estimate the memory that scoring takes. ``identity`` changes with what is scored.
    ``fixed_order``: each estimate belongs to the reference of the same index.
    """

    rows: list[ScoreRow]
    load: Callable[[], Waves | str]
    load_in_parent: bool = False
    total_samples: int = 0
    channels: int = 1
    identity: str = ""
    fixed_order: bool = False

    def waves(self) -> Waves | str:
        """Return the waves, or the reason why there are none."""
        try:
            loaded = self.load()
        except BadSound as error:
            return f"{error.reason} ({error.path})"
        return loaded if isinstance(loaded, str) else replace(loaded, fixed_order=self.fixed_order)


@dataclass(frozen=True)
class ScoringPlan:
    """The scores to compute, and how; ``stft`` is the transform of the oracles, None for :func:`default_frame`."""

    metrics: tuple[str, ...] = DEFAULT_METRICS
    oracles: tuple[str, ...] = tuple(ORACLES)
    engine: str = "museval"
    stft: "STFT | None" = None
    improvements: bool = True  # score the mixture too
    in_blocks: bool = False  # always use the fast engine, because museval would not fit into the memory


def default_frame(rate_hz: int) -> tuple[int, int]:
    """Return window and hop in samples if no run sets the transform: about 32 ms, and a quarter of it."""
    window = 2 ** round(math.log2(0.032 * rate_hz))
    return window, window // 4
