"""Curves and scores of the page as SVG and PNG for a paper: a column wide, in colours that all eyes tell apart.

matplotlib comes with the extra ``plot`` and is imported when something is drawn.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepclip.audio.files import replace_file
from sepclip.errors import UserError
from sepclip.report.charts import Chart
from sepclip.report.curves import MetricsHistory, dynamics_charts, dynamics_of, training_charts
from sepclip.report.dynamics_figure import require_matplotlib
from sepclip.report.of_run import is_run
from sepclip.report.of_sweep import is_sweep, read_sweep, sweep_charts
from sepclip.report.of_two import Pair, names_of, pair_of
from sepclip.report.scores import Scores, evaluations
from sepclip.report.tables import improvements

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# of Okabe and Ito: told apart by every kind of colour vision, and by their dashes in grey
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
DASHES = ("-", "--", "-.", ":")
_STYLE: Any = {
    "figure.figsize": (3.4, 2.3),  # inches: one column of two
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.1,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a folder may be called $x$
    "svg.fonttype": "none",  # text stays text, in the font of the paper
    "svg.hashsalt": "sepclip",  # the same numbers give the same file
}
_DOTS_PER_INCH = 300


def write_figures(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Draw curves and scores of a run, a sweep, an evaluation or two of these into ``folder``; returns the files."""
    require_matplotlib()
    drawn: dict[str, Callable[[Axes], None]] = {}
    for chart in _charts(paths):
        drawn[chart.anchor.removeprefix("chart-")] = lambda axes, chart=chart: _draw_chart(axes, chart)  # type: ignore[misc]
    drawn |= _score_figures(paths)
    if not drawn:
        raise UserError(f"{paths[0]} has neither curves nor scores to draw")
    return [file for name, draw in drawn.items() for file in _save(folder / name, draw)]


def _charts(paths: Sequence[Path]) -> list[Chart]:
    if len(paths) == 1 and is_sweep(paths[0]):
        found = read_sweep(paths[0])
        return sweep_charts(paths[0], found.cells, found.keys)
    if not all(is_run(path) for path in paths):
        return []
    names = [paths[0].name] if len(paths) == 1 else names_of(*paths)
    charts = training_charts([MetricsHistory.read(path, name) for path, name in zip(paths, names, strict=True)])
    for place, path in enumerate(paths, 1):
        records = dynamics_of(path)
        if records is not None:
            charts += dynamics_charts(records, "figure1" if len(paths) == 1 else f"figure1-{place}")
    return charts


def _score_figures(paths: Sequence[Path]) -> "dict[str, Callable[[Axes], None]]":
    if len(paths) == 2:
        pair = pair_of(*paths)
        return {} if pair is None else {"scores": lambda axes: _draw_pair(axes, pair)}
    if is_sweep(paths[0]):
        return {}
    found = evaluations(paths[0]) if is_run(paths[0]) else [Scores.read(paths[0])]
    parts = improvements(found[0]) if found else {}
    return {"scores": lambda axes: _draw_distributions(axes, next(iter(parts.items())))} if parts else {}


def _draw_chart(axes: "Axes", chart: Chart) -> None:
    """Draw the curves of a chart of the page."""
    for index, series in enumerate(chart.series):
        places = [place for place, value in enumerate(series.values) if value is not None]
        x, y = [chart.x[place] for place in places], [series.values[place] for place in places]
        colour = "black" if series.color is None else COLOURS[series.color % len(COLOURS)]
        if series.kind == "points":
            axes.plot(x, y, "o", color=colour, markersize=2, alpha=0.5, markeredgewidth=0)  # type: ignore[arg-type]
            continue
        dash = "--" if series.dashed else DASHES[index % len(DASHES)] if len(chart.series) > 2 else "-"
        axes.plot(x, y, dash, color=colour, label=series.label, alpha=0.6 if series.faint else 1)  # type: ignore[arg-type]
    for place in chart.vlines:
        axes.axvline(place, color="black", linestyle="--", linewidth=1)
    if chart.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:.2g}")  # the default writes powers as formulas
        axes.yaxis.set_minor_formatter("{x:.2g}" if axes.get_ylim()[1] < 10 * axes.get_ylim()[0] else "")
    axes.set(title=chart.title, xlabel=chart.xlabel, ylabel=chart.unit)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(frameon=False)


def _draw_distributions(axes: "Axes", found: tuple[str, Mapping[str, Sequence[float]]]) -> None:
    """Draw what share of the sources is no better than a score, for each group and the oracle."""
    title, parts = found
    for index, (name, values) in enumerate(parts.items()):
        axes.ecdf(values, label=name, color=COLOURS[index % len(COLOURS)], linestyle=DASHES[index % len(DASHES)])
    axes.set(xlabel=f"{title} (dB)", ylabel="share of sources")
    axes.legend(frameon=False)


def _draw_pair(axes: "Axes", pair: Pair) -> None:
    metric = pair.metric()
    first, second = zip(*pair.values(metric).values(), strict=True)
    axes.plot(first, second, "o", color=COLOURS[0], markersize=2.5, alpha=0.6, markeredgewidth=0)
    axes.axline((first[0], first[0]), slope=1, color="black", linestyle="--", linewidth=0.8)
    axes.set_aspect("equal", adjustable="datalim")
    title = pair.first.titles[metric]
    axes.set(xlabel=f"{pair.names[0]}, {title} (dB)", ylabel=f"{pair.names[1]}, {title} (dB)")


def _save(path: Path, draw: "Callable[[Axes], None]") -> list[Path]:
    import matplotlib
    from matplotlib.figure import Figure

    made = []
    with matplotlib.rc_context(_STYLE):
        figure = Figure(layout="constrained")
        draw(figure.subplots())
        for kind, facts in (("svg", {"Date": None}), ("png", {"Software": None})):
            encoded = io.BytesIO()
            figure.savefig(encoded, format=kind, dpi=_DOTS_PER_INCH, metadata=facts)
            made.append(path.with_name(f"{path.name}.{kind}"))
            replace_file(made[-1], lambda temporary, data=encoded: temporary.write_bytes(data.getbuffer()))  # type: ignore[misc]
    return made
