"""What many scores come to: means with intervals, medians and quartiles, by kind of file; the worst files."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from sepclip.scoring.items import ScoreRow
from sepclip.scoring.table import ORACLES

RESAMPLES = 2000
WORST = 10
_SNR_EDGES = (-5, 0, 5)  # dB
_SEED = 20200730


def summarise(rows: Sequence[ScoreRow], columns: Sequence[str]) -> dict[str, Any]:
    """Return mean, median, quartiles, interval and count of every column, and what lacks scores for which reason.

    ``interval``: 95 %, by the bootstrap over files (all sources of a file together, percentiles of 2,000 resamples from
    a fixed seed); None for fewer than two files. ``oracle_share``: the mean gain of the model over that of the oracle,
    over sources that have both.
    """
    values = np.array([[_number(row.scores.get(name)) for name in columns] for row in rows])  # (rows, columns)
    values = values.reshape(len(rows), len(columns))
    found = {name: column[~np.isnan(column)] for name, column in zip(columns, values.T, strict=True)}
    quartiles = {name: np.percentile(one, (25, 50, 75)).tolist() if one.size else None for name, one in found.items()}
    files = list(dict.fromkeys(row.name for row in rows))
    return {
        "mean": {name: fmean(one) if one.size else None for name, one in found.items()},
        "median": {name: one[1] if one else None for name, one in quartiles.items()},
        "quartiles": {name: [one[0], one[2]] if one else None for name, one in quartiles.items()},
        "interval": dict(zip(columns, _intervals(rows, files, values), strict=True)),
        "count": {
            "files": len(files),
            "rows": len(rows),
            "perfect": sum(row.status == "perfect" for row in rows),
            **{name: one.size for name, one in found.items()},
        },
        "excluded": dict(Counter(kind_of(row.reason) for row in rows if row.reason)),
        "notes": dict(Counter(kind_of(note) for row in rows for note in row.notes)),
        "oracle_share": _oracle_shares(rows),
    }


def summarise_parts(rows: Sequence[ScoreRow], columns: Sequence[str], *, fixed_order: bool) -> dict[str, Any]:
    """Return the summary of all rows with those of its parts, and the worst files."""
    parts: dict[str, Callable[[ScoreRow], str | None]] = {
        "groups": lambda row: row.group,
        "sexes": _sexes,
        "input_snr": _snr_bin,
    }
    if fixed_order:
        parts["sources"] = lambda row: row.source
    with threadpool_limits(1):  # sums do not depend on threads then
        summary = summarise(rows, columns)
        for part, of in parts.items():
            names = dict.fromkeys(name for row in rows if (name := of(row)) is not None)
            names = names if part == "sources" else dict.fromkeys(sorted(names, key=_by_number))
            summary[part] = {name: summarise([row for row in rows if of(row) == name], columns) for name in names}
    summary["worst"] = _worst(rows, columns)
    return summary


def kind_of(reason: str) -> str:
    """Return a reason without its figures and paths, so that like ones are counted together."""
    return re.sub(r" \(.*\)$|: \d.*", "", reason)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _intervals(rows: Sequence[ScoreRow], files: Sequence[str], values: NDArray[np.float64]) -> list[list[float] | None]:
    """Return the 95 % interval of the mean of every column, files drawn anew with all of their rows."""
    if len(files) < 2:
        return [None] * values.shape[1]
    place = {name: index for index, name in enumerate(files)}
    of_file = np.array([place[row.name] for row in rows])
    sums, counts = np.zeros((len(files), values.shape[1])), np.zeros((len(files), values.shape[1]))
    np.add.at(sums, of_file, np.nan_to_num(values))
    np.add.at(counts, of_file, ~np.isnan(values))
    chance = np.random.Generator(np.random.PCG64(_SEED))
    drawn = chance.integers(len(files), size=(RESAMPLES, len(files)))
    times = np.stack([np.bincount(one, minlength=len(files)) for one in drawn]).astype(np.float64)  # (resamples, files)
    with np.errstate(invalid="ignore"):
        means = (times @ sums) / (times @ counts)  # (resamples, columns)
    enough = (counts > 0).sum(0) >= 2
    return [
        np.nanpercentile(means[:, column], (2.5, 97.5)).tolist() if enough[column] else None
        for column in range(values.shape[1])
    ]


def percentile_interval(values: NDArray[np.float64]) -> list[float] | None:
    """Return the 95 % bootstrap interval of the mean of ``values`` (files,), as :func:`summarise` has it."""
    rows = [ScoreRow(str(index), "") for index in range(len(values))]
    return _intervals(rows, [row.name for row in rows], values[:, None])[0]


def _oracle_shares(rows: Sequence[ScoreRow]) -> dict[str, float | None]:
    shares: dict[str, float | None] = {}
    for name in ORACLES:
        pairs = [
            (ours, ideal)
            for row in rows
            if (ours := row.scores.get("si_sdr_improvement")) is not None
            and (ideal := row.scores.get(f"{name}_si_sdr_improvement")) is not None
        ]
        if pairs:
            ours, ideal = (fmean(part) for part in zip(*pairs, strict=True))
            shares[name] = ours / ideal if ideal > 0 else None
    return shares


def _sexes(row: ScoreRow) -> str | None:
    if row.sexes is None:
        return None
    return "same sex" if len(set(row.sexes)) == 1 else "different sexes"


def _snr_bin(row: ScoreRow) -> str | None:
    snr = row.scores.get("input_snr")
    if snr is None:
        return None
    low = max((edge for edge in _SNR_EDGES if edge <= snr), default=None)
    if low is None:
        return f"below {_SNR_EDGES[0]} dB"
    above = [edge for edge in _SNR_EDGES if edge > low]
    return f"{low} to {above[0]} dB" if above else f"{low} dB and more"


def _by_number(name: str) -> tuple[float, str]:
    number = re.search(r"-?\d+", name)
    place = float(number.group()) if number and name.endswith(("dB", "more")) else 0
    return (place - 1 if name.startswith("below") else place), name


def _worst(rows: Sequence[ScoreRow], columns: Sequence[str]) -> dict[str, Any]:
    """Return the files with the lowest mean over their sources, and of which score."""
    wanted = [*("si_sdr_improvement", "sdr_improvement"), *columns]
    by = next((name for name in wanted if name in columns), None)
    scores: dict[str, list[float]] = {}
    for row in rows:
        value = None if by is None else row.scores.get(by)
        if value is not None:
            scores.setdefault(row.name, []).append(value)
    means = sorted((fmean(found), name) for name, found in scores.items())
    return {"by": by, "files": [{"name": name, "mean": mean} for mean, name in means[:WORST]]}
