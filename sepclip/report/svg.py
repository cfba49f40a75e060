"""Small static pictures as SVG within the page: distributions, box plots and paired scores."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sepclip.report.markup import Markup, minus, tag


def histogram(groups: Mapping[str, Sequence[float]], unit: str, title: str) -> Markup:
    """Return the histograms of up to four groups of values on one axis; empty without values."""
    values = np.concatenate([np.asarray(group, float) for group in groups.values()])
    if not len(values):
        return Markup()
    # common bins, so that the heights of the groups can be compared
    edges = _bin_edges(values)
    width, height, bottom = 440, 200, 26  # pixels; the labels of the axis are below
    counts = {name: np.histogram(group, edges)[0] for name, group in groups.items()}
    highest = max(int(count.max()) for count in counts.values()) or 1
    x = _Scale(edges[0], edges[-1], 18, width - 18)
    shapes: list[Markup] = [_ticks(edges[0], edges[-1], x, height - bottom, unit)]
    # one outline per group: up or down to the count of each bin, then across the bin
    for index, (name, count) in enumerate(counts.items()):
        outline = f"M{x(edges[0]):.1f} {height - bottom}"
        for bin_index, number in enumerate(count):
            y = height - bottom - (height - bottom - 14) * int(number) / highest
            outline += f"V{y:.1f}H{x(edges[bin_index + 1]):.1f}"
        outline += f"V{height - bottom}Z"
        shapes.append(tag("path", tag("title", name), d=outline, class_=f"s{index % 4} bar"))
    # the text alternative has the numbers that the picture shows
    description = "; ".join(
        f"{name}: {len(group)} values from {min(group):.1f} to {max(group):.1f}, median {np.median(group):.1f} {unit}"
        for name, group in groups.items()
        if len(group)
    )
    picture = _svg(width, height, shapes, f"{title}. {description}")
    return tag("figure", _caption(title, list(groups)), picture, class_="card still")


def box(values: Sequence[float], low: float, high: float) -> Markup:
    """Return a box plot on an axis from ``low`` to ``high``: 5th and 95th percentile, quartiles and median."""
    if not values or high <= low:
        return Markup()
    width, height = 180, 18
    x = _Scale(low, high, 4, width - 4)
    p5, quartile1, median, quartile3, p95 = (float(value) for value in np.percentile(values, [5, 25, 50, 75, 95]))
    # the box has a width of at least one pixel, or it would vanish if all values are equal
    box_width = max(1.0, x(quartile3) - x(quartile1))
    shapes = [
        tag("line", x1=_px(x(p5)), x2=_px(x(p95)), y1=9, y2=9, class_="whole"),
        tag("rect", x=_px(x(quartile1)), y=3, width=_px(box_width), height=12, rx=2, class_="middle"),
        tag("line", x1=_px(x(median)), x2=_px(x(median)), y1=2, y2=16, class_="median"),
    ]
    # a line at 0, below the box, shows whether there are gains or losses
    if low < 0 < high:
        shapes.insert(0, tag("line", x1=_px(x(0)), x2=_px(x(0)), y1=0, y2=18, class_="zero"))
    description = (
        f"5th percentile {p5:.1f}, quartiles {quartile1:.1f} and {quartile3:.1f}, median {median:.1f}, "
        f"95th percentile {p95:.1f}"
    )
    return tag(
        "svg",
        tag("title", description),
        shapes,
        class_="box",
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=description,
    )


def scatter(points: Mapping[str, tuple[float, float]], names: tuple[str, str], unit: str, title: str) -> Markup:
    """Return the second of two scores over the first, by file; above the diagonal the second system is better."""
    if not points:
        return Markup()
    size, margin = 420, 44
    # one range for both axes, so that the diagonal is where both are equal
    values = [value for pair in points.values() for value in pair]
    padding = 0.04 * (max(values) - min(values)) or 1.0
    low, high = min(values) - padding, max(values) + padding
    x, y = _Scale(low, high, margin, size - 8), _Scale(low, high, size - margin, 8)
    # ticks below, grid lines with labels on the left, and the diagonal
    axes = [
        _ticks(low, high, x, size - margin, ""),
        *(_grid_line(value, x, y(value), size) for value in _round_values(low, high, 6)),
        tag("line", x1=_px(x(low)), y1=_px(y(low)), x2=_px(x(high)), y2=_px(y(high)), class_="zero"),
    ]
    # one dot per file, with its name and scores as a tooltip
    dots = [
        tag(
            "circle",
            tag("title", f"{name}: {first:.2f} and {second:.2f} {unit}"),
            cx=_px(x(first)),
            cy=_px(y(second)),
            r=4,
            class_="s0 dot",
        )
        for name, (first, second) in points.items()
    ]
    # the names of the two systems along the axes
    labels = [
        tag("text", f"{names[0]}, {unit}", x=size / 2, y=size - 8, text_anchor="middle"),
        tag(
            "text",
            f"{names[1]}, {unit}",
            x=12,
            y=size / 2,
            text_anchor="middle",
            transform=f"rotate(-90 12 {size / 2})",
        ),
    ]
    better = sum(second > first for first, second in points.values())
    description = f"{title}: {len(points)} files, {names[1]} is better in {better} of them."
    picture = _svg(size, size, [*axes, *dots, *labels], description)
    return tag("figure", tag("figcaption", tag("h3", title)), picture, class_="card still")


def _caption(title: str, names: Sequence[str]) -> Markup:
    """Return a title, with a legend if there are several names."""
    keys = []
    if len(names) > 1:
        for index, name in enumerate(names):
            mark = tag("span", class_="mark", style=f"color:var(--c{index % 4});border-color:currentColor")
            keys.append(tag("span", mark, name))
    return tag("figcaption", tag("h3", title), tag("span", keys, class_="legend") if keys else None)


def _svg(width: int, height: int, shapes: Sequence[Markup], description: str) -> Markup:
    view = f"0 0 {width} {height}"
    return tag("svg", shapes, viewBox=view, width=width, height=height, role="img", aria_label=description)


def _ticks(low: float, high: float, x: "_Scale", y: float, unit: str) -> Markup:
    """Return a horizontal axis with about seven labels at round values."""
    # a short line below the axis with its value centred below it
    marks = [
        [
            tag("line", x1=_px(x(value)), x2=_px(x(value)), y1=_px(y), y2=_px(y + 4), class_="axis"),
            tag(
                "text",
                minus(f"{value:g}{f' {unit}' if unit else ''}"),
                x=_px(x(value)),
                y=_px(y + 18),
                text_anchor="middle",
            ),
        ]
        for value in _round_values(low, high, 7)
    ]
    return tag("g", tag("line", x1=_px(x(low)), x2=_px(x(high)), y1=_px(y), y2=_px(y), class_="axis"), marks)


def _grid_line(value: float, x: "_Scale", y: float, size: int) -> Markup:
    """Return a horizontal line across the picture with its value on the left."""
    return tag(
        "g",
        tag("line", x1=_px(x.first), x2=size - 8, y1=_px(y), y2=_px(y), class_="axis"),
        tag("text", minus(f"{value:g}"), x=_px(x.first - 6), y=_px(y + 4), text_anchor="end"),
    )


class _Scale:
    """A linear map from values to pixels."""

    def __init__(self, low: float, high: float, first: float, last: float):
        self.first = first
        # a negative slope is fine: pixels count downwards, so a vertical axis ascends to smaller ones
        self._low, self._slope = low, (last - first) / (high - low)

    def __call__(self, value: float) -> float:
        return self.first + (value - self._low) * self._slope


def _bin_edges(values: NDArray[np.float64]) -> list[float]:
    """Return the edges of at most about 24 bins of a round width that contain all values."""
    low, high = float(values.min()), float(values.max())
    step = _round_step((high - low) / 24 or 0.1)  # 0.1 if all values are equal
    # multiples of the step, so that 0 is an edge and a bin never mixes gains with losses
    first, last = math.floor(low / step), math.floor(high / step) + 1
    return [number * step for number in range(first, last + 1)]


def _round_values(low: float, high: float, most: int) -> list[float]:
    """Return the round values from ``low`` to ``high``, at most about ``most`` of them."""
    step = _round_step((high - low) / most)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _round_step(least: float) -> float:
    """Return the smallest of ..., 0.5, 1, 2, 5, 10, 20, ... that is at least ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    # steps of 1, 2 and 5 are easy to read; the tolerance absorbs rounding errors of ``least``
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * 0.999)


def _px(position: float) -> str:
    """Return a position with a tenth of a pixel, which keeps the page small."""
    return f"{position:.1f}"
