"""The curves of one run's training, or of several on the same axes, from ``metrics.jsonl`` and ``dynamics.jsonl``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepclip.errors import UserError
from sepclip.report.charts import Chart, Series, Values, aligned
from sepclip.training.dynamics import Records
from sepclip.training.run import DYNAMICS, METRICS

GAIN = "valid_si_sdr_improvement"


@dataclass(frozen=True)
class MetricsHistory:
    """The rows of a run's ``metrics.jsonl``; ``name`` is what its curves are called."""

    name: str
    rows: list[dict[str, Any]]

    @classmethod
    def read(cls, run: Path, name: str) -> "MetricsHistory":
        """Read the rows of a run, also of one in training: a last line that is just being written is left out."""
        path = run / METRICS
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        rows = []
        for line in text[: text.rfind("\n") + 1].splitlines():
            try:
                row = json.loads(line)
                _ = row["step"] + 0
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path} is damaged ({error!r}): its lines are rows of a training") from error
            rows.append(row)
        return cls(name, rows)

    def column(self, key: str) -> tuple[list[float], list[float | None]]:
        """Return the steps that have a value ``key``, and the values; None where the row has no number."""
        found = [(row["step"], row[key]) for row in self.rows if key in row]
        return [step for step, _ in found], [value for _, value in found]

    def last(self, key: str) -> float | None:
        """Return the last number of a column."""
        return next((value for value in reversed(self.column(key)[1]) if value is not None), None)

    def best(self, key: str) -> tuple[int, float] | None:
        """Return the highest number of a column and its step."""
        steps, values = self.column(key)
        found = [(value, -step) for step, value in zip(steps, values, strict=True) if value is not None]
        return (-int(max(found)[1]), max(found)[0]) if found else None


def training_charts(runs: Sequence[MetricsHistory]) -> list[Chart]:
    """Return loss, validation SI-SDR improvement, gradient norm with threshold, and clipped share of all runs."""
    several = len(runs) > 1
    charts = [
        _chart(runs, "loss", "Loss", {"loss": "training", "valid_loss": "validation"}, log=False),
        _chart(
            runs,
            "gain",
            "SI-SDR improvement, validation",
            {GAIN: ""},
            unit="dB",
            marks=not several,
        ),
        _chart(runs, "norm", "Gradient norm", {"grad_norm": "norm", "threshold": "threshold"}, log=True),
        _chart(runs, "clipped", "Steps clipped so far", {"clipped_share": ""}, unit="share"),
    ]
    return [chart for chart in charts if chart is not None]


def _chart(
    runs: Sequence[MetricsHistory],
    anchor: str,
    title: str,
    keys: dict[str, str],
    *,
    unit: str = "",
    log: bool | None = None,
    marks: bool = False,
) -> Chart | None:
    """Return the chart of a few columns of every run; the second column of each is dashed, or of another colour."""
    columns, styles = [], []
    for index, run in enumerate(runs):
        for which, (key, words) in enumerate(keys.items()):
            steps, values = run.column(key)
            if not any(value is not None for value in values):
                continue
            label = ", ".join(filter(None, (run.name if len(runs) > 1 else "", words))) or title
            second = which == 1
            color = index if len(runs) > 1 else which if key != "threshold" else None
            faint = key in ("loss", "grad_norm") and len(runs) > 1
            columns.append((steps, values))
            styles.append({"label": label, "color": color, "dashed": second, "faint": faint, "marks": marks})
    if not columns:
        return None
    x, values_of = aligned(columns)
    if log is not None and any(value is not None and value <= 0 for values in values_of for value in values):
        log = None
    series = [Series(values=values, **style) for values, style in zip(values_of, styles, strict=True)]  # type: ignore[arg-type]
    return Chart(f"chart-{anchor}", title, x, series, unit=unit, log=log, sync="training")


def dynamics_of(run: Path) -> Records | None:
    """Return the records of a run that was trained with ``--dynamics``; None for others."""
    path = run / DYNAMICS
    return Records.read(run) if path.is_file() and path.stat().st_size else None


def dynamics_charts(records: Records, prefix: str = "figure1") -> list[Chart]:
    """Return the panels of the AutoClip paper's Figure 1."""
    x = records.step.tolist()
    norm, smoothness = records.logarithms()
    usable = np.flatnonzero(np.isfinite(norm) & np.isfinite(smoothness))
    order = usable[np.argsort(norm[usable], kind="stable")]
    r = records.correlation()
    threshold = records.threshold[np.isfinite(records.threshold) & (records.threshold > 0)]
    scatter = Chart(
        f"{prefix}-smoothness",
        "log10 local smoothness by gradient norm",
        norm[order].tolist(),
        [Series("a recorded step", smoothness[order].tolist(), kind="points")],
        xlabel="log10 gradient norm",
        vlines=[float(np.log10(threshold[-1]))] if len(threshold) else [],
        note=(f"Pearson's r of the logarithms: {r:.2f}." if r is not None else "Too few records for a correlation.")
        + (" Dashed: the threshold at the end." if len(threshold) else ""),
    )
    return [
        Chart(f"{prefix}-step", "Step size", x, [Series("step size", _values(records.step_size))], sync=prefix),
        Chart(
            f"{prefix}-loss",
            "Training loss",
            x,
            [Series("loss", _values(records.loss))],
            log=_log(records.loss),
            sync=prefix,
        ),
        Chart(
            f"{prefix}-norm",
            "Gradient norm",
            x,
            [
                Series("norm", _values(records.grad_norm)),
                Series("threshold", _values(records.threshold), color=None, dashed=True),
            ][: 2 if len(threshold) else 1],
            log=_log(records.grad_norm),
            sync=prefix,
        ),
        scatter,
    ]


def _values(column: NDArray[np.float64]) -> Values:
    return [value if np.isfinite(value) else None for value in column.tolist()]


def _log(column: NDArray[np.float64]) -> bool | None:
    """Return that a logarithmic axis is right, or None where a value has no logarithm."""
    return True if np.nanmin(column, initial=np.inf) > 0 else None
