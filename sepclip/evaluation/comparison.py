"""Two or more scored systems on the same files: paired differences, their intervals and tests."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sepclip.errors import UserError, counted
from sepclip.evaluation.document import read_scores
from sepclip.evaluation.summary import percentile_interval
from sepclip.scoring.table import METRICS

SAME_DB = 1e-6  # scores of one estimate by the two engines differ by less
SAME_SNR_DB = 0.01  # files are 16 bits and more: the same mixture and references agree in their SNR to far less


def compare(paths: Sequence[Path], metrics: Sequence[str] | None = None) -> dict[str, Any]:
    """Compare, pair by pair, what ``sepclip eval`` wrote to each of ``paths``: folders, or the scores.json in them.

    A run stands for its scores of the one set on which all given runs are scored.
    A file counts with the mean over its sources, where all systems have a score for all of these. ``interval``: 95 % of
    the mean difference by the bootstrap over files. ``p``: Wilcoxon's signed-rank test; ``p_holm``: corrected for the
    pairs of systems within a score. ``wins``: the share of files in which the second is better, ties counting half.

    Raises UserError where scores differ in their definitions, in their files' references, or have no file in common.
    """
    if len(paths) < 2:
        raise UserError("give two scores or more to compare")
    paths = _scores_of(paths)
    found = {label: read_scores(path) for label, path in zip(_labels(paths), paths, strict=True)}
    chosen = _same_terms(found, metrics)
    _require_same_mixtures(found)
    systems = {label: _by_file(scores) for label, scores in found.items()}
    common = sorted(set.intersection(*(set(files) for files in systems.values())))
    left_out = sorted({name for files in systems.values() for name, _ in files} - {name for name, _ in common})
    if not common:
        raise UserError(f"{', '.join(found)} have no file with the same sources in common")
    return {
        "systems": {label: str(path) for label, path in zip(found, paths, strict=True)},
        "metrics": {name: next(iter(found.values()))["metrics"][name] for name in chosen},
        "titles": {name: next(iter(found.values()))["titles"][name] for name in chosen},
        "files": len(common),
        "left_out": left_out,
        "scores": {name: _of_metric(name, systems, common) for name in chosen},
    }


def _scores_of(paths: Sequence[Path]) -> list[Path]:
    """Return the paths, with its scores in the place of each run. UserError for none, or more than one in common."""
    runs = [path for path in paths if not (path / "scores.json").exists() and (path / "config.yaml").is_file()]
    names = [{scores.parent.name for scores in run.glob("eval/*/scores.json")} for run in runs]
    common = sorted(set.intersection(*names)) if names else []
    if runs and len(common) != 1:
        told = ", ".join(map(str, runs))
        if not common:
            raise UserError(f"{told}: not scored on a set in common; `sepclip eval RUN DATA` scores each")
        raise UserError(f"{told}: scored on {', '.join(common)}; say which, such as {runs[0] / 'eval' / common[0]}")
    return [path / "eval" / common[0] if path in runs else path for path in paths]


def _labels(paths: Sequence[Path]) -> list[str]:
    """Return a short name for each path: its run, or its last folders, as many as tell it from the others."""
    folders = [(path if path.is_dir() else path.parent).resolve().parts for path in paths]
    for path, parts in zip(paths, folders, strict=True):
        if folders.count(parts) > 1:
            raise UserError(f"{path} is given twice: give different scores")
    runs = [parts[-3] if parts[-2:-1] == ("eval",) and len(parts) > 2 else parts[-1] for parts in folders]
    if len(set(runs)) == len(runs):
        return runs
    labels = []
    for parts in folders:
        count = 1
        while [other[-count:] for other in folders].count(parts[-count:]) > 1:
            count += 1
        labels.append("/".join(parts[-count:]))
    return labels


def _same_terms(found: Mapping[str, dict[str, Any]], metrics: Sequence[str] | None) -> list[str]:
    """Return the scores to compare. Raises UserError where a score is not defined alike in all."""
    (first, one), *others = found.items()
    for label, other in others:
        if one["sources"] != other["sources"]:
            raise UserError(f"{first} has its sources {one['sources']}, {label} {other['sources']}: score both alike")
        for name in set(one["metrics"]) & set(other["metrics"]):
            if one["metrics"][name] != other["metrics"][name]:
                raise UserError(
                    f"{name} of {first} is {one['metrics'][name]!r}, of {label} {other['metrics'][name]!r}: score "
                    f"both by the same sepclip"
                )
    common = [name for name in METRICS if all(name in scores["metrics"] for scores in found.values())]
    missing = [name for name in metrics or () if name not in common]
    if missing or not common:
        wanted = ", ".join(missing) or "a score in common"
        raise UserError(f"not all have {wanted}; all have {', '.join(common) or 'none'}")
    return list(metrics or common)


def _require_same_mixtures(found: Mapping[str, dict[str, Any]]) -> None:
    """Raise UserError where a file has another mixture or references in one than in the others."""
    seen: dict[tuple[str, str], tuple[str, float]] = {}
    for label, scores in found.items():
        for row in scores["rows"]:
            snr = row.get("input_snr")
            if snr is not None:
                other, before = seen.setdefault((row["name"], row["source"]), (label, snr))
                if abs(snr - before) > SAME_SNR_DB:
                    raise UserError(
                        f"{row['name']} is not the same in {other} and {label}: the SNR of the mixture for "
                        f"{row['source']} is {before:.2f} and {snr:.2f} dB; score both against the same references"
                    )


def _by_file(scores: dict[str, Any]) -> dict[tuple[str, tuple[str, ...]], list[dict[str, Any]]]:
    """Return the rows of every file, by its name and sources."""
    files: dict[str, list[dict[str, Any]]] = {}
    for row in scores["rows"]:
        files.setdefault(row["name"], []).append(row)
    return {(name, tuple(row["source"] for row in rows)): rows for name, rows in files.items()}


def _of_metric(
    name: str, systems: Mapping[str, Mapping[Any, list[dict[str, Any]]]], common: Sequence[Any]
) -> dict[str, Any]:
    usable = [
        key for key in common if all(row[name] is not None for files in systems.values() for row in files[key])
    ]  # fmt: skip
    means = {
        label: np.array([fmean(row[name] for row in files[key]) for key in usable]) for label, files in systems.items()
    }
    pairs = [_pair(a, b, means[b] - means[a]) for a, b in itertools.combinations(systems, 2)]
    for pair, corrected in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
        pair["p_holm"] = corrected
    return {
        "files": len(usable),
        "means": {label: float(values.mean()) if usable else None for label, values in means.items()},
        "pairs": pairs,
        "names": [key[0] for key in usable],
    }


def _pair(first: str, second: str, differences: NDArray[np.float64]) -> dict[str, Any]:
    """Return what is known of ``second`` minus ``first``, file by file."""
    differences = np.where(np.abs(differences) < SAME_DB, 0.0, differences)
    if not differences.size:
        empty = dict.fromkeys(("mean", "median", "interval", "wins", "p"))
        return {"first": first, "second": second, **empty, "differences": []}
    return {
        "first": first,
        "second": second,
        "mean": float(differences.mean()),
        "median": median(differences.tolist()),
        "interval": percentile_interval(differences),
        "wins": float(((differences > 0) + 0.5 * (differences == 0)).mean()),
        "p": float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0,
        "differences": differences.tolist(),
    }


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected for their number (Holm 1979); None stays None."""
    known = sorted((value, place) for place, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, place) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        corrected[place] = largest
    return corrected


def cells(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the comparison as a table: its heads, and a line for each score and pair."""
    heads = ["score", "systems", "files", "means", "difference", "95 %", "median", "better in", "p (Holm)"]
    lines = []
    for name, found in result["scores"].items():
        for pair in found["pairs"]:
            first, second = pair["first"], pair["second"]
            line = [result["titles"][name], f"{second} - {first}", str(found["files"])]
            if pair["mean"] is None:
                lines.append([*line, *["-"] * 6])
                continue
            low, high = pair["interval"] or (None, None)
            lines.append(
                [
                    *line,
                    f"{found['means'][second]:.2f}, {found['means'][first]:.2f}",
                    f"{pair['mean']:+.2f}",
                    "-" if low is None else f"{low:+.2f} to {high:+.2f}",
                    f"{pair['median']:+.2f}",
                    f"{pair['wins']:.0%}",
                    f"{pair['p_holm']:.2g}",
                ]
            )
    return heads, lines


def told_left_out(result: dict[str, Any]) -> str | None:
    """Return what to say of files that not all systems have; None for none."""
    if not result["left_out"]:
        return None
    return f"{counted(len(result['left_out']), 'file')} not in all, or with other sources, left out"
