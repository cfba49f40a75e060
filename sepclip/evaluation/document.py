"""The documents of evaluation, key by key, and how to read one: ``scores.json`` and ``comparison.json``.

The keys of these classes are the keys in the files (docs/SCORES.md), in the order in which they are written. A column
is the name of a score, such as ``si_sdr`` or ``sdr_improvement``; ``scoring/table.py`` defines them. Builders:
``evaluate_items.py`` for a ScoreDocument, ``summary.py`` for its Summary, ``comparison.py`` for a Comparison.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from sepclip.errors import UserError
from sepclip.scoring.items import FlatRow

SCHEMA_VERSION = 2
Interval = list[float]  # low and high


class ColumnStatistics(TypedDict):
    """The statistics of some rows, by column. A column without any score has None, in ``count`` 0."""

    mean: dict[str, float | None]
    median: dict[str, float | None]
    quartiles: dict[str, Interval | None]  # the first and the third
    interval: dict[str, Interval | None]  # 95 % of the mean, bootstrap over files; None for fewer than two files
    count: dict[str, int]  # ``files``, ``rows``, ``perfect`` (rows with that status), and the scores of each column
    excluded: dict[str, int]  # each reason for missing scores, without its figures: how many rows have it
    notes: dict[str, int]  # each note, likewise
    oracle_share: dict[str, float | None]  # oracle: mean SI-SDR improvement over that of the oracle; None if <= 0


class WorstFile(TypedDict):
    """A file with a low score: the mean over its sources."""

    name: str
    mean: float


class WorstFiles(TypedDict):
    """The files with the lowest scores, the lowest first."""

    by: str | None  # the column; None if there is no column at all
    files: list[WorstFile]


class Leakage(TypedDict):
    """The scored mixtures that contain what the run was trained on; ``leakage.py`` says what counts as the same."""

    trained_on: list[str]  # folders of the sets: that of the run, and those of the runs that it began from
    unknown: str | None  # why nothing could be compared; the lists are empty then
    mixtures: int  # scored
    recordings: list[str]  # names of mixtures with a recording of the training
    unseen: int  # mixtures whose group is called unseen
    voices: list[str]  # names of those that have a voice of the training


class Summary(ColumnStatistics):
    """The statistics of all rows, and the same for parts of them, by the name of the part."""

    groups: dict[str, ColumnStatistics]  # of the mixture set, such as seen and unseen
    sexes: dict[str, ColumnStatistics]  # "same sex" and "different sexes"
    input_snr: dict[str, ColumnStatistics]  # by ranges of the mixture's SNR
    sources: NotRequired[dict[str, ColumnStatistics]]  # only if sources have a fixed order, such as stems
    leakage: NotRequired[Leakage]  # only of a run on a set
    worst: WorstFiles


class Provenance(TypedDict, total=False):
    """What was scored; the command decides which of these keys are present."""

    run: str  # folder of the run
    limit: int | None  # only the first so many files
    masks: str | None  # what made the masks: binary, soft or network
    kmeans: dict[str, Any] | None  # settings of the clustering, None if the run clusters nothing
    cell: str  # of a sweep: the digest of the cell
    training: Mapping[str, object]  # of a sweep: the summary of the training
    data: str  # folder of the mixture set
    split: str  # tr, cv or tt
    estimates: str  # folder of separated files
    references: str  # folder of true sources
    mixtures: str | None  # folder of mixtures, if given
    estimate_pattern: str | None  # position of name and source in the paths of estimates, if given
    reference_pattern: str | None  # the same for references
    pairs: str  # CSV that lists all files
    trim_seconds: float | None  # largest difference in length that was cut off, if given


class ScoreDocument(Provenance):
    """What ``scores.json`` contains. The keys of Provenance are written between ``transform`` and ``summary``."""

    schema_version: int
    metrics: dict[str, str]  # column: definition
    units: dict[str, str]  # column: unit
    titles: dict[str, str]  # column: title
    engine: str  # museval or fast
    museval: str  # version of museval
    sources: str  # how estimates were paired with references
    transform: list[int] | None  # window and hop of the oracles in samples; None: about 32 ms and a quarter of it
    summary: Summary
    rows: list[FlatRow]  # one for each file and source, see scoring.items.ScoreRow


class PairComparison(TypedDict):
    """One score of two systems: the second minus the first, over files. None if no file has a score in all systems."""

    first: str
    second: str
    mean: float | None  # of the differences
    median: float | None
    interval: Interval | None  # 95 % of the mean, bootstrap over files; None for fewer than two files
    wins: float | None  # share of files in which the second is better; a tie counts half
    p: float | None  # Wilcoxon's signed-rank test
    differences: list[float]  # one for each of ``MetricComparison.names``
    p_holm: NotRequired[float | None]  # ``p`` corrected for all pairs in all scores (Holm 1979)


class MetricComparison(TypedDict):
    """One score of all systems, over the files in which all of them have it."""

    files: int
    means: dict[str, float | None]  # system: mean over files
    pairs: list[PairComparison]
    names: list[str]  # of the files


class Comparison(TypedDict):
    """What ``comparison.json`` contains."""

    systems: dict[str, str]  # short name: path of the scores
    metrics: dict[str, str]  # column: definition
    titles: dict[str, str]  # column: title
    files: int  # in common
    left_out: list[str]  # names of files that not all systems have with the same sources
    scores: dict[str, MetricComparison]  # by column


def read_scores(path: Path) -> ScoreDocument:
    """Read a ``scores.json``, or the one in the folder ``path``.

    Raises UserError if it is missing, damaged, or of another version.
    """
    file = path / "scores.json" if path.is_dir() else path
    try:
        document: ScoreDocument = json.loads(file.read_text(encoding="utf-8"))
        version = document["schema_version"]
        if not {"rows", "metrics", "summary"} <= set(document):
            raise KeyError("rows, metrics or summary")
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file; `sepclip eval` writes it") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read as scores ({error!r}): run `sepclip eval` again") from error
    if version != SCHEMA_VERSION:
        raise UserError(f"{file} has version {version}, this sepclip reads {SCHEMA_VERSION}: run `sepclip eval` again")
    return document
