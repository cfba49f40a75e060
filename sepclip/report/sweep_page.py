"""The page of a sweep: its table as heat maps, the validation curves, and a sortable table of all runs."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepclip.config.load import flatten, load_config
from sepclip.errors import UserError, counted
from sepclip.report.charts import Chart, Series, aligned
from sepclip.report.curves import GAIN, MetricsHistory
from sepclip.report.facts import facts_table
from sepclip.report.markup import Content, Markup, minus, tag
from sepclip.report.page import Headline, Page
from sepclip.report.tables import Value, grid, sortable
from sepclip.sweep.intervals import LEAST_SEEDS, few_seeds_notes
from sepclip.sweep.results import TITLES

CELLS, TABLE = "cells.json", "table.csv"
_MOST_CURVES = 8  # of a chart


@dataclass(frozen=True)
class HeatmapEntry:
    """One row of ``table.csv``, which is one entry of the heat maps: numbers in dB, None for missing ones."""

    labels: tuple[str, ...]  # one per key of the grid
    status: str
    mean: float | None
    mean_half_width: float | None
    difference: float | None
    difference_half_width: float | None
    is_reference: bool
    seeds: int
    difference_seeds: int
    wanted: int

    def column(self) -> str | None:
        """Return the label of the second key, or None if there is no second key."""
        return self.labels[1] if len(self.labels) > 1 else None

    def row(self) -> tuple[str, ...]:
        """Return the labels of the first key and of the keys after the second."""
        return (self.labels[0], *self.labels[2:])

    def number(self, *, difference: bool) -> tuple[float | None, float | None]:
        """Return the mean or the difference, and the half-width of its interval."""
        return (self.difference, self.difference_half_width) if difference else (self.mean, self.mean_half_width)


@dataclass(frozen=True)
class RunRecord:
    """One run of ``cells.json``."""

    labels: tuple[str, ...]  # one per key of the grid
    seed: int
    status: str
    reason: str | None  # why it failed
    run: str  # its folder, relative to that of the sweep
    config: dict[str, Any]  # all keys of base.yaml, flat
    numbers: dict[str, float | None]  # scores and facts of the training, by the keys of ``_RUN_COLUMNS``

    def label(self) -> str:
        """Return the name of the run's curve, which leaves out the second key: that selects the chart."""
        return ", ".join((self.labels[0], *self.labels[2:]))


# columns of numbers in the table of all runs: key in cells.json to heading
_RUN_COLUMNS = {
    "seed": "seed",
    "si_sdr_db": "SI-SDR",
    "si_sdr_improvement_db": "SI-SDRi",
    "best_valid_si_sdr_improvement": "best validation",
    "best_step": "best step",
    "clipped_share": "clipped",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class SweepFiles:
    """The contents of the files of a sweep."""

    keys: list[str]  # of the grid, without the seed
    metric: str  # title of the metric of the table
    entries: list[HeatmapEntry]
    runs: list[RunRecord]
    grid: str  # name of the grid file
    data: dict[str, str | None]  # path, digest, split and group of the test mixtures; no group: all


def is_sweep(path: Path) -> bool:
    """Return whether a folder contains a sweep with at least one result."""
    return (path / CELLS).is_file() and (path / TABLE).is_file()


def read_sweep(path: Path) -> SweepFiles:
    """Read ``cells.json`` and ``table.csv``. Raises UserError if they are damaged."""
    try:
        document = json.loads((path / CELLS).read_text(encoding="utf-8"))
        with (path / TABLE).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        keys = list(rows[0])[: list(rows[0]).index("metric")]  # the keys of the grid come before the metric
        return SweepFiles(
            keys,
            metric=TITLES.get(rows[0]["metric"], rows[0]["metric"]),
            entries=[_heatmap_entry(row, keys) for row in rows],
            runs=[_run_record(cell, keys) for cell in document["cells"]],
            grid=Path(document["grid"]).name,
            data={key: document["data"][key] for key in ("path", "digest", "split", "group")},
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a complete sweep ({error!r}): run its `sepclip sweep` command again") from error


def _heatmap_entry(row: dict[str, str], keys: Sequence[str]) -> HeatmapEntry:
    """Return one row of ``table.csv``, in which missing numbers are empty."""

    def number(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    def half_width(name: str) -> float | None:
        high, mean = number(f"{name}_high_db"), number(f"{name}_db")
        return None if high is None or mean is None else high - mean

    return HeatmapEntry(
        labels=tuple(row[key] for key in keys),
        status=row["status"],
        mean=number("mean_db"),
        mean_half_width=half_width("mean"),
        difference=number("difference_db"),
        difference_half_width=half_width("difference"),
        is_reference=bool(row["reference"]) and row[keys[0]] == row["reference"],
        seeds=int(row["seeds"]),
        difference_seeds=int(row.get("difference_seeds", row["seeds"])),  # a column that 0.1 did not write
        wanted=int(row["seeds_wanted"]),
    )


def _run_record(cell: dict[str, Any], keys: Sequence[str]) -> RunRecord:
    _ = cell["config"]["clip"]  # a configuration
    return RunRecord(
        labels=tuple(str(cell[key]) for key in keys),
        seed=cell["seed"],
        status=str(cell["status"]),
        reason=str(cell["reason"]) if cell.get("reason") else None,
        run=cell["run"],
        config=flatten(cell["config"]),
        numbers={key: cell.get(key) for key in _RUN_COLUMNS},
    )


def sweep_page(path: Path) -> Page:
    """Return the page of a sweep. Raises UserError if its files are damaged."""
    sweep = read_sweep(path)
    keys, metric = sweep.keys, sweep.metric
    done = sum(run.status == "done" for run in sweep.runs)
    facts = {
        "grid": sweep.grid,
        "cells": f"{done} of {len(sweep.runs)} done",
        "by": " × ".join(keys),
        "seeds": ", ".join(dict.fromkeys(str(run.seed) for run in sweep.runs)),
        "test mixtures": f"{Path(sweep.data['path'] or '').name}, {sweep.data['group'] or 'all'}",
    }
    page = Page("sepclip report of a sweep", path.resolve().name, _headline(sweep), facts)
    # the table, as means and as differences to the reference
    notes = "".join(f" Intervals of {note}." for note in few_seeds_notes(one.seeds for one in sweep.entries))
    over = "seeds and files" if any(entry.seeds > 1 for entry in sweep.entries) else "files"
    lead = f"Mean ± half-width of the 95 % interval over {over}, in dB. A stronger colour is a higher score.{notes}"
    page.add("table", f"{metric} by {' and '.join(keys[:2])}", lead, _heatmap(sweep))
    reference = next((entry.labels[0] for entry in sweep.entries if entry.is_reference), None)
    if reference is not None:
        lead = (
            f"Difference to {keys[0]} {reference} on the same files and seeds, in dB. An asterisk marks those of "
            f"three seeds or more whose 95 % interval excludes 0.{notes}"
        )
        page.add("differences", "Differences", lead, _heatmap(sweep, difference=True))
    # the runs
    curves = grid([chart.markup() for chart in sweep_charts(path, sweep)])
    page.add("curves", "Validation during training", "Means over the seeds.", curves)
    page.add("runs", "All runs", "", _runs_table(sweep))
    lead = "The settings that all cells share and that differ from the defaults."
    page.add("run", "Configuration", lead, _common_settings(sweep))
    return page


def _headline(sweep: SweepFiles) -> Headline | None:
    """Return the highest mean of the table, or None without means."""
    scored = [(entry.mean, entry) for entry in sweep.entries if entry.mean is not None]
    if not scored:
        return None
    mean, best = max(scored, key=lambda pair: pair[0])
    settings = ", ".join(f"{key} {label}" for key, label in zip(sweep.keys, best.labels, strict=True))
    return Headline(minus(f"{mean:.1f}"), "dB", f"{sweep.metric} of the best entry: {settings}")


def _heatmap(sweep: SweepFiles, *, difference: bool = False) -> Markup:
    """Return the table as a heat map with the first key in rows and the second in columns."""
    keys = sweep.keys
    columns = list(dict.fromkeys(entry.column() for entry in sweep.entries))
    rows = list(dict.fromkeys(entry.row() for entry in sweep.entries))
    entries = {(entry.row(), entry.column()): entry for entry in sweep.entries}
    # colours: means from the lowest to the highest, differences from 0 to the largest of either sign
    numbers = [entry.number(difference=difference)[0] for entry in sweep.entries]
    values = [value for value in numbers if value is not None]
    if difference:
        scale = _ColourScale(0.0, max(map(abs, values), default=1.0), best=None)
    else:
        scale = _ColourScale(min(values, default=0), max(values, default=1), best=max(values, default=None))
    corner = " \\ ".join(keys[:2])
    head = [tag("th", corner, scope="col"), *(tag("th", column or sweep.metric, scope="col") for column in columns)]
    body = []
    for row in rows:
        further = "".join(f", {key}={value}" for key, value in zip(keys[2:], row[1:], strict=True))
        cells = [_heatmap_cell(entries[row, column], scale, difference=difference) for column in columns]
        body.append(tag("tr", tag("th", f"{row[0]}{further}", scope="row"), cells))
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", body), class_="heat")
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=f"{sweep.metric} by {corner}")


@dataclass(frozen=True)
class _ColourScale:
    """The range of a heat map; ``best`` is the value to emphasize."""

    low: float
    high: float
    best: float | None


def _heatmap_cell(entry: HeatmapEntry, scale: _ColourScale, *, difference: bool) -> Markup:
    """Return one entry: its number over its colour, with the interval and the seeds that are missing."""
    value, half_width = entry.number(difference=difference)
    if value is None:
        return tag("td", "reference" if difference and entry.is_reference else entry.status, class_="none")
    share = 100 * (abs(value) if difference else value - scale.low) / ((scale.high - scale.low) or 1.0)
    certain = half_width is not None and abs(value) > half_width and entry.difference_seeds >= LEAST_SEEDS
    star = "*" if difference and certain else ""
    notes = [] if half_width is None else [f"± {half_width:.2f}"]
    if entry.seeds < entry.wanted:
        notes.append(f"{entry.seeds} of {counted(entry.wanted, 'seed')}")
    number = minus(f"{value:+.2f}" if difference else f"{value:.2f}") + star
    # losses have a colour of their own
    kind = "value less" if difference and value < 0 else "value best" if value == scale.best else "value"
    return tag(
        "td", number, tag("small", ", ".join(notes)) if notes else None, class_=kind, style=f"--share: {share:.0f}%"
    )


def sweep_charts(path: Path, sweep: SweepFiles) -> list[Chart]:
    """Return a validation chart for each label of the second key, with a curve per row: the mean over its seeds."""
    second = sweep.keys[1] if len(sweep.keys) > 1 else None
    columns = list(dict.fromkeys(run.labels[1] for run in sweep.runs)) if second else [None]
    charts = []
    for number, column in enumerate(columns):
        # the validation scores of each seed, by the label of the row
        curves: dict[str, list[dict[float, float]]] = {}
        for run in sweep.runs:
            if second and run.labels[1] != column:
                continue
            steps, values = MetricsHistory.read(path / run.run, "").column(GAIN)
            curve = {step: value for step, value in zip(steps, values, strict=True) if value is not None}
            if curve:
                curves.setdefault(run.label(), []).append(curve)
        # their means, on the union of the steps
        means = {label: _mean_curve(seeds) for label, seeds in list(curves.items())[:_MOST_CURVES]}
        x, aligned_values = aligned([(list(mean), list(mean.values())) for mean in means.values()])
        series = [
            Series(label, values, color=index, marks=len(x) < 40)
            for index, (label, values) in enumerate(zip(means, aligned_values, strict=True))
        ]
        omitted = len(curves) - len(means)
        charts.append(
            Chart(
                f"curve-{number}",
                f"{second} {column}" if second else "Validation",
                x,
                series,
                unit="dB SI-SDRi",
                sync="sweep",
                note=f"{counted(omitted, 'more curve')} not drawn." if omitted else "",
            )
        )
    return charts


def _mean_curve(curves: Sequence[Mapping[float, float]]) -> dict[float, float]:
    """Return the mean of curves (step to value) at the steps that all of them have."""
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    return {step: sum(curve[step] for curve in curves) / len(curves) for step in steps}


def _runs_table(sweep: SweepFiles) -> Markup:
    titles = [*sweep.keys, "status", *_RUN_COLUMNS.values()]
    rows: list[list[Value]] = [[*run.labels, _status(run), *run.numbers.values()] for run in sweep.runs]
    caption = f"{counted(len(sweep.runs), 'run')}, scores in dB"
    return sortable("cells", caption, titles, rows, text_columns=len(sweep.keys) + 1)


def _status(run: RunRecord) -> str:
    return f"{run.status}: {run.reason}" if run.reason else run.status


def _common_settings(sweep: SweepFiles) -> list[Content]:
    """Return the settings that all cells share and that differ from base.yaml, and the test mixtures."""
    defaults = flatten(load_config().model_dump())
    configs = [run.config for run in sweep.runs]
    common = {key: value for key, value in configs[0].items() if all(config.get(key) == value for config in configs)}
    changed = [[key, value, defaults.get(key)] for key, value in common.items() if value != defaults.get(key)]
    data = sweep.data
    mixtures = {"mixtures": data["path"], "digest": data["digest"], "split": data["split"]}
    mixtures["group"] = data["group"] or "all"
    return [
        facts_table(changed, ["key", "all cells", "base.yaml"]),
        facts_table([[key, value] for key, value in mixtures.items()]),
    ]
