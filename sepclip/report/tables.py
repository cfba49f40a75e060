"""The tables of the page: the summary of scores, the list of files, and sortable tables in general."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sepclip.errors import counted
from sepclip.report.markup import Content, Markup, minus, tag
from sepclip.report.scores import MAIN, Scores, SourceScores, mean_and_median, values_of
from sepclip.report.svg import box, histogram

IMPROVEMENTS, ORACLE = ("si_sdr_improvement", "sdr_improvement"), "ibm_"
MOST_FILES = 4000  # in the list; a phone could not scroll a page with more
Value = str | float | None  # of a cell of a table


def sortable(
    anchor: str, caption: str, titles: Sequence[str], rows: Sequence[Sequence[Value]], *, text_columns: int
) -> Markup:
    """Return a table that can be sorted by clicking on a heading.

    The first ``text_columns`` columns are text; the others are numbers, or None for a missing one.
    """
    head = [
        tag(
            "th",
            tag("button", title, type="button"),
            scope="col",
            class_="left" if column < text_columns else None,
            data_kind="words" if column < text_columns else "number",
        )
        for column, title in enumerate(titles)
    ]
    body = [tag("tr", (_cell(value, column < text_columns) for column, value in enumerate(row))) for row in rows]
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", body), class_="sortable wide", id=anchor)
    region = tag("div", table, class_="scroll high", tabindex=0, role="region", aria_label=caption)
    return tag("div", tag("p", caption, class_="note"), region)


def _cell(value: Value, is_text: bool) -> Markup:
    """Return one cell; numbers carry their full value for sorting, missing ones are sorted last."""
    if is_text:
        return tag("td", "" if value is None else value, class_="left")
    if value is None:
        return tag("td", "–", data_value="")
    if isinstance(value, str):
        return tag("td", value)
    return tag("td", minus(f"{value:.2f}") if isinstance(value, float) else value, data_value=f"{value:.6g}")


def summary(scores: Scores) -> Markup:
    """Return the mean, the median and a box plot of every metric, over all files and each group."""
    main = scores.main_metrics()
    further = [metric for metric in scores.titles if metric not in main]
    definitions = [[tag("dt", title), tag("dd", scores.definitions[metric])] for metric, title in scores.titles.items()]
    return tag(
        "div",
        _summary_table(scores, main),
        tag("details", tag("summary", "All other scores"), _summary_table(scores, further)) if further else None,
        tag("details", tag("summary", "Definitions of the scores"), tag("dl", definitions, class_="note")),
    )


def _summary_table(scores: Scores, metrics: Sequence[str]) -> list[Content]:
    """Return a table with a row for each metric and a column for each group."""
    groups = scores.groups()
    titles = [f"{name}, {counted(len({row.name for row in rows}), 'file')}" for name, rows in groups.items()]
    head = [tag("th", "mean (median), dB", scope="col"), *(tag("th", title, scope="col") for title in titles)]
    head.append(tag("th", "distribution", scope="col", class_="left"))
    # the box plots of all metrics have the same axis
    values = {metric: values_of(scores.rows, metric) for metric in metrics}
    low, high = _axis_range([value for column in values.values() for value in column])
    body = [
        tag(
            "tr",
            tag("th", scores.titles[metric], scope="row", title=scores.definitions[metric]),
            (tag("td", mean_and_median(values_of(rows, metric))) for rows in groups.values()),
            tag("td", box(values[metric], low, high), class_="left"),
        )
        for metric in metrics
    ]
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", body), class_="wide")
    scale = minus(f"{low:.0f} to {high:.0f}")
    note = f"Distribution: 5th to 95th percentile, quartiles and median over all sources, on one axis from {scale}."
    return [tag("div", table, class_="scroll"), tag("p", note, class_="note")]


def _axis_range(values: Sequence[float]) -> tuple[float, float]:
    """Return a range that contains 0 and all but the most extreme values."""
    if not values:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, [2, 98]))
    return min(low, 0.0), max(high, 1.0)


def distributions(scores: Scores) -> Markup:
    """Return histograms of the improvements by group, with the oracle of the same metric."""
    pictures = [histogram(groups, "dB", f"{title} of each source") for title, groups in improvements(scores).items()]
    return tag("div", pictures, class_="grid")


def improvements(scores: Scores) -> dict[str, dict[str, list[float]]]:
    """Return the values of each improvement by its title, for each group and for the oracle.

    If there are no improvements, return those of the first metric.
    """
    groups = scores.groups()
    by_title = {}
    for metric in [name for name in IMPROVEMENTS if name in scores.titles] or list(scores.titles)[:1]:
        values = {name: values_of(rows, metric) for name, rows in groups.items() if name != "all" or len(groups) == 1}
        oracle = f"{ORACLE}{metric}"
        if oracle in scores.titles and len(values) < 4:  # a histogram has four colours
            values[scores.titles[oracle]] = values_of(scores.rows, oracle)
        by_title[scores.titles[metric]] = values
    return by_title


def file_list(scores: Scores, anchor: str) -> Markup:
    """Return a searchable table with a row for each file: means over its sources, and why a score is missing."""
    files = scores.files()
    metrics = [name for name in scores.main_metrics() if name in MAIN or name.startswith(ORACLE)]
    metrics = metrics or scores.main_metrics()
    # columns of text that would be the same or empty in all rows are left out
    columns = _TextColumns(
        group=scores.grouping == "group" and len(scores.groups()) > 1,
        voices=any(row.voice for row in scores.rows),
        remark=any(row.reason for row in scores.rows),
    )
    # worst first, by the metric of the headline; files without a score of it before all others
    by_file = {metric: scores.by_file(metric) for metric in metrics}
    headline = scores.headline_metric()
    order = list(files)
    if headline is not None and headline in by_file:
        order = sorted(files, key=lambda name: by_file[headline].get(name, -1e9))
    listed = order if len(order) <= MOST_FILES else [*order[: MOST_FILES // 2], *order[-MOST_FILES // 2 :]]
    rows = [[*columns.texts(files[name]), *(by_file[metric].get(name) for metric in metrics)] for name in listed]
    caption = f"{counted(len(files), 'file')}, means over the sources in dB, worst first"
    if len(listed) < len(order):
        caption += f"; only the {len(listed) // 2} worst and the {len(listed) // 2} best: scores.csv has all files"
    search: Content = tag(
        "p",
        tag("label", "Find ", tag("input", type="search", data_filter=anchor, placeholder="file, voice or group")),
    )
    text_titles = columns.titles()
    titles = [*text_titles, *(scores.titles[metric] for metric in metrics)]
    table = sortable(anchor, caption, titles, rows, text_columns=len(text_titles))
    return tag("div", search if len(files) > 10 else None, table)


@dataclass(frozen=True)
class _TextColumns:
    """The columns of text that the list of files has beside the name."""

    group: bool
    voices: bool
    remark: bool

    def titles(self) -> list[str]:
        """Return the headings."""
        optional = {"group": self.group, "voices": self.voices, "remark": self.remark}
        return ["file", *(title for title, present in optional.items() if present)]

    def texts(self, rows: Sequence[SourceScores]) -> list[Value]:
        """Return the texts of one file."""
        texts: list[Value] = [rows[0].name]
        if self.group:
            texts.append(rows[0].group)
        if self.voices:
            texts.append(" + ".join(row.voice or "?" for row in rows))
        if self.remark:
            texts.append(next((row.reason for row in rows if row.reason), ""))
        return texts


def grid(cards: Sequence[Markup]) -> Content:
    """Return cards in as many columns as there is room for, or nothing if all are empty."""
    filled = [card for card in cards if card]
    return tag("div", filled, class_="grid") if filled else None
