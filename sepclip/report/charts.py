"""Curves of the page, as data for uPlot with a text alternative."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from sepclip.report.markup import Markup, json_text, tag

MOST_POINTS = 2000  # of a chart; longer ones keep the highest and the lowest point of each stretch
Values = Sequence[float | None]


@dataclass(frozen=True)
class Series:
    """One curve. ``color`` is an index into the palette of the page; None is the colour of text."""

    label: str
    values: Values
    color: int | None = 0
    kind: Literal["line", "points"] = "line"
    dashed: bool = False
    faint: bool = False
    marks: bool = False  # draw a dot at every value


@dataclass(frozen=True)
class Chart:
    """Curves over a common, ascending ``x``.

    ``log`` says whether the vertical axis is logarithmic at first; None if it cannot be. Charts with the same ``sync``
    pan and zoom together. ``vlines`` are values of x marked by a vertical line.
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
        """Return the chart as a figure with its buttons; empty if no series has a value."""
        if not any(value is not None for series in self.series for value in series.values):
            return Markup()
        # what page.js reads from the script element of the figure
        x, all_series = self._thinned()
        data = {
            "x": [_short(value) for value in x],
            "xlabel": self.xlabel,
            "log": self.log,
            "sync": self.sync,
            "vlines": [{"at": value} for value in self.vlines],
            "series": [
                {**asdict(series), "values": [_short(value) for value in series.values]} for series in all_series
            ],
        }
        # the plot itself is an empty element that page.js draws into, with its description for screen readers
        unit = tag("span", f" {self.unit}", class_="note") if self.unit else None
        plot = tag("div", class_="plot tall" if self.tall else "plot", role="img", aria_label=self._description())
        return tag(
            "figure",
            tag("figcaption", tag("h3", self.title, unit), self._buttons()),
            plot,
            tag("div", class_="legend"),
            tag("p", self.note, class_="note") if self.note else None,
            tag("script", json_text(json.dumps(data, allow_nan=False)), type="application/json"),
            class_="chart card",
            id=self.anchor,
        )

    def _buttons(self) -> Markup:
        # page.js connects them by data-do; the first is left out if the axis cannot be logarithmic
        buttons = []
        if self.log is not None:
            pressed = "true" if self.log else "false"
            buttons.append(
                tag("button", "log", type="button", data_do="log", aria_pressed=pressed, title="logarithmic axis")
            )
        for action, sign, description in (
            ("closer", "+", "zoom in (or drag over the plot)"),
            ("wider", "−", "zoom out"),
            ("whole", "all", "show the whole range (or double-click)"),
        ):
            buttons.append(
                tag("button", sign, type="button", data_do=action, title=description, aria_label=description)
            )
        return tag("div", buttons, class_="tools")

    def _description(self) -> str:
        """Return the curves in words, for a screen reader."""
        sentences = [f"{self.title}{f' in {self.unit}' if self.unit else ''} over {self.xlabel}."]
        for series in self.series:
            # a curve has a beginning and an end; scattered points only have a range
            values = [value for value in series.values if value is not None]
            if values and series.kind == "line":
                sentences.append(
                    f"{series.label}: {values[0]:.3g} at first, {values[-1]:.3g} at the end, "
                    f"between {min(values):.3g} and {max(values):.3g}."
                )
            elif values:
                sentences.append(
                    f"{series.label}: {len(values)} points between {min(values):.3g} and {max(values):.3g}."
                )
        return " ".join(sentences)

    def _thinned(self) -> tuple[Sequence[float], Sequence[Series]]:
        """Return x and series with about ``MOST_POINTS`` points at most."""
        count = len(self.x)
        if count <= MOST_POINTS:
            return self.x, self.series
        # Keep the minimum and the maximum of every series in every stretch: unlike a mean or every n-th point, this
        # preserves single spikes. Each stretch keeps up to 2 points per series, hence its length.
        stretch = math.ceil(count * 2 * len(self.series) / MOST_POINTS)
        kept = {0, count - 1}
        for start in range(0, count, stretch):
            for series in self.series:
                values = {
                    index: value
                    for index in range(start, min(start + stretch, count))
                    if (value := series.values[index]) is not None
                }
                if values:
                    kept |= {min(values, key=values.__getitem__), max(values, key=values.__getitem__)}
        # all series keep the same points, since they share x
        order = sorted(kept)
        thinned = [replace(series, values=[series.values[index] for index in order]) for series in self.series]
        return [self.x[index] for index in order], thinned


def _short(value: float | None) -> float | None:
    """Return a value rounded to five digits, to keep the page small; None if it is not a finite number."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")


def aligned(columns: Sequence[tuple[Sequence[float], Values]]) -> tuple[list[float], list[list[float | None]]]:
    """Return the sorted union of the x of several (x, values), and the values of each on it, None for missing ones."""
    # uPlot wants one x for all series; gaps are bridged when it draws
    x = sorted({position for xs, _ in columns for position in xs})
    tables = [dict(zip(xs, values, strict=True)) for xs, values in columns]
    return x, [[table.get(position) for position in x] for table in tables]
