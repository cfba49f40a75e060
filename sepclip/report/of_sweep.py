"""The page of a sweep: its table as heat maps, every run in a table that can be sorted, and their curves."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepclip.config.load import flatten, load_config
from sepclip.errors import UserError, counted
from sepclip.report.charts import Chart, Series, aligned
from sepclip.report.curves import GAIN, MetricsHistory
from sepclip.report.facts import table_of
from sepclip.report.markup import Content, Markup, minus, tag
from sepclip.report.page import Headline, Page
from sepclip.report.tables import grid, sortable
from sepclip.sweep.results import TITLES

CELLS, TABLE = "cells.json", "table.csv"
_MOST_CURVES = 8


@dataclass(frozen=True)
class Place:
    """One place of the table, as ``table.csv`` has it: numbers in dB, None where there is none."""

    labels: tuple[str, ...]
    status: str
    mean: float | None
    half: float | None
    difference: float | None
    difference_half: float | None
    is_reference: bool
    seeds: int
    wanted: int

    def column(self) -> str | None:
        """Return the value of the second key."""
        return self.labels[1] if len(self.labels) > 1 else None

    def row(self) -> tuple[str, ...]:
        """Return the values of the first key and of those after the second."""
        return (self.labels[0], *self.labels[2:])


def is_sweep(path: Path) -> bool:
    """Whether a folder is that of a sweep with something to tell."""
    return (path / CELLS).is_file() and (path / TABLE).is_file()


@dataclass(frozen=True)
class Told:
    """What the files of a sweep tell: the keys of its grid, the title of its metric, its places and its cells."""

    keys: list[str]
    metric: str
    places: list[Place]
    cells: list[dict[str, Any]]
    document: dict[str, Any]


def read_sweep(path: Path) -> Told:
    """Read ``cells.json`` and ``table.csv``. Raises UserError where they are damaged."""
    try:
        document = json.loads((path / CELLS).read_text(encoding="utf-8"))
        with (path / TABLE).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        keys = list(rows[0])[: list(rows[0]).index("metric")]
        metric = TITLES.get(rows[0]["metric"], rows[0]["metric"])
        _ = [(cell["status"], cell["run"], cell["seed"], cell["config"]["clip"]) for cell in document["cells"]]
        _ = (document["grid"], document["data"]["path"], document["data"]["digest"], document["data"]["group"])
        return Told(keys, metric, [_place(row, keys) for row in rows], document["cells"], document)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{path} is no whole sweep ({error!r}): give its `sepclip sweep` command again") from error


def sweep_page(path: Path) -> Page:
    """Return the page of a sweep. Raises UserError where its files are damaged."""
    told_of = read_sweep(path)
    keys, metric, places, cells, document = (
        told_of.keys,
        told_of.metric,
        told_of.places,
        told_of.cells,
        told_of.document,
    )
    configs = [flatten(cell["config"]) for cell in cells]
    done = sum(cell["status"] == "done" for cell in cells)
    data = document["data"]
    curves = grid([chart.markup() for chart in sweep_charts(path, cells, keys)])
    facts = {
        "grid": Path(document["grid"]).name,
        "cells": f"{done} of {len(cells)} done",
        "by": " × ".join(keys),
        "seeds": ", ".join(dict.fromkeys(str(cell["seed"]) for cell in cells)),
        "test mixtures": f"{Path(data['path']).name}, {data['group'] or 'all'}",
    }
    page = Page("sepclip report of a sweep", path.resolve().name, _headline(places, keys, metric), facts)
    told = "Mean ± half of its 95 % interval over seeds and files, in dB; the stronger the colour, the better."
    page.add("table", f"{metric} by {' and '.join(keys[:2])}", told, _heat(places, keys, metric))
    reference = next((place.labels[0] for place in places if place.is_reference), None)
    if reference is not None:
        lead = (
            f"Against {keys[0]} {reference}, of the same files and seeds, in dB. "
            f"An asterisk: the 95 % interval leaves out 0."
        )
        page.add("differences", "Differences", lead, _heat(places, keys, metric, difference=True))
    page.add("curves", "Validation while training", "Means over the seeds.", curves)
    page.add("runs", "Every run", "", _runs(cells, keys, metric))
    page.add("run", "What was run", "What all cells have in common and the defaults do not.", _common(configs, data))
    return page


def _place(row: dict[str, str], keys: Sequence[str]) -> Place:
    def number(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    def half(name: str) -> float | None:
        high, mean = number(f"{name}_high_db"), number(f"{name}_db")
        return None if high is None or mean is None else high - mean

    return Place(
        labels=tuple(row[key] for key in keys),
        status=row["status"],
        mean=number("mean_db"),
        half=half("mean"),
        difference=number("difference_db"),
        difference_half=half("difference"),
        is_reference=bool(row["reference"]) and row[keys[0]] == row["reference"],
        seeds=int(row["seeds"]),
        wanted=int(row["seeds_wanted"]),
    )


def _headline(places: Sequence[Place], keys: Sequence[str], metric: str) -> Headline | None:
    best = max((place for place in places if place.mean is not None), key=lambda place: place.mean or 0.0, default=None)
    if best is None or best.mean is None:
        return None
    told = ", ".join(f"{key} {label}" for key, label in zip(keys, best.labels, strict=True))
    return Headline(minus(f"{best.mean:.1f}"), "dB", f"{metric} of the best place: {told}")


def _heat(places: Sequence[Place], keys: Sequence[str], metric: str, *, difference: bool = False) -> Markup:
    """Return the table as a heat map: rows of the first key, columns of the second."""
    columns = list(dict.fromkeys(place.column() for place in places))
    rows = list(dict.fromkeys(place.row() for place in places))
    by_place = {(place.row(), place.column()): place for place in places}
    values = [place.difference if difference else place.mean for place in places]
    found = [value for value in values if value is not None]
    low, high = (
        (0.0, max(map(abs, found), default=1.0)) if difference else (min(found, default=0), max(found, default=1))
    )
    corner = " \\ ".join(keys[:2])
    head = [tag("th", corner, scope="col"), *(tag("th", column or metric, scope="col") for column in columns)]
    body = []
    for row in rows:
        others = "".join(f", {key}={value}" for key, value in zip(keys[2:], row[1:], strict=True))
        cells = [
            _heat_cell(
                by_place[row, column],
                low,
                high,
                difference=difference,
                best=not difference and max(found, default=None),
            )
            for column in columns
        ]
        body.append(tag("tr", tag("th", f"{row[0]}{others}", scope="row"), cells))
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", body), class_="heat")
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=f"{metric} by {corner}")


def _heat_cell(place: Place, low: float, high: float, *, difference: bool, best: float | None) -> Markup:
    value, half = (place.difference, place.difference_half) if difference else (place.mean, place.half)
    if value is None:
        return tag("td", "reference" if difference and place.is_reference else place.status, class_="none")
    share = 100 * (abs(value) if difference else value - low) / ((high - low) or 1.0)
    star = "*" if difference and half is not None and abs(value) > half else ""
    notes = [] if half is None else [f"± {half:.2f}"]
    if place.seeds < place.wanted:
        notes.append(f"{place.seeds} of {counted(place.wanted, 'seed')}")
    number = minus(f"{value:+.2f}" if difference else f"{value:.2f}") + star
    kind = "value less" if difference and value < 0 else "value best" if best is not None and value == best else "value"
    return tag(
        "td", number, tag("small", ", ".join(notes)) if notes else None, class_=kind, style=f"--share: {share:.0f}%"
    )


def sweep_charts(path: Path, cells: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[Chart]:
    """Return a chart for each value of the second key: a line for each row, the mean over its seeds."""
    charts = []
    second = keys[1] if len(keys) > 1 else None
    columns = list(dict.fromkeys(cell[second] for cell in cells)) if second else [None]
    for number, column in enumerate(columns):
        lines: dict[str, list[dict[float, float]]] = {}
        for cell in cells:
            if second and cell[second] != column:
                continue
            steps, values = MetricsHistory.read(path / cell["run"], "").column(GAIN)
            table = {step: value for step, value in zip(steps, values, strict=True) if value is not None}
            label = ", ".join(str(cell[key]) for key in keys if key != second)
            if table:
                lines.setdefault(label, []).append(table)
        means = {label: _mean(tables) for label, tables in list(lines.items())[:_MOST_CURVES]}
        x, columns_of = aligned([(list(mean), list(mean.values())) for mean in means.values()])
        series = [
            Series(label, values, color=index, marks=len(x) < 40)
            for index, (label, values) in enumerate(zip(means, columns_of, strict=True))
        ]
        title = f"{second} {column}" if second else "Validation"
        left = len(lines) - len(means)
        note = f"{left} more are not drawn." if left else ""
        charts.append(Chart(f"curve-{number}", title, x, series, unit="dB SI-SDRi", sync="sweep", note=note))
    return charts


def _mean(tables: Sequence[dict[float, float]]) -> dict[float, float]:
    """Return the mean of tables at the steps that all of them have."""
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    return {step: sum(table[step] for table in tables) / len(tables) for step in steps}


def _runs(cells: Sequence[dict[str, Any]], keys: Sequence[str], metric: str) -> Markup:
    titles = [*keys, "status", "seed", "SI-SDR", "SI-SDRi", "best validation", "best step", "clipped", "seconds"]
    names = (
        "seed",
        "si_sdr_db",
        "si_sdr_improvement_db",
        "best_valid_si_sdr_improvement",
        "best_step",
        "clipped_share",
    )
    rows = [
        [*(str(cell[key]) for key in keys), _status(cell), *(cell.get(name) for name in names), cell.get("seconds")]
        for cell in cells
    ]
    return sortable("cells", f"{counted(len(cells), 'run')}, scores in dB", titles, rows, words=len(keys) + 1)


def _status(cell: dict[str, Any]) -> str:
    return f"{cell['status']}: {cell['reason']}" if cell.get("reason") else str(cell["status"])


def _common(configs: Sequence[dict[str, Any]], data: dict[str, Any]) -> list[Content]:
    base = flatten(load_config().model_dump())
    common = {key: value for key, value in configs[0].items() if all(other.get(key) == value for other in configs)}
    changed = [[key, value, base.get(key)] for key, value in common.items() if value != base.get(key)]
    told = {"mixtures": data["path"], "digest": data["digest"], "split": data["split"], "group": data["group"] or "all"}
    return [
        table_of(changed, ["key", "all cells", "base.yaml"]),
        table_of([[key, value] for key, value in told.items()]),
    ]
