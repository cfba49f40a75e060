"""The tables of the page: a summary with distributions, the list of files, and any table that can be sorted."""

from collections.abc import Sequence

import numpy as np

from sepclip.errors import counted
from sepclip.report.markup import Content, Markup, minus, tag
from sepclip.report.scores import MAIN, Scores, mean_and_median, values_of
from sepclip.report.svg import box, histogram

IMPROVEMENTS, ORACLE = ("si_sdr_improvement", "sdr_improvement"), "ibm_"
MOST_FILES = 4000  # in the list; more would make a page that no phone scrolls


def sortable(
    anchor: str, caption: str, titles: Sequence[str], rows: Sequence[Sequence[str | float | None]], *, words: int
) -> Markup:
    """Return a table that a click sorts; the first ``words`` columns are words, the others numbers or None."""
    head = [
        tag(
            "th",
            tag("button", title, type="button"),
            scope="col",
            class_="left" if place < words else None,
            data_kind="words" if place < words else "number",
        )
        for place, title in enumerate(titles)
    ]
    body = [tag("tr", (_cell(value, place < words) for place, value in enumerate(row))) for row in rows]
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", body), class_="sortable wide", id=anchor)
    region = tag("div", table, class_="scroll high", tabindex=0, role="region", aria_label=caption)
    return tag("div", tag("p", caption, class_="note"), region)


def _cell(value: str | float | None, is_words: bool) -> Markup:
    if is_words:
        return tag("td", "" if value is None else value, class_="left")
    if value is None:
        return tag("td", "–", data_value="")
    if isinstance(value, str):
        return tag("td", value)
    return tag("td", minus(f"{value:.2f}") if isinstance(value, float) else value, data_value=f"{value:.6g}")


def summary(scores: Scores) -> Markup:
    """Return mean and median of every metric for all files and each group, and how the values are spread."""
    main = scores.main()
    others = [metric for metric in scores.titles if metric not in main]
    definitions = [[tag("dt", title), tag("dd", scores.definitions[metric])] for metric, title in scores.titles.items()]
    return tag(
        "div",
        _summary_of(scores, main),
        tag("details", tag("summary", "All other scores"), _summary_of(scores, others)) if others else None,
        tag("details", tag("summary", "What the scores are"), tag("dl", definitions, class_="note")),
    )


def _summary_of(scores: Scores, metrics: Sequence[str]) -> list[Content]:
    parts = scores.groups()
    titles = [f"{name}, {counted(len({row['name'] for row in rows}), 'file')}" for name, rows in parts.items()]
    head = [tag("th", "mean (median), dB", scope="col"), *(tag("th", title, scope="col") for title in titles)]
    head.append(tag("th", "spread", scope="col", class_="left"))
    values = {metric: values_of(scores.rows, metric) for metric in metrics}
    low, high = _range([value for found in values.values() for value in found])
    body = [
        tag(
            "tr",
            tag("th", scores.titles[metric], scope="row", title=scores.definitions[metric]),
            (tag("td", mean_and_median(values_of(rows, metric))) for rows in parts.values()),
            tag("td", box(values[metric], low, high), class_="left"),
        )
        for metric in metrics
    ]
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", body), class_="wide")
    scale = minus(f"{low:.0f} to {high:.0f}")
    told = f"Spread: 5th to 95th percentile, quartiles and median of all sources, on one scale from {scale}."
    return [tag("div", table, class_="scroll"), tag("p", told, class_="note")]


def _range(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, [2, 98]))
    return min(low, 0.0), max(high, 1.0)


def distributions(scores: Scores) -> Markup:
    """Return how the improvements are distributed, by group, each with the oracle of the same metric beside."""
    drawn = [histogram(parts, "dB", f"{title} of every source") for title, parts in improvements(scores).items()]
    return tag("div", drawn, class_="grid")


def improvements(scores: Scores) -> dict[str, dict[str, list[float]]]:
    """Return the values of each improvement by its title: of every group, and of the oracle."""
    groups = scores.groups()
    found = {}
    for metric in [name for name in IMPROVEMENTS if name in scores.titles] or list(scores.titles)[:1]:
        parts = {name: values_of(rows, metric) for name, rows in groups.items() if name != "all" or len(groups) == 1}
        oracle = f"{ORACLE}{metric}"
        if oracle in scores.titles and len(parts) < 4:
            parts[scores.titles[oracle]] = values_of(scores.rows, oracle)
        found[scores.titles[metric]] = parts
    return found


def file_list(scores: Scores, anchor: str) -> Markup:
    """Return a row a file: the means over its sources, and why a score is missing."""
    files = scores.files()
    columns = [name for name in scores.main() if name in MAIN or name.startswith(ORACLE)] or scores.main()
    voices = any(row.get("voice") for row in scores.rows)
    grouped = scores.part == "group" and len(scores.groups()) > 1
    titles = [
        "file",
        *(["group"] if grouped else []),
        *(["voices"] if voices else []),
        *(scores.titles[metric] for metric in columns),
    ]
    by_file = {metric: scores.by_file(metric) for metric in columns}
    remarks = any(row.get("reason") for row in scores.rows)
    metric = scores.best_metric()
    order = sorted(files, key=lambda name: by_file[metric].get(name, -1e9)) if metric in by_file else list(files)
    shown = order if len(order) <= MOST_FILES else [*order[: MOST_FILES // 2], *order[-MOST_FILES // 2 :]]
    rows: list[list[str | float | None]] = []
    words = 1 + grouped + voices + remarks
    for name in shown:
        first = files[name][0]
        row: list[str | float | None] = [name]
        if grouped:
            row.append(first.get("group"))
        if voices:
            row.append(" + ".join(str(one.get("voice") or "?") for one in files[name]))
        if remarks:
            row.append(next((str(one["reason"]) for one in files[name] if one.get("reason")), ""))
        rows.append([*row, *(by_file[metric].get(name) for metric in columns)])
    if remarks:
        titles.insert(words - 1, "remark")
    caption = f"{counted(len(files), 'file')}, means over the sources in dB, the worst first"
    if len(shown) < len(order):
        caption += f"; only the {len(shown) // 2} worst and the {len(shown) // 2} best: scores.csv has all"
    search: Content = tag(
        "p",
        tag("label", "Find ", tag("input", type="search", data_filter=anchor, placeholder="file, voice or group")),
    )
    return tag("div", search if len(files) > 10 else None, sortable(anchor, caption, titles, rows, words=words))


def grid(shown: Sequence[Markup]) -> Content:
    """Return cards side by side where there is room; nothing where all are empty."""
    cards = [card for card in shown if card]
    return tag("div", cards, class_="grid") if cards else None
