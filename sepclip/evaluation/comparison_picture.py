"""A comparison as a picture: the difference of every file, and the mean with its interval, in one panel per score."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sepclip.audio.files import replace_file
from sepclip.evaluation.document import Comparison, PairComparison

_MOST_PANELS = 6


def draw_comparison(result: Comparison, path: Path) -> str | None:
    """Draw the differences to ``path`` (SVG, the same bytes each time); returns the reason if that is not possible."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        return f"no picture of the comparison: {error}; `pip install matplotlib`, then the same command draws it"
    names = [name for name, scores in result["scores"].items() if scores["files"]][:_MOST_PANELS]
    if not names:
        return "no picture of the comparison: no file has a score in all systems"
    count = len(result["scores"][names[0]]["pairs"])
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sepclip", "font.size": 9}):
        figure = Figure(figsize=(2.6 * len(names) + 1.5, 0.9 * count + 1.3), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            pairs = result["scores"][name]["pairs"]
            _draw_panel(axes, pairs)
            axes.set_title(f"{result['titles'][name]}, difference", fontsize=9)
            axes.set_yticks(range(count), [f"{pair['second']}\n- {pair['first']}" for pair in pairs])
            axes.tick_params(left=False, labelleft=name == names[0])
        metadata = {"Date": None}
        replace_file(path, lambda temporary: figure.savefig(temporary, format="svg", metadata=metadata))
    return None


def _draw_panel(axes: Any, pairs: Sequence[PairComparison]) -> None:
    """Draw one score: a dot per file, the interval as a bar, the mean as a diamond, in one line per pair."""
    axes.axvline(0, color="0.6", lw=0.8)
    for place, pair in enumerate(pairs):
        values = sorted(pair["differences"])
        # a file's height follows the rank of its difference, so that dots of one value are side by side
        heights = [place + 0.3 * (index / max(len(values) - 1, 1) - 0.5) for index in range(len(values))]
        axes.plot(values, heights, ".", ms=3, color="#7b9fc4", alpha=0.7, rasterized=len(values) > 2000)
        if pair["interval"]:
            axes.plot(pair["interval"], [place, place], color="#b35806", lw=2.5, solid_capstyle="butt")
        axes.plot([pair["mean"]], [place], "d", ms=6, color="#b35806")
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
