"""Curves of the page: what uPlot draws, as data, with words for those who do not see it."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from sepclip.report.markup import Markup, json_text, tag

MOST_POINTS = 2000  # of a curve; the highest and the lowest of each stretch are kept
Values = Sequence[float | None]


@dataclass(frozen=True)
class Series:
    """One curve. ``color`` counts through the page's palette; None is the colour of text."""

    label: str
    values: Values
    color: int | None = 0
    kind: Literal["line", "points"] = "line"
    dashed: bool = False
    faint: bool = False
    marks: bool = False  # a dot at every value


@dataclass(frozen=True)
class Chart:
    """Curves over one x, which ascends. ``log`` is how the vertical axis starts; None where it cannot be one.

    Charts of the same ``sync`` move and zoom together. ``vlines`` are values of x marked by a line.
    """

    anchor: str
    title: str
    x: Sequence[float]
    series: Sequence[Series]
    xlabel: str = "step"
    unit: str = ""
    log: bool | None = None
    sync: str | None = None
    vlines: Sequence[float] = ()
    note: str = ""
    tall: bool = False

    def markup(self) -> Markup:
        """Return the chart as a figure with its tools; nothing where no series has a value."""
        if not any(value is not None for one in self.series for value in one.values):
            return Markup()
        x, series = self._thinned()
        drawn = {
            "x": [_short(value) for value in x],
            "xlabel": self.xlabel,
            "log": self.log,
            "sync": self.sync,
            "vlines": [{"at": value} for value in self.vlines],
            "series": [{**asdict(one), "values": [_short(value) for value in one.values]} for one in series],
        }
        unit = tag("span", f" {self.unit}", class_="note") if self.unit else None
        plot = tag("div", class_="plot tall" if self.tall else "plot", role="img", aria_label=self._told())
        return tag(
            "figure",
            tag("figcaption", tag("h3", self.title, unit), self._tools()),
            plot,
            tag("div", class_="legend"),
            tag("p", self.note, class_="note") if self.note else None,
            tag("script", json_text(json.dumps(drawn, allow_nan=False)), type="application/json"),
            class_="chart card",
            id=self.anchor,
        )

    def _tools(self) -> Markup:
        buttons = []
        if self.log is not None:
            pressed = "true" if self.log else "false"
            buttons.append(
                tag("button", "log", type="button", data_do="log", aria_pressed=pressed, title="logarithmic axis")
            )
        for action, sign, words in (
            ("closer", "+", "zoom in (or drag over the plot)"),
            ("wider", "−", "zoom out"),
            ("whole", "all", "whole range (or double click)"),
        ):
            buttons.append(tag("button", sign, type="button", data_do=action, title=words, aria_label=words))
        return tag("div", buttons, class_="tools")

    def _told(self) -> str:
        """Say in words what the curves show."""
        told = [f"{self.title}{f' in {self.unit}' if self.unit else ''} over {self.xlabel}."]
        for one in self.series:
            found = [value for value in one.values if value is not None]
            if found and one.kind == "line":
                told.append(
                    f"{one.label}: {found[0]:.3g} at first, {found[-1]:.3g} at the end, "
                    f"between {min(found):.3g} and {max(found):.3g}."
                )
            elif found:
                told.append(f"{one.label}: {len(found)} points between {min(found):.3g} and {max(found):.3g}.")
        return " ".join(told)

    def _thinned(self) -> tuple[Sequence[float], Sequence[Series]]:
        """Return at most some ``MOST_POINTS`` places: of each stretch those where a series is lowest and highest."""
        count = len(self.x)
        if count <= MOST_POINTS:
            return self.x, self.series
        stretch = math.ceil(count * 2 * len(self.series) / MOST_POINTS)
        kept = {0, count - 1}
        for start in range(0, count, stretch):
            for one in self.series:
                places = [place for place in range(start, min(start + stretch, count)) if one.values[place] is not None]
                if places:
                    kept.add(min(places, key=lambda place, one=one: one.values[place]))  # type: ignore[misc]
                    kept.add(max(places, key=lambda place, one=one: one.values[place]))  # type: ignore[misc]
        order = sorted(kept)
        series = [replace(one, values=[one.values[place] for place in order]) for one in self.series]
        return [self.x[place] for place in order], series


def _short(value: float | None) -> float | None:
    """Return a value with five digits, None for what JSON has no number for."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")


def aligned(columns: Sequence[tuple[Sequence[float], Values]]) -> tuple[list[float], list[list[float | None]]]:
    """Bring several (x, values) to one x that holds all of theirs, None where one of them has no value."""
    x = sorted({place for xs, _ in columns for place in xs})
    tables = [dict(zip(xs, values, strict=True)) for xs, values in columns]
    return x, [[table.get(place) for place in x] for table in tables]
