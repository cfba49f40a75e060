"""Statistics of many scores: means with intervals, medians and quartiles, for all files and for parts of them."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from statistics import fmean
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from sepclip.evaluation.document import ColumnStatistics, Interval, Leakage, Summary, WorstFiles
from sepclip.scoring.items import ScoreRow
from sepclip.scoring.table import ORACLES

RESAMPLES = 2000  # of the bootstrap
WORST = 10  # files named in ``worst``
_SNR_EDGES = (-5, 0, 5)  # dB
_SEED = 20200730
_Parts = dict[str, ColumnStatistics]  # by the name of the part


class _Sources(TypedDict, total=False):
    """The part of a Summary that only sources in a fixed order have, and what is added later."""

    sources: _Parts
    leakage: Leakage


def summarise(rows: Sequence[ScoreRow], columns: Sequence[str]) -> ColumnStatistics:
    """Return mean, median, quartiles, interval and count of every column, and the reasons for missing scores.

    ``interval``: 95 %, by the bootstrap over files (all sources of a file together, percentiles of 2,000 resamples from
    a fixed seed); None for fewer than two files. ``oracle_share``: the mean improvement of the model over that of the
    oracle, over sources that have both.
    """
    values = np.array([[_number(row.scores.get(name)) for name in columns] for row in rows])  # (rows, columns)
    values = values.reshape(len(rows), len(columns))
    scores = {name: column[~np.isnan(column)] for name, column in zip(columns, values.T, strict=True)}
    percentiles = {
        name: np.percentile(column, (25, 50, 75)).tolist() if column.size else None for name, column in scores.items()
    }
    files = list(dict.fromkeys(row.name for row in rows))
    return {
        "mean": {name: fmean(column) if column.size else None for name, column in scores.items()},
        "median": {name: three[1] if three else None for name, three in percentiles.items()},
        "quartiles": {name: [three[0], three[2]] if three else None for name, three in percentiles.items()},
        "interval": dict(zip(columns, _intervals(rows, files, values), strict=True)),
        "count": {
            "files": len(files),
            "rows": len(rows),
            "perfect": sum(row.status == "perfect" for row in rows),
            **{name: column.size for name, column in scores.items()},
        },
        "excluded": dict(Counter(reason_kind(row.reason) for row in rows if row.reason)),
        "notes": dict(Counter(reason_kind(note) for row in rows for note in row.notes)),
        "oracle_share": _oracle_shares(rows),
    }


def summarise_parts(rows: Sequence[ScoreRow], columns: Sequence[str], *, fixed_order: bool) -> Summary:
    """Return the summary of all rows with those of its parts, and the worst files."""

    def parts(key: Callable[[ScoreRow], str | None], order: Callable[[Iterable[str]], list[str]]) -> _Parts:
        names = order(dict.fromkeys(name for row in rows if (name := key(row)) is not None))
        return {name: summarise([row for row in rows if key(row) == name], columns) for name in names}

    def by_number(names: Iterable[str]) -> list[str]:
        return sorted(names, key=_number_in)

    with threadpool_limits(1):  # the order of summation, and so rounding, depends on the number of threads
        sources: _Sources = {"sources": parts(lambda row: row.source, list)} if fixed_order else {}
        summary: Summary = {
            **summarise(rows, columns),
            "groups": parts(lambda row: row.group, by_number),
            "sexes": parts(_sexes, by_number),
            "input_snr": parts(_snr_range, by_number),
            **sources,
            "worst": _worst(rows, columns),
        }
    return summary


def reason_kind(reason: str) -> str:
    """Return a reason or note without its figures and paths, so that equal kinds are counted together."""
    return re.sub(r" \(.*\)$|: \d.*", "", reason)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _intervals(rows: Sequence[ScoreRow], files: Sequence[str], values: NDArray[np.float64]) -> list[Interval | None]:
    """Return the 95 % interval of the mean of every column, by drawing files again with all of their rows."""
    if len(files) < 2:
        return [None] * values.shape[1]
    # sum and count of each file and column
    index_of = {name: index for index, name in enumerate(files)}
    file_of_row = np.array([index_of[row.name] for row in rows])
    sums, counts = np.zeros((len(files), values.shape[1])), np.zeros((len(files), values.shape[1]))
    np.add.at(sums, file_of_row, np.nan_to_num(values))
    np.add.at(counts, file_of_row, ~np.isnan(values))
    # how often each resample has each file; a mean of a resample is then a ratio of two products
    times = _resamples(len(files))
    with np.errstate(invalid="ignore"):  # a resample may have no score of a column
        means = (times @ sums) / (times @ counts)  # (resamples, columns)
    enough = (counts > 0).sum(0) >= 2
    return [
        np.nanpercentile(means[:, column], (2.5, 97.5)).tolist() if enough[column] else None
        for column in range(values.shape[1])
    ]


@lru_cache(maxsize=1)  # a comparison has dozens of intervals over the same files
def _resamples(files: int) -> NDArray[np.float64]:
    """Return how often each of the resamples (RESAMPLES, files) has each file."""
    rng = np.random.Generator(np.random.PCG64(_SEED))
    resamples = rng.integers(files, size=(RESAMPLES, files))
    return np.stack([np.bincount(sample, minlength=files) for sample in resamples]).astype(np.float64)


def percentile_interval(values: NDArray[np.float64]) -> Interval | None:
    """Return the 95 % bootstrap interval of the mean of ``values`` (files,), by the method of :func:`summarise`."""
    rows = [ScoreRow(str(index), "") for index in range(len(values))]
    return _intervals(rows, [row.name for row in rows], values[:, None])[0]


def _oracle_shares(rows: Sequence[ScoreRow]) -> dict[str, float | None]:
    """Return for each oracle the mean improvement of the model over the oracle's; None if the oracle's is not > 0."""
    shares: dict[str, float | None] = {}
    for name in ORACLES:
        pairs = [
            (improvement, ideal)
            for row in rows
            if (improvement := row.scores.get("si_sdr_improvement")) is not None
            and (ideal := row.scores.get(f"{name}_si_sdr_improvement")) is not None
        ]
        if pairs:
            improvement, ideal = (fmean(part) for part in zip(*pairs, strict=True))
            shares[name] = improvement / ideal if ideal > 0 else None
    return shares


def _sexes(row: ScoreRow) -> str | None:
    if row.sexes is None:
        return None
    return "same sex" if len(set(row.sexes)) == 1 else "different sexes"


def _snr_range(row: ScoreRow) -> str | None:
    snr = row.scores.get("input_snr")
    if snr is None:
        return None
    low = max((edge for edge in _SNR_EDGES if edge <= snr), default=None)
    if low is None:
        return f"below {_SNR_EDGES[0]} dB"
    above = [edge for edge in _SNR_EDGES if edge > low]
    return f"{low} to {above[0]} dB" if above else f"{low} dB and more"


def _number_in(name: str) -> tuple[float, str]:
    """Return a sort key: the number in the name of an SNR range, then the name; other names sort by name."""
    number = re.search(r"-?\d+", name)
    value = float(number.group()) if number and name.endswith(("dB", "more")) else 0
    return (value - 1 if name.startswith("below") else value), name


def _worst(rows: Sequence[ScoreRow], columns: Sequence[str]) -> WorstFiles:
    """Return the files with the lowest mean over their sources, and the column that this is about."""
    candidates = [*("si_sdr_improvement", "sdr_improvement"), *columns]
    by = next((name for name in candidates if name in columns), None)
    scores: dict[str, list[float]] = {}
    for row in rows:
        value = None if by is None else row.scores.get(by)
        if value is not None:
            scores.setdefault(row.name, []).append(value)
    means = sorted((fmean(values), name) for name, values in scores.items())
    return {"by": by, "files": [{"name": name, "mean": mean} for mean, name in means[:WORST]]}
