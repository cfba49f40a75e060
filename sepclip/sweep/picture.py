"""The table of a sweep as a picture: a heat map of the means, and one of the differences to the reference.

The colour maps are cividis and PuOr, which are also readable with colour vision deficiencies; every entry shows its
numbers as well.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from sepclip.audio.files import replace_file
from sepclip.sweep.cell_table import Entry, Table
from sepclip.sweep.intervals import Estimate
from sepclip.sweep.results import TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

_DOTS_PER_INCH = 150
_VERSION = 1  # of the drawing code: raise it with each change, so that existing pictures are drawn again


def draw_table(table: Table, folder: Path) -> str | None:
    """Draw ``table.png`` and ``table.svg`` unless they already show this table.

    Return None, or the reason why there is no picture: matplotlib is not installed.
    """
    # the SVG records the digest of the table that it shows
    svg, png = folder / "table.svg", folder / "table.png"
    digest = hashlib.sha256(f"{_VERSION} {table.csv()}".encode()).hexdigest()
    if png.is_file() and svg.is_file() and digest in svg.read_text(encoding="utf-8"):
        return None
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        return f"no picture of the table: {error}; `pip install matplotlib`, then the same command draws it"
    # inches: as large as the labels need
    panels = 1 if table.grid.reference is None else 2
    columns, rows = len(table.entries[0]), len(table.entries)
    widest = max(map(len, table.row_titles()))
    size = (panels * (0.95 * columns + 0.085 * widest + 1.6), 0.5 * rows + 1.5)
    # text remains text in the SVG, and the same table gives the same bytes
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sepclip", "font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        _panel(axes[0], table, f"Mean {TITLES[table.metric]}, dB", difference=False)
        if panels == 2:
            title = f"Difference to {table.grid.keys[0]} {table.grid.reference}, dB"
            _panel(axes[1], table, title, difference=True)
        replace_file(png, lambda path: figure.savefig(path, format="png", dpi=_DOTS_PER_INCH))
        metadata = {"Date": None, "Description": digest}
        replace_file(svg, lambda path: figure.savefig(path, format="svg", metadata=metadata))
    return None


def _panel(axes: "Axes", table: Table, title: str, *, difference: bool) -> None:
    """Draw one heat map. An entry without a number is hatched and shows the reason."""
    import numpy as np

    # NaN leaves the entry in the colour of the background
    values = np.array([[_value(entry, difference) for entry in row] for row in table.entries])
    if difference:
        limit = max(0.1, float(np.nanmax(np.abs(values), initial=0.0)))  # symmetric, so that 0 has the middle colour
        image = axes.imshow(values, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
    else:
        image = axes.imshow(values, cmap="cividis", aspect="auto")
    axes.set_facecolor("0.92")
    for row, entries in enumerate(table.entries):
        for column, entry in enumerate(entries):
            _write_entry(axes, image, entry, row, column, difference)
    # labels, and a colour bar instead of a frame
    axes.set_xticks(range(values.shape[1]), table.titles()[1:])
    axes.set_yticks(range(values.shape[0]), table.row_titles())
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=10)
    axes.set_ylabel(table.grid.keys[0])
    if len(table.grid.keys) > 1:
        axes.set_xlabel(table.grid.keys[1])
    for side in axes.spines.values():
        side.set_visible(False)
    axes.figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)


def _estimate(entry: Entry, difference: bool) -> Estimate | None:
    return entry.difference if difference else entry.estimate


def _value(entry: Entry, difference: bool) -> float:
    estimate = _estimate(entry, difference)
    return float("nan") if estimate is None else estimate.mean


def _write_entry(axes: "Axes", image: "AxesImage", entry: Entry, row: int, column: int, difference: bool) -> None:
    """Write the number of an entry with its interval over its colour, or the reason why there is no number."""
    import numpy as np
    from matplotlib.patches import Rectangle

    estimate = _estimate(entry, difference)
    if estimate is None:
        text = entry.difference_text() if difference else entry.mean_text()
        if not (difference and entry.is_reference):
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch="///", edgecolor="0.75", lw=0))
        axes.text(column, row, text, ha="center", va="center", color="0.25", backgroundcolor="0.92", fontsize=8)
        return
    red, green, blue, _ = image.to_rgba(np.array([estimate.mean]))[0]
    # black letters on a light background, white ones on a dark one, by the luminance of Rec. 709
    color = "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else "white"
    text = f"{estimate.mean:+.2f}" if difference else f"{estimate.mean:.2f}"
    star = "*" if difference and estimate.marked else ""
    seeds = "" if entry.done == entry.wanted else f"\n{entry.done} of {entry.wanted} seeds"
    interval = "" if estimate.half_width is None else f"\n±{estimate.half_width:.2f}"
    axes.text(column, row, f"{text}{star}{interval}{seeds}", ha="center", va="center", color=color, fontsize=8)
