"""The table of a sweep as a picture: a heat map of the means, and one of the differences to the reference.

The maps are cividis and PuOr, which people who confuse colours read alike; every place has its numbers as well.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepclip.audio.files import replace_file
from sepclip.sweep.cell_table import Entry, Table
from sepclip.sweep.results import TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DOTS_PER_INCH = 150
_VERSION = 1  # of the drawing: raised with it, so that pictures are made anew


def draw(table: Table, folder: Path) -> str | None:
    """Draw ``table.png`` and ``table.svg`` unless they show this very table; returns why there is none, or None."""
    svg, png = folder / "table.svg", folder / "table.png"
    digest = hashlib.sha256(f"{_VERSION} {table.csv()}".encode()).hexdigest()
    if png.is_file() and svg.is_file() and digest in svg.read_text(encoding="utf-8"):
        return None
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        return f"no picture of the table: {error}; `pip install matplotlib`, then the same command draws it"
    panels = 1 if table.grid.reference is None else 2
    columns, rows = len(table.entries[0]), len(table.entries)
    widest = max(map(len, table.row_titles()))
    size = (panels * (0.95 * columns + 0.085 * widest + 1.6), 0.5 * rows + 1.5)
    # text as text, and the same bytes each time
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
    """Draw one heat map; a place without a number is hatched and says why."""
    import numpy as np

    values = np.array([[_value(entry, difference) for entry in row] for row in table.entries])
    shown: Any
    if difference:
        most = max(0.1, float(np.nanmax(np.abs(values), initial=0.0)))
        shown = axes.imshow(values, cmap="PuOr", vmin=-most, vmax=most, aspect="auto")
    else:
        shown = axes.imshow(values, cmap="cividis", aspect="auto")
    axes.set_facecolor("0.92")
    for row, entries in enumerate(table.entries):
        for column, entry in enumerate(entries):
            _write(axes, shown, entry, row, column, difference)
    axes.set_xticks(range(values.shape[1]), table.titles()[1:])
    axes.set_yticks(range(values.shape[0]), table.row_titles())
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=10)
    axes.set_ylabel(table.grid.keys[0])
    if len(table.grid.keys) > 1:
        axes.set_xlabel(table.grid.keys[1])
    for side in axes.spines.values():
        side.set_visible(False)
    axes.figure.colorbar(shown, ax=axes, fraction=0.05, pad=0.02)


def _value(entry: Entry, difference: bool) -> float:
    found = entry.difference if difference else entry.estimate
    return float("nan") if found is None else found.mean


def _write(axes: "Axes", shown: Any, entry: Entry, row: int, column: int, difference: bool) -> None:
    from matplotlib.patches import Rectangle

    found = entry.difference if difference else entry.estimate
    if found is None:
        text = entry.change() if difference else entry.value()
        if not (difference and entry.is_reference):
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch="///", edgecolor="0.75", lw=0))
        axes.text(column, row, text, ha="center", va="center", color="0.25", backgroundcolor="0.92", fontsize=8)
        return
    red, green, blue, _ = shown.cmap(shown.norm(found.mean))
    # the luminance of Rec. 709: dark letters on light ground
    color = "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else "white"
    text = f"{found.mean:+.2f}" if difference else f"{found.mean:.2f}"
    star = "*" if difference and found.leaves_out_zero else ""
    few = "" if entry.done == entry.wanted else f"\n{entry.done} of {entry.wanted} seeds"
    half = "" if found.half is None else f"\n±{found.half:.2f}"
    axes.text(column, row, f"{text}{star}{half}{few}", ha="center", va="center", color=color, fontsize=8)
