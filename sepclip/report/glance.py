"""What a terminal shows at a glance once something is done: curves and distributions as rows of bars."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sepclip.errors import UserError
from sepclip.report.markup import signed
from sepclip.terminal import sparkline

_BINS = 40
_MOST_PLACES = 24


def training_lines(run: Path) -> list[str]:
    """Return the curves of a run's training, a line each: what it is, its bars, its first and last value."""
    from sepclip.report.curves import GAIN, MetricsHistory  # torch, which the bars of scores need not wait for

    curves = {"loss": "loss", GAIN: "validation SI-SDRi, dB", "grad_norm": "gradient norm", "threshold": "threshold"}
    try:
        history = MetricsHistory.read(run, "")
    except UserError:
        return []  # a damaged file is no reason to end a finished training in an error
    found = {title: [value for value in history.column(key)[1] if value is not None] for key, title in curves.items()}
    return _lines({title: (values, _ends(values)) for title, values in found.items() if len(values) > 1})


def score_lines(result: Mapping[str, Any]) -> list[str]:
    """Return how the improvements of all sources are spread, from an evaluation: bars of how many lie where."""
    rows = result["rows"]
    parts = {}
    for metric, title in (("si_sdr_improvement", "SI-SDRi, dB"), ("sdr_improvement", "SDRi, dB")):
        values = [row[metric] for row in rows if row.get(metric) is not None]
        if len(set(values)) > 1:
            counts = np.histogram(values, _BINS)[0].tolist()
            parts[title] = (counts, f"{signed(min(values), '')} to {signed(max(values), '')}")
    return _lines(parts)


def sweep_lines(runs: Mapping[str, Path]) -> list[str]:
    """Return how the runs of a sweep gained on the validation mixtures, a line each."""
    from sepclip.report.curves import GAIN, MetricsHistory

    parts = {}
    for title, run in list(runs.items())[:_MOST_PLACES]:
        try:
            values = [value for value in MetricsHistory.read(run, "").column(GAIN)[1] if value is not None]
        except UserError:
            continue
        if len(values) > 1:
            parts[title] = (values, f"{_ends(values)} dB")
    lines = _lines(parts)
    left = len(runs) - _MOST_PLACES
    return [*(["validation SI-SDRi while training"] if lines else []), *lines, *([f"and {left} more"] * (left > 0))]


def _ends(values: Sequence[float]) -> str:
    return f"{values[0]:.3g} to {values[-1]:.3g}"


def _lines(parts: Mapping[str, tuple[Sequence[float], str]]) -> list[str]:
    width = max(map(len, parts), default=0)
    return [f"  {title:<{width}}  {sparkline(values)}  {told}" for title, (values, told) in parts.items()]
