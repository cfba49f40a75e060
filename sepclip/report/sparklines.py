"""Curves and distributions as rows of bars, for the terminal at the end of a command."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sepclip.errors import UserError
from sepclip.report.markup import signed
from sepclip.terminal import sparkline

_BINS = 40
_MOST_RUNS = 24  # of a sweep


def training_lines(run: Path) -> list[str]:
    """Return the training curves of a run, one line each: name, bars, first and last value."""
    from sepclip.report.curves import GAIN, MetricsHistory  # imports torch, which score_lines does not need

    curves = {"loss": "loss", GAIN: "validation SI-SDRi, dB", "grad_norm": "gradient norm", "threshold": "threshold"}
    try:
        history = MetricsHistory.read(run, "")
    except UserError:
        return []  # a damaged file should not fail a finished training
    columns = {title: [value for value in history.column(key)[1] if value is not None] for key, title in curves.items()}
    return _lines({title: (values, _ends(values)) for title, values in columns.items() if len(values) > 1})


def score_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the histograms of the improvements of all sources, from the document of an evaluation."""
    rows = result["rows"]
    histograms = {}
    for metric, title in (("si_sdr_improvement", "SI-SDRi, dB"), ("sdr_improvement", "SDRi, dB")):
        values = [row[metric] for row in rows if row.get(metric) is not None]
        if len(set(values)) > 1:
            counts = np.histogram(values, _BINS)[0].tolist()
            histograms[title] = (counts, f"{signed(min(values), '')} to {signed(max(values), '')}")
    return _lines(histograms)


def sweep_lines(runs: Mapping[str, Path]) -> list[str]:
    """Return the validation curves of the runs of a sweep, one line each."""
    from sepclip.report.curves import GAIN, MetricsHistory

    curves = {}
    for title, run in list(runs.items())[:_MOST_RUNS]:
        try:
            values = [value for value in MetricsHistory.read(run, "").column(GAIN)[1] if value is not None]
        except UserError:
            continue
        if len(values) > 1:
            curves[title] = (values, f"{_ends(values)} dB")
    lines = _lines(curves)
    left = len(runs) - _MOST_RUNS
    return [*(["validation SI-SDRi during training"] if lines else []), *lines, *([f"and {left} more"] * (left > 0))]


def _ends(values: Sequence[float]) -> str:
    return f"{values[0]:.3g} to {values[-1]:.3g}"


def _lines(rows: Mapping[str, tuple[Sequence[float], str]]) -> list[str]:
    """Return aligned lines from title to values and the range behind their bars."""
    width = max(map(len, rows), default=0)
    return [f"  {title:<{width}}  {sparkline(values)}  {limits}" for title, (values, limits) in rows.items()]
