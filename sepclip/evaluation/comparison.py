"""Comparison of two or more scored systems on the same files: paired differences, their intervals and tests."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median

import numpy as np
from numpy.typing import NDArray

from sepclip.audio.names import normal_name
from sepclip.errors import UserError, counted
from sepclip.evaluation.document import Comparison, MetricComparison, PairComparison, ScoreDocument, read_scores
from sepclip.evaluation.summary import percentile_interval
from sepclip.scoring.items import FlatRow
from sepclip.scoring.table import METRICS

SAME_DB = 1e-6  # the scores of one estimate by the two engines differ by less
SAME_SNR_DB = 0.01  # with files of 16 bits or more, the SNRs of the same mixture and references differ by far less
_HEADS = ["score", "systems", "files", "means", "difference", "95 %", "median", "better", "p (Holm)"]

FileKey = tuple[str, tuple[str, ...]]  # name and sources
RowsByFile = dict[FileKey, list[FlatRow]]


def compare(paths: Sequence[Path], metrics: Sequence[str] | None = None) -> Comparison:
    """Compare pairs of the systems that ``sepclip eval`` scored into ``paths``: folders, or the scores.json in them.

    A run is replaced by its scores of the one set on which all given runs are scored. A file counts once, with the mean
    over its sources, if all systems have a score for all of them. ``interval``: 95 % of the mean difference by the
    bootstrap over files. ``p``: Wilcoxon's signed-rank test; ``p_holm``: corrected for all pairs of systems in all
    scores. ``wins``: the share of files in which the second is better, ties counting half.

    Raises UserError if scores differ in their definitions or in their files' references, or have no file in common.
    """
    if len(paths) < 2:
        raise UserError("give two scores or more to compare")
    paths = _resolve_runs(paths)
    read = [read_scores(path) for path in paths]  # before the labels: a path that does not exist has none
    documents = dict(zip(_short_labels(paths), read, strict=True))
    names = _common_metrics(documents, metrics)
    _require_same_mixtures(documents)
    # the files that all systems have with the same sources
    systems = {label: _rows_by_file(document) for label, document in documents.items()}
    common = sorted(set.intersection(*(set(files) for files in systems.values())))
    left_out = sorted({name for files in systems.values() for name, _ in files} - {name for name, _ in common})
    if not common:
        raise UserError(f"{', '.join(documents)} have no file with the same sources in common")
    first = next(iter(documents.values()))
    scores = {name: _compare_metric(name, systems, common) for name in names}
    correct_all([pair for metric in scores.values() for pair in metric["pairs"]])
    return {
        "systems": {label: str(path) for label, path in zip(documents, paths, strict=True)},
        "metrics": {name: first["metrics"][name] for name in names},
        "titles": {name: first["titles"][name] for name in names},
        "files": len(common),
        "left_out": left_out,
        "scores": scores,
    }


def _resolve_runs(paths: Sequence[Path]) -> list[Path]:
    """Return the paths with each run replaced by its scores on the set that all runs have in common.

    Raises UserError if there is no such set, or more than one.
    """
    runs = [path for path in paths if not (path / "scores.json").exists() and (path / "config.yaml").is_file()]
    names = [{scores.parent.name for scores in run.glob("eval/*/scores.json")} for run in runs]
    common = sorted(set.intersection(*names)) if names else []
    if runs and len(common) != 1:
        listed = ", ".join(map(str, runs))
        if not common:
            raise UserError(f"{listed}: not scored on a set in common; `sepclip eval RUN DATA` scores each")
        raise UserError(f"{listed}: scored on {', '.join(common)}; say which, such as {runs[0] / 'eval' / common[0]}")
    return [path / "eval" / common[0] if path in runs else path for path in paths]


def _short_labels(paths: Sequence[Path]) -> list[str]:
    """Return a short name for each path: its run, or as many of its last folders as make it unique."""
    files = [(path / "scores.json" if path.is_dir() else path).resolve() for path in paths]
    for path, file in zip(paths, files, strict=True):
        if files.count(file) > 1:
            raise UserError(f"{path} is given twice: give different scores")
    # a file of another name counts as a folder of that name
    folders = [(file.parent if file.name == "scores.json" else file.with_suffix("")).parts for file in files]
    runs = [parts[-3] if parts[-2:-1] == ("eval",) and len(parts) > 2 else parts[-1] for parts in folders]
    if len(set(runs)) == len(runs):
        return runs
    labels = []
    for parts in folders:
        count = 1
        while [folder[-count:] for folder in folders].count(parts[-count:]) > 1:
            count += 1
        labels.append("/".join(parts[-count:]))
    return labels


def _common_metrics(documents: Mapping[str, ScoreDocument], metrics: Sequence[str] | None) -> list[str]:
    """Return the scores to compare. Raises UserError if a score is not defined alike in all documents."""
    (first_label, first), *others = documents.items()
    for label, document in others:
        if first["sources"] != document["sources"]:
            raise UserError(
                f"{first_label} has its sources {first['sources']}, {label} {document['sources']}: score both alike"
            )
        for name in set(first["metrics"]) & set(document["metrics"]):
            if first["metrics"][name] != document["metrics"][name]:
                raise UserError(
                    f"{name} of {first_label} is {first['metrics'][name]!r}, of {label} "
                    f"{document['metrics'][name]!r}: score both by the same sepclip"
                )
    common = [name for name in METRICS if all(name in document["metrics"] for document in documents.values())]
    missing = [name for name in metrics or () if name not in common]
    if missing or not common:
        wanted = ", ".join(missing) or "a score in common"
        raise UserError(f"not all have {wanted}; all have {', '.join(common) or 'none'}")
    return list(metrics or common)


def _require_same_mixtures(documents: Mapping[str, ScoreDocument]) -> None:
    """Raise UserError if the systems were scored on different mixtures or references of the same name.

    The SNR of the mixture against each reference shows it, because no system changes it.
    """
    first_snrs: dict[tuple[str, str], tuple[str, float]] = {}
    for label, document in documents.items():
        for row in document["rows"]:
            snr = row.get("input_snr")
            if snr is not None:
                key = normal_name(row["name"]), normal_name(row["source"])
                first_label, first_snr = first_snrs.setdefault(key, (label, snr))
                if abs(snr - first_snr) > SAME_SNR_DB:
                    raise UserError(
                        f"{row['name']} is not the same in {first_label} and {label}: the SNR of the mixture for "
                        f"{row['source']} is {first_snr:.2f} and {snr:.2f} dB; score both against the same references"
                    )


def _rows_by_file(document: ScoreDocument) -> RowsByFile:
    """Return the rows of every file, by its name and sources."""
    files: dict[str, list[FlatRow]] = {}
    for row in document["rows"]:
        files.setdefault(normal_name(row["name"]), []).append(row)
    return {(name, tuple(normal_name(row["source"]) for row in rows)): rows for name, rows in files.items()}


def _compare_metric(name: str, systems: Mapping[str, RowsByFile], common: Sequence[FileKey]) -> MetricComparison:
    """Return the comparison of one score, over the files in which all systems have it for all sources."""
    usable = [
        key for key in common if all(row[name] is not None for files in systems.values() for row in files[key])
    ]  # fmt: skip
    means = {
        label: np.array([fmean(row[name] for row in files[key]) for key in usable]) for label, files in systems.items()
    }
    pairs = [
        compare_pair(first, second, means[second] - means[first])
        for first, second in itertools.combinations(systems, 2)
    ]
    return {
        "files": len(usable),
        "means": {label: float(values.mean()) if usable else None for label, values in means.items()},
        "pairs": pairs,
        "names": [key[0] for key in usable],
    }


def correct_all(pairs: Sequence[PairComparison]) -> None:
    """Write ``p_holm`` into all pairs: their p values, corrected for their number.

    Pairs without any difference, such as the oracles of two systems, do not count: they cannot be found to differ.
    """
    values = [pair["p"] if any(pair["differences"]) else None for pair in pairs]
    for pair, corrected in zip(pairs, holm(values), strict=True):
        pair["p_holm"] = pair["p"] if corrected is None else corrected


def compare_pair(first: str, second: str, differences: NDArray[np.float64]) -> PairComparison:
    """Return the statistics of ``differences`` (files,), ``second`` minus ``first``, in the order of the files' names.

    The order matters: the bootstrap draws places and not files.
    """
    from scipy import stats  # takes a second, and the report imports this module for pages without a comparison too

    differences = np.where(np.abs(differences) < SAME_DB, 0.0, differences)
    if not differences.size:
        return {
            "first": first,
            "second": second,
            "mean": None,
            "median": None,
            "interval": None,
            "wins": None,
            "p": None,
            "differences": [],
        }
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
    known = sorted((value, index) for index, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0  # a corrected value is never below that of a smaller p
    for rank, (value, index) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        corrected[index] = largest
    return corrected


def comparison_table(result: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the comparison as a table: its heads, and a line for each score and pair of systems."""
    lines = []
    for name, scores in result["scores"].items():
        for pair in scores["pairs"]:
            line = [result["titles"][name], f"{pair['second']} - {pair['first']}", str(scores["files"])]
            lines.append([*line, *_cells(pair, scores["means"])])
    return list(_HEADS), lines


def _cells(pair: PairComparison, means: Mapping[str, float | None]) -> list[str]:
    """Return the figures of one pair of systems; dashes if no file has a score in all systems."""
    if pair["mean"] is None:
        return ["-"] * 6
    return [
        f"{means[pair['second']]:.2f}, {means[pair['first']]:.2f}",
        f"{pair['mean']:+.2f}",
        interval_text(pair),
        f"{pair['median']:+.2f}",
        f"{pair['wins']:.0%}",
        f"{pair['p_holm']:.2g}",
    ]


def interval_text(pair: PairComparison) -> str:
    """Return the interval of a difference, such as ``+1.00 to +3.00``; a dash if there is none."""
    low, high = pair["interval"] or (None, None)
    return "-" if low is None else f"{low:+.2f} to {high:+.2f}"


def left_out_message(result: Comparison) -> str | None:
    """Return the message on files that not all systems have; None if all have all files."""
    if not result["left_out"]:
        return None
    return f"{counted(len(result['left_out']), 'file')} not in all, or with other sources, left out"
