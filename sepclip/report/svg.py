"""Small still pictures of the page as SVG within it: distributions, boxes and paired scores."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sepclip.report.markup import Markup, minus, tag


def histogram(parts: Mapping[str, Sequence[float]], unit: str, title: str) -> Markup:
    """Return the distributions of up to four parts on one axis, as bars in the page's colours."""
    values = np.concatenate([np.asarray(part, float) for part in parts.values()])
    if not len(values):
        return Markup()
    edges = _edges(values)
    width, height, bottom = 440, 200, 26
    counts = {name: np.histogram(part, edges)[0] for name, part in parts.items()}
    most = max(int(count.max()) for count in counts.values()) or 1
    x = _scale(edges[0], edges[-1], 18, width - 18)
    drawn: list[Markup] = [_ticks(edges[0], edges[-1], x, height - bottom, unit)]
    for index, (name, count) in enumerate(counts.items()):
        outline = f"M{x(edges[0]):.1f} {height - bottom}"
        for place, number in enumerate(count):
            level = height - bottom - (height - bottom - 14) * int(number) / most
            outline += f"V{level:.1f}H{x(edges[place + 1]):.1f}"
        outline += f"V{height - bottom}Z"
        drawn.append(tag("path", tag("title", name), d=outline, class_=f"s{index % 4} bar"))
    told = "; ".join(
        f"{name}: {len(part)} values from {min(part):.1f} to {max(part):.1f}, median {np.median(part):.1f} {unit}"
        for name, part in parts.items()
        if len(part)
    )
    return tag(
        "figure", _caption(title, list(parts)), _svg(width, height, drawn, f"{title}. {told}"), class_="card still"
    )


def box(values: Sequence[float], low: float, high: float) -> Markup:
    """Return a box between ``low`` and ``high``: 5th to 95th percentile, quartiles, median."""
    if not values or high <= low:
        return Markup()
    width, height = 180, 18
    x = _scale(low, high, 4, width - 4)
    least, first, middle, third, most = (float(value) for value in np.percentile(values, [5, 25, 50, 75, 95]))
    drawn = [
        tag("line", x1=_p(x(least)), x2=_p(x(most)), y1=9, y2=9, class_="whole"),
        tag("rect", x=_p(x(first)), y=3, width=_p(max(1.0, x(third) - x(first))), height=12, rx=2, class_="middle"),
        tag("line", x1=_p(x(middle)), x2=_p(x(middle)), y1=2, y2=16, class_="median"),
    ]
    if low < 0 < high:
        drawn.insert(0, tag("line", x1=_p(x(0)), x2=_p(x(0)), y1=0, y2=18, class_="zero"))
    told = f"5th percentile {least:.1f}, quartiles {first:.1f} and {third:.1f}, median {middle:.1f}, 95th {most:.1f}"
    return tag(
        "svg", tag("title", told), drawn, class_="box", viewBox=f"0 0 {width} {height}", role="img", aria_label=told
    )


def paired(points: Mapping[str, tuple[float, float]], names: tuple[str, str], unit: str, title: str) -> Markup:
    """Return two scores of the same files against each other; above the diagonal the second is better."""
    if not points:
        return Markup()
    size, margin = 420, 44
    values = [value for pair in points.values() for value in pair]
    reach = 0.04 * (max(values) - min(values)) or 1.0
    low, high = min(values) - reach, max(values) + reach
    x, y = _scale(low, high, margin, size - 8), _scale(low, high, size - margin, 8)
    drawn = [
        _ticks(low, high, x, size - margin, ""),
        *(_across(value, x, y(value), size) for value in _round_values(low, high, 6)),
        tag("line", x1=_p(x(low)), y1=_p(y(low)), x2=_p(x(high)), y2=_p(y(high)), class_="zero"),
        *(
            tag(
                "circle",
                tag("title", f"{name}: {a:.2f} and {b:.2f} {unit}"),
                cx=_p(x(a)),
                cy=_p(y(b)),
                r=4,
                class_="s0 dot",
            )
            for name, (a, b) in points.items()
        ),
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
    better = sum(b > a for a, b in points.values())
    told = f"{title}: {len(points)} files, {names[1]} is better for {better} of them."
    return tag("figure", tag("figcaption", tag("h3", title)), _svg(size, size, drawn, told), class_="card still")


def _caption(title: str, names: Sequence[str]) -> Markup:
    keys = []
    if len(names) > 1:
        for index, name in enumerate(names):
            mark = tag("span", class_="mark", style=f"color:var(--c{index % 4});border-color:currentColor")
            keys.append(tag("span", mark, name))
    return tag("figcaption", tag("h3", title), tag("span", keys, class_="legend") if keys else None)


def _svg(width: int, height: int, drawn: Sequence[Markup], told: str) -> Markup:
    return tag("svg", drawn, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img", aria_label=told)


def _ticks(low: float, high: float, x: "_Scale", y: float, unit: str) -> Markup:
    marks = [
        [
            tag("line", x1=_p(x(value)), x2=_p(x(value)), y1=_p(y), y2=_p(y + 4), class_="axis"),
            tag(
                "text",
                minus(f"{value:g}{f' {unit}' if unit else ''}"),
                x=_p(x(value)),
                y=_p(y + 18),
                text_anchor="middle",
            ),
        ]
        for value in _round_values(low, high, 7)
    ]
    return tag("g", tag("line", x1=_p(x(low)), x2=_p(x(high)), y1=_p(y), y2=_p(y), class_="axis"), marks)


def _across(value: float, x: "_Scale", y: float, size: int) -> Markup:
    return tag(
        "g",
        tag("line", x1=_p(x.first), x2=size - 8, y1=_p(y), y2=_p(y), class_="axis"),
        tag("text", minus(f"{value:g}"), x=_p(x.first - 6), y=_p(y + 4), text_anchor="end"),
    )


class _Scale:
    """A straight line from values to places."""

    def __init__(self, low: float, high: float, first: float, last: float):
        self.first = first
        self._low, self._slope = low, (last - first) / (high - low)

    def __call__(self, value: float) -> float:
        return self.first + (value - self._low) * self._slope


def _scale(low: float, high: float, first: float, last: float) -> _Scale:
    return _Scale(float(low), float(high), first, last)


def _edges(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[float]:
    """Return edges of bins of a round width, some 24 of them, that hold all values."""
    low, high = float(values.min()), float(values.max())
    step = _round_step((high - low) / 24 or 0.1)
    first, last = math.floor(low / step), math.floor(high / step) + 1
    return [place * step for place in range(first, last + 1)]


def _round_values(low: float, high: float, most: int) -> list[float]:
    """Return round values from ``low`` to ``high``, at most some ``most`` of them."""
    step = _round_step((high - low) / most)
    return [place * step for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, ... times a power of ten that is no less than ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * 0.999)


def _p(place: float) -> str:
    return f"{place:.1f}"
