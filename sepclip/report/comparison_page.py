"""The page that compares two runs, or two evaluations, on the same files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sepclip.errors import UserError, counted
from sepclip.evaluation.comparison import compare_pair, correct_all, interval_text
from sepclip.evaluation.document import PairComparison
from sepclip.report.curves import MetricsHistory, dynamics_charts, read_dynamics, training_charts
from sepclip.report.examples import example_source, select_examples
from sepclip.report.facts import configuration_differences
from sepclip.report.listening import example_cards
from sepclip.report.markup import Markup, minus, signed, tag
from sepclip.report.page import Headline, Page
from sepclip.report.run_page import PLAYER_HELP, ZOOM_HELP, add_listening_error, is_run, scored_data
from sepclip.report.scores import FILE, Scores, evaluations
from sepclip.report.svg import histogram, scatter
from sepclip.report.tables import Value, grid, sortable
from sepclip.terminal import warn
from sepclip.training.run import Run

_LEVEL = 0.05  # p below which a difference gets an asterisk
_RANKS = {"best": "largest gain", "median": "median", "worst": "largest loss"}  # of the differences


@dataclass(frozen=True)
class ScoredPair:
    """Two evaluations of the same files; ``names`` are those of the two systems on the page."""

    names: tuple[str, str]
    first: Scores
    second: Scores

    def values(self, metric: str) -> dict[str, tuple[float, float]]:
        """Return both scores of each file that has both."""
        first, second = self.first.by_file(metric), self.second.by_file(metric)
        return {name: (first[name], second[name]) for name in first if name in second}

    def differences(self, metrics: Sequence[str]) -> dict[str, PairComparison]:
        """Return the second minus the first, by metric, as `sepclip compare` does; corrected for these metrics."""
        result = {}
        for metric in metrics:
            values = self.values(metric)
            result[metric] = compare_pair(
                *self.names, np.array([values[name][1] - values[name][0] for name in sorted(values)])
            )
        correct_all(list(result.values()))
        return result

    def metrics(self) -> list[str]:
        """Return the metrics that both evaluations have."""
        return [metric for metric in self.first.titles if metric in self.second.titles and self.values(metric)]

    def headline_metric(self) -> str:
        """Return the metric of the headline."""
        metric = self.first.headline_metric()
        return metric if metric in self.metrics() else self.metrics()[0]

    def differing_metrics(self) -> list[str]:
        """Return the metrics that differ in any file. Oracles, for example, are the same in both evaluations."""
        return [
            metric
            for metric in self.metrics()
            if any(first != second for first, second in self.values(metric).values())
        ]


def comparison_page(first: Path, second: Path) -> Page:
    """Return the page of two runs or two evaluations. Raises UserError if they are neither."""
    names = distinct_names(first, second)
    runs = [Run.open(path) for path in (first, second)] if is_run(first) and is_run(second) else []
    pair = read_pair(first, second)
    page = Page("sepclip report of two " + ("runs" if runs else "evaluations"), f"{names[0]} and {names[1]}")
    page.facts = {name: f"{run.config.loss.name}, {run.config.clip}" for name, run in zip(names, runs, strict=False)}
    if pair is not None:
        _add_scores(page, pair)
    if runs:
        # curves on common axes, the dynamics of each run, and the differences in configuration
        histories = [MetricsHistory.read(run.path, name) for run, name in zip(runs, names, strict=True)]
        page.add("training", "Training", ZOOM_HELP, grid([chart.markup() for chart in training_charts(histories)]))
        for number, (path, name) in enumerate(zip((first, second), names, strict=True), 1):
            records = read_dynamics(path)
            if records is not None:
                charts = [chart.markup() for chart in dynamics_charts(records, f"figure1-{number}")]
                page.add(f"dynamics-{number}", f"Training dynamics, {name}", "", grid(charts))
        page.add("run", "Differences in configuration", "", configuration_differences(runs[0], runs[1], names))
    return page


def distinct_names(first: Path, second: Path) -> tuple[str, str]:
    """Return names that distinguish two folders: their own, preceded by as many parent folders as necessary.

    Raises UserError if they are the same folder.
    """
    first_parts, second_parts = first.resolve().parts, second.resolve().parts
    if first_parts == second_parts:
        raise UserError(f"{first} and {second} are the same folder: a comparison needs two")
    for count in range(1, max(len(first_parts), len(second_parts)) + 1):
        names = "/".join(first_parts[-count:]), "/".join(second_parts[-count:])
        if names[0] != names[1]:
            return names
    raise AssertionError("different folders have different paths")


def read_pair(first: Path, second: Path) -> ScoredPair | None:
    """Return the evaluations to compare: for runs, the first one that has the same name and common files in both.

    Return None, after a warning, if two runs have no evaluation in common. Raises UserError if there is nothing to
    compare for other reasons.
    """
    names = distinct_names(first, second)
    # two evaluations
    if not (is_run(first) and is_run(second)):
        for path in (first, second):
            if not (path / FILE).is_file():
                raise UserError(f"{path} is not a run and does not contain {FILE}: give two runs, or two evaluations")
        pair = ScoredPair(names, Scores.read(first), Scores.read(second))
        if not pair.metrics():
            raise UserError(f"{first} and {second} have no scored file in common")
        return pair
    # two runs
    second_scores = {scores.folder.name: scores for scores in evaluations(second)}
    for scores in evaluations(first):
        if scores.folder.name in second_scores:
            pair = ScoredPair(names, scores, second_scores[scores.folder.name])
            if pair.metrics():
                return pair
    warn(f"{first} and {second} have no scored mixtures in common: `sepclip eval RUN DATA` scores each")
    return None


def _add_scores(page: Page, pair: ScoredPair) -> None:
    """Add what the scores say: the headline, what to listen to, the table, the pictures and the list of files."""
    metric = pair.headline_metric()
    title, values = pair.first.titles[metric], pair.values(metric)
    differences = {name: second - first for name, (first, second) in values.items()}
    # the headline, with two digits, because two runs may be close
    difference = pair.differences([metric])[metric]
    if difference["mean"] is not None:
        interval = f" (95 % interval over files: {interval_text(difference)})" if difference["interval"] else ""
        meaning = f"{title}, {pair.names[1]} minus {pair.names[0]}, mean of {counted(len(values), 'file')}{interval}"
        page.headline = Headline(signed(difference["mean"], "", 2), "dB", meaning)
    _add_listening(page, pair, differences, title)
    # the list of files, the largest loss first
    order = sorted(values, key=lambda name: differences[name])
    rows: list[list[Value]] = [[name, *values[name], differences[name]] for name in order]
    titles = ["file", *pair.names, "difference"]
    files_table = sortable("files", f"{counted(len(rows), 'file')}, {title} in dB", titles, rows, text_columns=1)
    # the pictures
    distribution = histogram(
        {"difference": list(differences.values())}, "dB", f"{pair.names[1]} minus {pair.names[0]}, {title} of each file"
    )
    pictures = grid([scatter(values, pair.names, "dB", f"{title} of each file"), distribution])
    lead = (
        f"{scored_data(pair.first)} Differences are between the same files, with their 95 % interval over files "
        f"(bootstrap); an asterisk marks p < {_LEVEL} by Wilcoxon's test, corrected for all scores in the table (Holm)."
    )
    page.add("scores", "Scores", lead, _table(pair), pictures, tag("h3", "All files"), files_table)


def _add_listening(page: Page, pair: ScoredPair, differences: Mapping[str, float], title: str) -> None:
    """Add the mixtures with the largest gain, the median and the largest loss, separated by both systems."""
    try:
        systems = {
            name: example_source(scores) for name, scores in zip(pair.names, (pair.first, pair.second), strict=True)
        }
        ranks = {name: _RANKS[rank] for name, rank in select_examples(differences).items()}
        cards = example_cards(ranks, systems, differences, f"dB {title}", 2)
    except UserError as error:
        add_listening_error(page, error)
        return
    lead = (
        f"The mixtures with the largest gain of {pair.names[1]} over {pair.names[0]}, the median, and the largest "
        f"loss. {PLAYER_HELP}"
    )
    page.add("listen", "Listen", lead, cards)


def _table(pair: ScoredPair) -> Markup:
    """Return the means of both systems for each metric, their difference and the share of files that are better."""
    titles = ("mean, dB", *pair.names, "difference", "95 %", "better files")
    metrics, rows = pair.differing_metrics() or pair.metrics(), []
    for metric, difference in pair.differences(metrics).items():
        values = list(pair.values(metric).values())
        first, second = (sum(scores[index] for scores in values) / len(values) for index in (0, 1))
        certain = difference["p_holm"] is not None and difference["p_holm"] < _LEVEL
        number = minus(f"{difference['mean']:+.2f}") + "*" * certain
        means = (minus(f"{first:.2f}"), minus(f"{second:.2f}"))
        cells = (*means, number, minus(interval_text(difference)), f"{difference['wins']:.0%}")
        rows.append(tag("tr", tag("th", pair.first.titles[metric], scope="row"), (tag("td", cell) for cell in cells)))
    head = tag("tr", (tag("th", title, scope="col") for title in titles))
    return tag("div", tag("table", tag("thead", head), tag("tbody", rows), class_="wide"), class_="scroll")
