"""The training curves of one run, or of several on the same axes, from ``metrics.jsonl`` and ``dynamics.jsonl``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sepclip.errors import UserError
from sepclip.report.charts import Chart, Series, Values, aligned
from sepclip.training.dynamics import Records
from sepclip.training.run import DYNAMICS, METRICS

GAIN = "valid_si_sdr_improvement"


@dataclass(frozen=True)
class MetricsRow:
    """One row of ``metrics.jsonl``: its numbers by key; None stands for a number that was not finite."""

    step: int
    values: dict[str, float | None]


@dataclass(frozen=True)
class MetricsHistory:
    """The rows of a run's ``metrics.jsonl``; ``name`` is the label of its curves."""

    name: str
    rows: list[MetricsRow]

    @classmethod
    def read(cls, run: Path, name: str) -> "MetricsHistory":
        """Read the rows of a run. Raises UserError if the file is damaged.

        The run may still be in training: an incomplete last line is ignored.
        """
        path = run / METRICS
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        rows = []
        for line in text[: text.rfind("\n") + 1].splitlines():
            try:
                row = json.loads(line)
                step = row["step"] + 0
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path} is damaged ({error!r}): each line should be a row of metrics") from error
            rows.append(MetricsRow(step, {key: value for key, value in row.items() if _is_number_or_none(value)}))
        return cls(name, rows)

    def column(self, key: str) -> tuple[list[float], list[float | None]]:
        """Return the steps of the rows that have ``key``, and its values; None for a value that was not finite."""
        rows = [row for row in self.rows if key in row.values]
        return [row.step for row in rows], [row.values[key] for row in rows]

    def last(self, key: str) -> float | None:
        """Return the last number of a column, or None if it has no numbers."""
        return next((value for value in reversed(self.column(key)[1]) if value is not None), None)

    def best(self, key: str) -> tuple[int, float] | None:
        """Return the step and the value of the highest number of a column, the earliest of equal ones."""
        steps, values = self.column(key)
        pairs = [(value, -step) for step, value in zip(steps, values, strict=True) if value is not None]
        return (-int(max(pairs)[1]), max(pairs)[0]) if pairs else None


def _is_number_or_none(value: object) -> bool:
    return value is None or isinstance(value, int | float)


def training_charts(runs: Sequence[MetricsHistory]) -> list[Chart]:
    """Return the charts of loss, validation SI-SDR improvement, gradient norm with threshold, and clipped share."""
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
    """Return the chart of some columns of all runs, or None without values.

    ``keys`` maps each column to its label; the second column is dashed. With several runs, colours distinguish the
    runs, otherwise the columns.
    """
    several = len(runs) > 1
    columns, styles = [], []
    # one series for each column of each run; its values follow once all steps are known
    for run_index, run in enumerate(runs):
        for key_index, (key, key_label) in enumerate(keys.items()):
            steps, values = run.column(key)
            if not any(value is not None for value in values):
                continue
            style = Series(
                label=", ".join(filter(None, (run.name if several else "", key_label))) or title,
                values=(),
                color=run_index if several else key_index if key != "threshold" else None,
                dashed=key_index == 1,
                faint=several and key in ("loss", "grad_norm"),
                marks=marks,
            )
            columns.append((steps, values))
            styles.append(style)
    if not columns:
        return None
    # all series on the union of their steps
    x, aligned_values = aligned(columns)
    if log is not None and any(value is not None and value <= 0 for values in aligned_values for value in values):
        log = None  # a logarithmic axis cannot show these
    series = [replace(style, values=values) for style, values in zip(styles, aligned_values, strict=True)]
    return Chart(f"chart-{anchor}", title, x, series, unit=unit, log=log, sync="training")


def read_dynamics(run: Path) -> Records | None:
    """Return the records of a run that was trained with ``--dynamics``, or None for other runs."""
    path = run / DYNAMICS
    return Records.read(run) if path.is_file() and path.stat().st_size else None


def dynamics_charts(records: Records, prefix: str = "figure1") -> list[Chart]:
    """Return the panels of Figure 1 of the AutoClip paper, as charts whose anchors begin with ``prefix``."""
    x = records.step.tolist()
    norm, smoothness = records.logarithms()
    # the scatter plot by ascending norm, since the x of a chart ascends
    usable = np.flatnonzero(np.isfinite(norm) & np.isfinite(smoothness))
    order = usable[np.argsort(norm[usable], kind="stable")]
    r = records.correlation()
    threshold = records.threshold[np.isfinite(records.threshold) & (records.threshold > 0)]
    scatter = Chart(
        f"{prefix}-smoothness",
        "log10 local smoothness by gradient norm",
        norm[order].tolist(),
        [Series("recorded step", smoothness[order].tolist(), kind="points")],
        xlabel="log10 gradient norm",
        vlines=[float(np.log10(threshold[-1]))] if len(threshold) else [],
        note=(f"Pearson's r of the logarithms: {r:.2f}." if r is not None else "Too few records for a correlation.")
        + (" The dashed line is the threshold at the end." if len(threshold) else ""),
    )
    # the other panels over the steps, which zoom together
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
    """Return True for a logarithmic axis, or None if a value has no logarithm."""
    return True if np.nanmin(column, initial=np.inf) > 0 else None
