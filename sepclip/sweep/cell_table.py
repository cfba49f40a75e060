"""The table of a sweep, mean and difference with their intervals: for the terminal, as Markdown, CSV and JSON."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

import sepclip
from sepclip.audio.files import write_text
from sepclip.errors import counted
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.sweep.grid import Grid
from sepclip.sweep.intervals import Estimate, of_differences, of_runs
from sepclip.sweep.results import METRICS, TITLES, Result
from sepclip.terminal import out

SCHEMA_VERSION = 1
RUNS, LOGS = "runs", "logs"  # folders in that of the sweep


@dataclass(frozen=True)
class Entry:
    """One place of the table: runs that differ in their seed alone.

    ``estimate`` is None where none is done; ``difference`` is to the reference row, on the same seeds and files.
    """

    labels: tuple[str, ...]
    wanted: int
    done: int
    failed: int
    excluded: int  # files without a score in at least one run
    estimate: Estimate | None
    difference: Estimate | None
    is_reference: bool

    @property
    def status(self) -> str:
        """``done``, ``incomplete`` (some seeds are), ``failed`` or ``missing``."""
        if self.done == self.wanted:
            return "done"
        return "incomplete" if self.done else "failed" if self.failed else "missing"

    def value(self) -> str:
        """Return mean and interval as text, or what is there instead."""
        if self.estimate is None:
            return "no score" if self.done else self.status
        seeds = "" if self.done == self.wanted else f" ({self.done} of {self.wanted} seeds)"
        return _with_half(f"{self.estimate.mean:.2f}", self.estimate) + seeds

    def change(self) -> str:
        """Return the difference to the reference and its interval as text, or what is there instead."""
        if self.is_reference:
            return "reference"
        if self.difference is None:
            return "-"
        return _with_half(f"{self.difference.mean:+.2f}", self.difference) + "*" * self.difference.leaves_out_zero


@dataclass(frozen=True)
class Table:
    """All places of the table of one metric, row by row."""

    grid: Grid
    metric: str
    entries: list[list[Entry]]

    @classmethod
    def of(cls, grid: Grid, results: Mapping[str, Result], metric: str) -> "Table":
        """Make the table from what is known of the cells."""
        by_place: dict[tuple[str, ...], list[Result]] = {}
        for result in results.values():
            by_place.setdefault(result.cell.labels, []).append(result)
        rows = [
            [_entry(grid, by_place, grid.labels(row, column), metric) for column in grid.columns()]
            for row in grid.rows()
        ]
        return cls(grid, metric, rows)

    def complete(self) -> bool:
        """Whether every cell is done."""
        return all(entry.status == "done" for row in self.entries for entry in row)

    def titles(self) -> list[str]:
        """Return what stands above the columns: the keys, then the values of the second."""
        second = f" \\ {self.grid.keys[1]}" if len(self.grid.keys) > 1 else ""
        return [f"{self.grid.keys[0]}{second}", *(column or TITLES[self.metric] for column in self.grid.columns())]

    def row_titles(self) -> list[str]:
        """Return what stands before the rows."""
        return [self.grid.row_title(row) for row in self.grid.rows()]

    def parts(self) -> list[tuple[str, list[list[str]]]]:
        """Return the tables to show, each with its heading: the means, and the differences to the reference."""
        parts = [(self.heading(), [[entry.value() for entry in row] for row in self.entries])]
        if self.grid.reference is not None:
            heading = (
                f"Difference to {self.grid.keys[0]} {self.grid.reference} in dB on the same files and seeds "
                "(*: the interval leaves out 0)"
            )
            parts.append((heading, [[entry.change() for entry in row] for row in self.entries]))
        return parts

    def heading(self) -> str:
        """Return what the means are of."""
        found = [entry.estimate for row in self.entries for entry in row if entry.estimate]
        files, seeds = [one.files for one in found], [one.seeds for one in found]
        over = "files and seeds" if max(seeds, default=1) > 1 else "files"
        return (
            f"Mean {TITLES[self.metric]} in dB ± half of the 95 % interval over {over}; "
            f"{_range(files, 'file')}, {_range(seeds, 'seed')}"
        )

    def remarks(self) -> list[str]:
        """Return what has to be known beside the numbers: what is missing, has failed or was left out."""
        entries = [entry for row in self.entries for entry in row]
        wanted, done = sum(entry.wanted for entry in entries), sum(entry.done for entry in entries)
        failed, excluded = sum(entry.failed for entry in entries), sum(entry.excluded for entry in entries)
        told = []
        if done < wanted:
            told.append(f"Not complete: {done} of {counted(wanted, 'cell')} done, {failed} failed.")
        if excluded:
            told.append(f"Left out for want of a score: {counted(excluded, 'file')} in all (cells.json says why).")
        return told

    def show(self) -> None:
        """Print the tables and the remarks on stdout; on a terminal that is too narrow, numbers stay whole."""
        for heading, rows in self.parts():
            shown = RichTable(box=box.SIMPLE_HEAD)
            first, *others = self.titles()
            shown.add_column(Text(first))
            for title in others:
                shown.add_column(Text(title), justify="right", no_wrap=True)
            for title, texts in zip(self.row_titles(), rows, strict=True):
                shown.add_row(Text(title), *map(Text, texts))
            out.print(heading, markup=False, soft_wrap=True)
            needed = out.measure(shown, options=out.options.update(max_width=10_000)).maximum
            Console(width=max(out.width, needed), highlight=False).print(shown)
        for remark in self.remarks():
            out.print(remark, markup=False, soft_wrap=True)

    def markdown(self, about: str) -> str:
        """Return the tables as Markdown."""
        lines = [f"# {TITLES[self.metric]}: {' by '.join(self.grid.keys[:2])}", "", about]
        for heading, rows in self.parts():
            titles = self.titles()
            lines += ["", f"{heading}.", "", f"| {' | '.join(titles)} |"]
            lines.append(f"|---|{'---:|' * (len(titles) - 1)}")
            lines += [f"| {' | '.join([t, *texts])} |" for t, texts in zip(self.row_titles(), rows, strict=True)]
        for remark in self.remarks():
            lines += ["", remark]
        return "\n".join([*lines, "", f"Made by sepclip {sepclip.__version__}; the interval: docs/METHOD.md.", ""])

    def rows(self) -> list[dict[str, Any]]:
        """Return the entries as plain data: a column for each key, levels and intervals in dB."""
        found = []
        for entry in (entry for row in self.entries for entry in row):
            estimate, difference = entry.estimate, entry.difference
            found.append(
                {
                    **dict(zip(self.grid.keys, entry.labels, strict=True)),
                    "metric": self.metric,
                    "status": entry.status,
                    **_numbers("mean", estimate),
                    "reference": self.grid.reference,
                    **_numbers("difference", difference),
                    "seeds": estimate.seeds if estimate else 0,
                    "files": estimate.files if estimate else 0,
                    "seeds_wanted": entry.wanted,
                    "excluded_files": entry.excluded,
                }
            )
        return found

    def csv(self) -> str:
        """Return the entries as CSV, a row each."""
        return _csv(self.rows())


def _entry(grid: Grid, by_place: Mapping[tuple[str, ...], list[Result]], labels: tuple[str, ...], metric: str) -> Entry:
    results, is_reference = by_place.get(labels, []), labels[0] == grid.reference
    runs = {found.cell.seed: found.scores[metric] for found in results if found.status == "done"}
    reference = by_place.get((grid.reference, *labels[1:]), []) if grid.reference and not is_reference else []
    others = {found.cell.seed: found.scores[metric] for found in reference if found.status == "done"}
    return Entry(
        labels,
        wanted=len(results),
        done=len(runs),
        failed=sum(found.status == "failed" for found in results),
        excluded=len({name for found in results for name in found.excluded}),
        estimate=of_runs(list(runs.values())),
        difference=of_differences(runs, others),
        is_reference=is_reference,
    )


def _numbers(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    mean, half = (estimate.mean, estimate.half) if estimate else (None, None)
    low, high = (mean - half, mean + half) if mean is not None and half is not None else (None, None)
    return {f"{name}_db": mean, f"{name}_low_db": low, f"{name}_high_db": high}


def _with_half(mean: str, estimate: Estimate) -> str:
    return mean if estimate.half is None else f"{mean} ± {estimate.half:.2f}"


def _range(numbers: Sequence[int], noun: str) -> str:
    """Return ``"6 files"``, or ``"5 to 6 files"`` where the entries differ."""
    low, high = min(numbers, default=0), max(numbers, default=0)
    return counted(high, noun) if low == high else f"{low} to {counted(high, noun)}"


def run_rows(grid: Grid, results: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Return a row of plain data for each run: which cell, how it ended, its training and its mean scores in dB."""
    rows = []
    for result in results.values():
        means = {metric: result.mean(metric) for metric in METRICS}
        rows.append(
            {
                **dict(zip(grid.keys, result.cell.labels, strict=True)),
                "seed": result.cell.seed,
                "status": result.status,
                **{f"{metric}_db": mean if math.isfinite(mean) else None for metric, mean in means.items()},
                "files": len(result.scores.get(METRICS[0], {})),
                "excluded_files": len(result.excluded),
                **{
                    name: result.training.get(name)
                    for name in ("steps", "seconds", "best_step", "best_valid_si_sdr_improvement", "clipped_share")
                },
                "reason": result.reason,
                "run": f"{RUNS}/{result.run.name}",
                "log": f"{LOGS}/{result.log.name}",
                "digest": result.cell.digest,
            }
        )
    return rows


def cells_csv(grid: Grid, results: Mapping[str, Result]) -> str:
    """Return a row a run as CSV."""
    return _csv(run_rows(grid, results))


def cells_json(grid: Grid, results: Mapping[str, Result], data: MixtureSet, group: str | None) -> str:
    """Return all runs as JSON, each with its configuration and with what was left out of its scores and why."""
    runs = [
        {**row, "excluded": dict(result.excluded), "config": result.cell.config.model_dump()}
        for row, result in zip(run_rows(grid, results), results.values(), strict=True)
    ]
    document = {
        "schema_version": SCHEMA_VERSION,
        "sepclip": sepclip.__version__,
        "grid": str(grid.path),
        "data": {"path": str(data.path.resolve()), "digest": data.digest, "split": "tt", "group": group},
        "cells": runs,
    }
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def write_if_new(path: Path, text: str) -> bool:
    """Write a text unless the file holds it already; returns whether it was written."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text)
    return True


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
