"""A comparison as a picture: the difference of every file, and the mean with its interval, a panel a score."""

from pathlib import Path
from typing import Any

from sepclip.audio.files import replace_file

_MOST_PANELS = 6


def draw(result: dict[str, Any], path: Path) -> str | None:
    """Draw the differences to ``path`` (SVG, the same bytes each time); returns why there is no picture, or None."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        return f"no picture of the comparison: {error}; `pip install matplotlib`, then the same command draws it"
    shown = [name for name, found in result["scores"].items() if found["files"]][:_MOST_PANELS]
    if not shown:
        return "no picture of the comparison: no file has a score in all systems"
    pairs = len(result["scores"][shown[0]]["pairs"])
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sepclip", "font.size": 9}):
        figure = Figure(figsize=(2.6 * len(shown) + 1.5, 0.9 * pairs + 1.3), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            _panel(axes, result["scores"][name]["pairs"])
            axes.set_title(f"{result['titles'][name]}, difference", fontsize=9)
            axes.set_yticks(range(pairs), [f"{p['second']}\n- {p['first']}" for p in result["scores"][name]["pairs"]])
            axes.tick_params(left=False, labelleft=name == shown[0])
        metadata = {"Date": None}
        replace_file(path, lambda temporary: figure.savefig(temporary, format="svg", metadata=metadata))
    return None


def _panel(axes: Any, pairs: list[dict[str, Any]]) -> None:
    axes.axvline(0, color="0.6", lw=0.8)
    for place, pair in enumerate(pairs):
        values = sorted(pair["differences"])
        # the files in their order, so that dots of one value lie side by side
        heights = [place + 0.3 * (index / max(len(values) - 1, 1) - 0.5) for index in range(len(values))]
        axes.plot(values, heights, ".", ms=3, color="#7b9fc4", alpha=0.7, rasterized=len(values) > 2000)
        if pair["interval"]:
            axes.plot(pair["interval"], [place, place], color="#b35806", lw=2.5, solid_capstyle="butt")
        axes.plot([pair["mean"]], [place], "d", ms=6, color="#b35806")
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
