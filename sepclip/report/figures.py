"""Curves and scores of the page as SVG and PNG for a paper, one column wide.

matplotlib is part of the extra ``plot`` and is imported only when something is drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepclip.errors import UserError
from sepclip.pretrained.model_cards import find_run
from sepclip.report.charts import Chart
from sepclip.report.comparison_page import ScoredPair, distinct_names, read_pair
from sepclip.report.curves import MetricsHistory, dynamics_charts, read_dynamics, training_charts
from sepclip.report.dynamics_figure import require_matplotlib, save_figure
from sepclip.report.run_page import is_run
from sepclip.report.scores import Scores, evaluations
from sepclip.report.sweep_page import is_sweep, read_sweep, sweep_charts
from sepclip.report.tables import improvements

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# of Okabe and Ito: distinct for every kind of colour vision; in greyscale the dashes distinguish them
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
    """Draw curves and scores of one or two folders of runs, sweeps or evaluations into ``folder``; return the files.

    Raises UserError if there is nothing to draw.
    """
    require_matplotlib()
    figures: dict[str, Callable[[Axes], None]] = {}  # file name without suffix to a function that draws it
    for chart in _charts(paths):
        figures[chart.anchor.removeprefix("chart-")] = partial(_draw_chart, chart=chart)
    figures |= _score_figures(paths)
    if not figures:
        raise UserError(f"{paths[0]} has neither curves nor scores to draw")
    return [file for name, draw in figures.items() for file in _save(folder / name, draw)]


def _charts(paths: Sequence[Path]) -> list[Chart]:
    """Return the charts of the page of ``paths``; none for evaluations."""
    if len(paths) == 1 and is_sweep(paths[0]):
        return sweep_charts(paths[0], read_sweep(paths[0]))
    if not all(is_run(path) for path in paths):
        return []
    names = [paths[0].name] if len(paths) == 1 else distinct_names(*paths)
    charts = training_charts(
        [MetricsHistory.read(find_run(path), name) for path, name in zip(paths, names, strict=True)]
    )
    for number, path in enumerate(paths, 1):
        records = read_dynamics(path)
        if records is not None:
            charts += dynamics_charts(records, "figure1" if len(paths) == 1 else f"figure1-{number}")
    return charts


def _score_figures(paths: Sequence[Path]) -> "dict[str, Callable[[Axes], None]]":
    """Return the figure of the scores, if there are any: paired scores of two folders, or distributions of one."""
    if len(paths) == 2:
        pair = read_pair(*paths)
        return {} if pair is None else {"scores": partial(_draw_pair, pair=pair)}
    if is_sweep(paths[0]):
        return {}
    all_scores = evaluations(paths[0]) if is_run(paths[0]) else [Scores.read(paths[0])]
    distributions = improvements(all_scores[0]) if all_scores else {}
    if not distributions:
        return {}
    title, groups = next(iter(distributions.items()))
    return {"scores": partial(_draw_distributions, title=title, groups=groups)}


def _draw_chart(axes: "Axes", chart: Chart) -> None:
    """Draw the curves of a chart of the page."""
    for index, series in enumerate(chart.series):
        points = [(x, value) for x, value in zip(chart.x, series.values, strict=True) if value is not None]
        x, y = [point[0] for point in points], [point[1] for point in points]
        colour = "black" if series.color is None else COLOURS[series.color % len(COLOURS)]
        if series.kind == "points":
            axes.plot(x, y, "o", color=colour, markersize=2, alpha=0.5, markeredgewidth=0)
            continue
        dash = "--" if series.dashed else DASHES[index % len(DASHES)] if len(chart.series) > 2 else "-"
        axes.plot(x, y, dash, color=colour, label=series.label, alpha=0.6 if series.faint else 1)
    for position in chart.vlines:
        axes.axvline(position, color="black", linestyle="--", linewidth=1)
    if chart.log:
        axes.set_yscale("log")
        # plain numbers, since the default writes powers as formulas; minor ticks have labels below one decade only
        axes.yaxis.set_major_formatter("{x:.2g}")
        axes.yaxis.set_minor_formatter("{x:.2g}" if axes.get_ylim()[1] < 10 * axes.get_ylim()[0] else "")
    axes.set(title=chart.title, xlabel=chart.xlabel, ylabel=chart.unit)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(frameon=False)


def _draw_distributions(axes: "Axes", title: str, groups: Mapping[str, Sequence[float]]) -> None:
    """Draw the cumulative distribution of a score over the sources, for each group and the oracle."""
    for index, (name, values) in enumerate(groups.items()):
        axes.ecdf(values, label=name, color=COLOURS[index % len(COLOURS)], linestyle=DASHES[index % len(DASHES)])
    axes.set(xlabel=f"{title} (dB)", ylabel="share of sources")
    axes.legend(frameon=False)


def _draw_pair(axes: "Axes", pair: ScoredPair) -> None:
    """Draw the scores of the second system over those of the first; above the diagonal the second is better."""
    metric = pair.headline_metric()
    first, second = zip(*pair.values(metric).values(), strict=True)
    axes.plot(first, second, "o", color=COLOURS[0], markersize=2.5, alpha=0.6, markeredgewidth=0)
    axes.axline((first[0], first[0]), slope=1, color="black", linestyle="--", linewidth=0.8)
    axes.set_aspect("equal", adjustable="datalim")
    title = pair.first.titles[metric]
    axes.set(xlabel=f"{pair.names[0]}, {title} (dB)", ylabel=f"{pair.names[1]}, {title} (dB)")


def _save(path: Path, draw: "Callable[[Axes], None]") -> list[Path]:
    """Draw one figure and save it as SVG and PNG under ``path`` with a suffix; return the files."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(layout="constrained")
        draw(figure.subplots())
        return save_figure(figure, path, dots_per_inch=_DOTS_PER_INCH)
