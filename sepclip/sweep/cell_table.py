"""The table of a sweep, means and differences with their intervals: for the terminal, as Markdown, CSV and JSON."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

import sepclip
from sepclip.audio.files import write_text
from sepclip.errors import counted
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.sweep.grid import Grid
from sepclip.sweep.intervals import Estimate, estimate_difference, estimate_mean, few_seeds_notes
from sepclip.sweep.results import METRICS, TITLES, Result
from sepclip.terminal import out, print_table

SCHEMA_VERSION = 1
RUNS, LOGS = "runs", "logs"  # folders inside the folder of the sweep
# One row of a CSV or JSON table by column: text, numbers, and None for a number that does not exist.
TableRow = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Entry:
    """One entry of the table: the runs that differ only in their seed.

    ``estimate`` is None if no run is done. ``difference`` is to the reference row, over the seeds and files in both.
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
        """``done``, ``incomplete`` (only some seeds are done), ``failed`` or ``missing``."""
        if self.done == self.wanted:
            return "done"
        return "incomplete" if self.done else "failed" if self.failed else "missing"

    def mean_text(self) -> str:
        """Return the mean with its interval as text, or the status if there is no mean."""
        if self.estimate is None:
            return "no score" if self.done else self.status
        seeds = "" if self.done == self.wanted else f" ({self.done} of {self.wanted} seeds)"
        return _with_interval(f"{self.estimate.mean:.2f}", self.estimate) + seeds

    def difference_text(self) -> str:
        """Return the difference to the reference with its interval as text, or why there is no difference."""
        if self.is_reference:
            return "reference"
        if self.difference is None:
            return "-"
        return _with_interval(f"{self.difference.mean:+.2f}", self.difference) + "*" * self.difference.marked


@dataclass(frozen=True)
class Table:
    """The table of one metric: all its entries, row by row."""

    grid: Grid
    metric: str
    entries: list[list[Entry]]

    @classmethod
    def from_results(cls, grid: Grid, results: Mapping[str, Result], metric: str) -> "Table":
        """Return the table of ``results``, which are by the digest of their cell."""
        # the cells that share their labels differ only in the seed, and form one entry
        by_labels: dict[tuple[str, ...], list[Result]] = {}
        for result in results.values():
            by_labels.setdefault(result.cell.labels, []).append(result)
        rows = [
            [_entry(grid, by_labels, grid.labels(row, column), metric) for column in grid.columns()]
            for row in grid.rows()
        ]
        return cls(grid, metric, rows)

    def complete(self) -> bool:
        """Return whether every cell is done."""
        return all(entry.status == "done" for row in self.entries for entry in row)

    def titles(self) -> list[str]:
        """Return the column headings: the names of the first two keys, then the labels of the second."""
        second = f" \\ {self.grid.keys[1]}" if len(self.grid.keys) > 1 else ""
        return [f"{self.grid.keys[0]}{second}", *(column or TITLES[self.metric] for column in self.grid.columns())]

    def row_titles(self) -> list[str]:
        """Return the row headings."""
        return [self.grid.row_title(row) for row in self.grid.rows()]

    def parts(self) -> list[tuple[str, list[list[str]]]]:
        """Return each table as a heading and its texts: the means, and the differences if there is a reference."""
        parts = [(self.heading(), [[entry.mean_text() for entry in row] for row in self.entries])]
        if self.grid.reference is not None:
            heading = (
                f"Difference to {self.grid.keys[0]} {self.grid.reference} in dB on the same files and seeds "
                "(*: three seeds or more, and the interval leaves out 0)"
            )
            parts.append((heading, [[entry.difference_text() for entry in row] for row in self.entries]))
        return parts

    def heading(self) -> str:
        """Return the heading of the means: the metric, and the numbers of files and seeds."""
        # entries may differ in both if cells are missing, hence the ranges
        estimates = [entry.estimate for row in self.entries for entry in row if entry.estimate]
        files, seeds = [estimate.files for estimate in estimates], [estimate.seeds for estimate in estimates]
        over = "files and seeds" if max(seeds, default=1) > 1 else "files"
        return (
            f"Mean {TITLES[self.metric]} in dB ± half of the 95 % interval over {over}; "
            f"{_range(files, 'file')}, {_range(seeds, 'seed')}"
        )

    def remarks(self) -> list[str]:
        """Return the remarks below the table: too few seeds, and how much is missing, has failed or was excluded."""
        entries = [entry for row in self.entries for entry in row]
        wanted, done = sum(entry.wanted for entry in entries), sum(entry.done for entry in entries)
        failed, excluded = sum(entry.failed for entry in entries), sum(entry.excluded for entry in entries)
        estimates = [estimate for entry in entries for estimate in (entry.estimate, entry.difference) if estimate]
        notes = few_seeds_notes(estimate.seeds for estimate in estimates)
        remarks = [f"Intervals of {note}." for note in notes]
        if done < wanted:
            remarks.append(f"Not complete: {done} of {counted(wanted, 'cell')} done, {failed} failed.")
        if excluded:
            remarks.append(
                f"Excluded because a score is missing: {counted(excluded, 'file')} in all (cells.json says why)."
            )
        return remarks

    def show(self) -> None:
        """Print the tables and the remarks on stdout. Numbers are never wrapped, even if the terminal is too narrow."""
        # one table for the means, and one for the differences
        for heading, rows in self.parts():
            table = RichTable(box=box.SIMPLE_HEAD)
            corner, *titles = self.titles()
            table.add_column(Text(corner))
            for title in titles:
                table.add_column(Text(title), justify="right", no_wrap=True)
            for title, texts in zip(self.row_titles(), rows, strict=True):
                table.add_row(Text(title), *map(Text, texts))
            out.print(heading, markup=False, soft_wrap=True)
            print_table(table)
        for remark in self.remarks():
            out.print(remark, markup=False, soft_wrap=True)

    def markdown(self, description: str) -> str:
        """Return the tables as Markdown, with ``description`` below the title."""
        # title, then the same tables as in show(), then the remarks
        lines = [f"# {TITLES[self.metric]}: {' by '.join(self.grid.keys[:2])}", "", description]
        for heading, rows in self.parts():
            titles = self.titles()
            # numbers are right-aligned
            lines += ["", f"{heading}.", "", f"| {' | '.join(titles)} |"]
            lines.append(f"|---|{'---:|' * (len(titles) - 1)}")
            lines += [f"| {' | '.join([t, *texts])} |" for t, texts in zip(self.row_titles(), rows, strict=True)]
        for remark in self.remarks():
            lines += ["", remark]
        return "\n".join([*lines, "", f"Made by sepclip {sepclip.__version__}; the interval: docs/METHOD.md.", ""])

    def rows(self) -> list[TableRow]:
        """Return one row per entry: a column for each key, then means, differences and their intervals in dB."""
        # the report takes the columns before ``metric`` as the keys of the grid
        rows: list[TableRow] = []
        for entry in (entry for row in self.entries for entry in row):
            estimate = entry.estimate
            rows.append(
                {
                    **dict(zip(self.grid.keys, entry.labels, strict=True)),
                    "metric": self.metric,
                    "status": entry.status,
                    **_interval("mean", estimate),
                    "reference": self.grid.reference,
                    **_interval("difference", entry.difference),
                    "difference_seeds": entry.difference.seeds if entry.difference else 0,
                    "seeds": estimate.seeds if estimate else 0,
                    "files": estimate.files if estimate else 0,
                    "seeds_wanted": entry.wanted,
                    "excluded_files": entry.excluded,
                }
            )
        return rows

    def csv(self) -> str:
        """Return :meth:`rows` as CSV."""
        return _csv(self.rows())


def _entry(
    grid: Grid, by_labels: Mapping[tuple[str, ...], list[Result]], labels: tuple[str, ...], metric: str
) -> Entry:
    """Return one entry: the mean over its runs, and the difference to the reference in the same column."""
    # the cells of this entry, and those of the reference in the same column; both by seed, to be paired
    results, is_reference = by_labels.get(labels, []), labels[0] == grid.reference
    runs = {result.cell.seed: result.scores[metric] for result in results if result.status == "done"}
    reference = by_labels.get((grid.reference, *labels[1:]), []) if grid.reference and not is_reference else []
    reference_runs = {result.cell.seed: result.scores[metric] for result in reference if result.status == "done"}
    return Entry(
        labels,
        wanted=len(results),
        done=len(runs),
        failed=sum(result.status == "failed" for result in results),
        # a file counts once, even if several seeds have no score for it
        excluded=len({name for result in results for name in result.excluded}),
        estimate=estimate_mean(list(runs.values())),
        difference=estimate_difference(runs, reference_runs),
        is_reference=is_reference,
    )


def _interval(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """Return the columns of a mean and the two ends of its interval; None for those that do not exist."""
    # without an estimate there is no mean; with a single file and seed there is a mean without an interval
    mean, half_width = (estimate.mean, estimate.half_width) if estimate else (None, None)
    low, high = (mean - half_width, mean + half_width) if mean is not None and half_width is not None else (None, None)
    return {f"{name}_db": mean, f"{name}_low_db": low, f"{name}_high_db": high}


def _with_interval(mean: str, estimate: Estimate) -> str:
    return mean if estimate.half_width is None else f"{mean} ± {estimate.half_width:.2f}"


def _range(numbers: Sequence[int], noun: str) -> str:
    """Return ``"6 files"``, or ``"5 to 6 files"`` if the entries differ."""
    low, high = min(numbers, default=0), max(numbers, default=0)
    return counted(high, noun) if low == high else f"{low} to {counted(high, noun)}"


def run_rows(grid: Grid, results: Mapping[str, Result]) -> list[TableRow]:
    """Return one row per run: its cell, its status, its mean scores in dB, its training, and its folder and log."""
    # a cell that is missing or failed has a row as well, with empty scores
    rows: list[TableRow] = []
    for result in results.values():
        means = {metric: result.mean(metric) for metric in METRICS}
        rows.append(
            {
                **dict(zip(grid.keys, result.cell.labels, strict=True)),
                "seed": result.cell.seed,
                "status": result.status,
                # NaN, the mean of no files, is not valid JSON
                **{f"{metric}_db": mean if math.isfinite(mean) else None for metric, mean in means.items()},
                "files": len(result.scores.get(METRICS[0], {})),
                "excluded_files": len(result.excluded),
                "steps": result.training.get("steps"),
                "seconds": result.training.get("seconds"),
                "best_step": result.training.get("best_step"),
                "best_valid_si_sdr_improvement": result.training.get("best_valid_si_sdr_improvement"),
                "clipped_share": result.training.get("clipped_share"),
                "reason": result.reason,
                # relative to the folder of the sweep, which may be moved
                "run": f"{RUNS}/{result.run.name}",
                "log": f"{LOGS}/{result.log.name}",
                "digest": result.cell.digest,
            }
        )
    return rows


def cells_csv(grid: Grid, results: Mapping[str, Result]) -> str:
    """Return :func:`run_rows` as CSV."""
    return _csv(run_rows(grid, results))


def cells_json(grid: Grid, results: Mapping[str, Result], data: MixtureSet, group: str | None) -> str:
    """Return all runs as JSON, each with its configuration and the files that have no score, with the reasons."""
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
    """Write a text unless the file already has exactly this content; return whether it was written."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text)
    return True


def _csv(rows: Sequence[TableRow]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
