"""The pictures of `sepclip dynamics`: Figure 1 of the AutoClip paper for one run or two, and an animation of it.

matplotlib is part of the extra ``plot`` and is imported only when something is drawn.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sepclip.audio.files import replace_file
from sepclip.errors import UserError
from sepclip.training.dynamics import Records, correlation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from PIL import Image

COLOURS = ("#0072B2", "#D55E00")  # blue and vermilion of Okabe and Ito: distinct for every kind of colour vision
_TEXT_BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2}  # behind text that crosses a line
_THRESHOLD: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1.5}
_STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a folder may be called $x$
    "svg.hashsalt": "sepclip",  # the same records give the same file
}
_DOTS_PER_INCH = 130
_MOST_FRAMES = 60
_FRAME_MS, _LAST_MS = 80, 2500
_TRAIL = 12  # the newest points of the animation, which are emphasized
_NORM, _SMOOTHNESS = "log10 gradient norm", "log10 local smoothness"


def require_matplotlib() -> None:
    """Raise UserError if matplotlib or pillow is not installed."""
    try:
        import matplotlib  # noqa: F401
        import PIL  # noqa: F401
    except ImportError as error:
        raise UserError("pictures need matplotlib and pillow: pip install 'sepclip[plot]'") from error


def draw_dynamics(runs: Sequence[Records], out: Path) -> list[Path]:
    """Draw Figure 1 for one run or two into ``out``, and return the files: ``dynamics.svg`` and ``dynamics.png``."""
    require_matplotlib()
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        return save_figure(_still_figure(runs), out / "dynamics", dots_per_inch=_DOTS_PER_INCH)


def save_figure(figure: "Figure", path: Path, *, dots_per_inch: int) -> list[Path]:
    """Save a figure as SVG and PNG under ``path`` with a suffix, and return the files.

    They have no date and no version of matplotlib, so that the same numbers give the same bytes.
    """
    files = []
    for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        encoded = io.BytesIO()
        figure.savefig(encoded, format=kind, dpi=dots_per_inch, metadata=metadata)
        files.append(path.with_name(f"{path.name}.{kind}"))
        _write(files[-1], encoded)
    return files


def animate_dynamics(runs: Sequence[Records], out: Path) -> Path:
    """Animate gradient norm against smoothness during training, with the threshold; return ``dynamics.gif``."""
    require_matplotlib()
    import matplotlib
    from PIL import Image

    with matplotlib.rc_context(_STYLE):
        pictures = _frames(runs)
    # one palette for all frames, because colours would flicker otherwise; the last frame has all colours
    palette = pictures[-1].quantize(256)
    frames = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    encoded = io.BytesIO()
    durations = [_FRAME_MS] * (len(frames) - 1) + [_LAST_MS]
    frames[0].save(encoded, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    _write(out / "dynamics.gif", encoded)
    return out / "dynamics.gif"


def _write(path: Path, encoded: io.BytesIO) -> None:
    replace_file(path, lambda temporary: temporary.write_bytes(encoded.getbuffer()))


def _still_figure(runs: Sequence[Records]) -> "Figure":
    """Return the four panels of one run in a square, or of two runs side by side on the same axes."""
    from matplotlib.figure import Figure

    # columns[i]: the four axes of run i
    if len(runs) == 1:
        figure = Figure(figsize=(9, 6.5), layout="constrained")
        columns = [figure.subplots(2, 2).ravel()]
        figure.suptitle(_title(runs[0]))
    else:
        figure = Figure(figsize=(4.8 * len(runs), 11), layout="constrained")
        grid = figure.subplots(4, len(runs), sharex="row", sharey="row")
        columns = list(grid.T)
        for axes, records in zip(grid[0], runs, strict=True):
            axes.set_title(_title(records))
    for panels, records, colour in zip(columns, runs, COLOURS, strict=False):
        step, loss, norm, scatter = panels
        # step size
        step.plot(records.step, records.step_size, color=colour, linewidth=1)
        step.set_ylabel("step size")
        # loss, with a running mean; the paper shows its natural logarithm
        loss_ln = _log10(records.loss) * np.log(10)
        loss.plot(records.step, loss_ln, color=colour, linewidth=1, alpha=0.4)
        loss.plot(records.step, _running_mean(loss_ln), color=colour, linewidth=2)
        loss.set_ylabel("ln training loss")
        # gradient norm and threshold
        norm.plot(records.step, _log10(records.grad_norm), color=colour, linewidth=1)
        norm.plot(records.step, _log10(records.threshold), label="threshold", **_THRESHOLD)
        norm.set_ylabel(_NORM)
        _legend(norm, records)
        for axes in (step, loss, norm):
            axes.set_xlabel("iteration")
        # gradient norm against smoothness
        _scatter(scatter, records, colour)
    return figure


def _scatter(axes: "Axes", records: Records, colour: str) -> None:
    """Draw smoothness against gradient norm, and the threshold at the end of training."""
    axes.scatter(*records.logarithms(), s=14, color=colour, alpha=0.5, linewidths=0)
    threshold = _last(_log10(records.threshold))
    axes.axvline(np.nan if threshold is None else threshold, label="threshold at the end", **_THRESHOLD)
    _legend(axes, records)
    _note(axes, _r(records.correlation()))
    axes.set(xlabel=_NORM, ylabel=_SMOOTHNESS)
    axes.locator_params(axis="x", nbins=6)


def _frames(runs: Sequence[Records]) -> "list[Image.Image]":
    """Return the frames of the animation in RGB; the last one has all records."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    # all runs on the same axes, which do not move during the animation
    figure = Figure(figsize=(5 * len(runs), 4.6), dpi=90, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)  # its methods have no types
    panels = figure.subplots(1, len(runs), squeeze=False, sharex=True, sharey=True)[0]
    logarithms = [records.logarithms() for records in runs]
    thresholds = [_log10(records.threshold) for records in runs]
    panels[0].set_xlim(_limits([*(norm for norm, _ in logarithms), *thresholds]))
    panels[0].set_ylim(_limits([smoothness for _, smoothness in logarithms]))
    # frames at equal distances in training steps, at most as many as there are records
    updates = [
        _animated_panel(axes, records, colour) for axes, records, colour in zip(panels, runs, COLOURS, strict=False)
    ]
    last = max(records.step[-1] for records in runs)
    longest = max(len(records.step) for records in runs)
    pictures = []
    for share in np.linspace(0, 1, min(_MOST_FRAMES, longest) + 1)[1:]:
        for update in updates:
            update(share * last)
        canvas.draw()
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    return pictures


def _animated_panel(axes: "Axes", records: Records, colour: str) -> Callable[[float], None]:
    """Set up one panel of the animation; return a function that shows its state at a training step."""
    norm, smoothness = records.logarithms()
    threshold = _log10(records.threshold)
    axes.set(title=_title(records), xlabel=_NORM, ylabel=_SMOOTHNESS)
    axes.locator_params(axis="x", nbins=6)
    old = axes.scatter([], [], s=14, color=colour, alpha=0.35, linewidths=0)
    new = axes.scatter([], [], s=30, color=colour, edgecolors="black", linewidths=0.6)
    line = axes.axvline(np.nan, label="threshold", **_THRESHOLD)
    _legend(axes, records)
    note = _note(axes, "")

    def update(step: float) -> None:
        count = int(np.searchsorted(records.step, step, side="right"))
        points = np.stack([norm, smoothness], 1)[:count]  # (records, 2)
        old.set_offsets(points[:-_TRAIL])
        new.set_offsets(points[-_TRAIL:])
        latest = _last(threshold[:count])
        if latest is not None:
            line.set_xdata([latest, latest])
        note.set_text(f"iteration {min(step, records.step[-1]):.0f}\n{_r(correlation(*points.T))}")

    return update


def _limits(columns: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return limits that contain all finite values of ``columns`` with a margin of 5 %."""
    values = np.concatenate(columns)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    margin = 0.05 * float(np.ptp(values)) or 0.1
    return float(values.min()) - margin, float(values.max()) + margin


def _title(records: Records) -> str:
    return f"{records.run.name} (--clip {records.clip})"


def _r(value: float | None) -> str:
    return "r: too few records" if value is None else f"r = {value:.2f}"


def _note(axes: "Axes", text: str) -> "Text":
    return axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", bbox=_TEXT_BOX)


def _legend(axes: "Axes", records: Records) -> None:
    """Add a legend for the threshold if the run had one."""
    if np.isfinite(records.threshold).any():
        axes.legend(loc="lower right", fontsize=9)


def _log10(column: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithms of a column, NaN for values that have none."""
    return np.log10(np.where(column > 0, column, np.nan))


def _last(column: NDArray[np.float64]) -> float | None:
    usable = column[np.isfinite(column)]
    return float(usable[-1]) if len(usable) else None


def _running_mean(column: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the finite values in a window of a twentieth of the records, centred on each record."""
    reach = max(1, len(column) // 40)  # records on either side
    # differences of cumulative sums: O(records), whatever the size of the window
    sums = np.cumsum(np.r_[0, np.nan_to_num(column)])  # (records + 1,)
    counts = np.cumsum(np.r_[0, np.isfinite(column)])
    index = np.arange(len(column))
    # the window is cut off at both ends; means are over what is left of it
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(column))
    finite = counts[high] - counts[low]
    return np.where(finite > 0, (sums[high] - sums[low]) / np.maximum(finite, 1), np.nan)
