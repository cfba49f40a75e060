"""The page of two runs, or of two evaluations, held against each other on the same files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sepclip.errors import UserError, counted
from sepclip.report.curves import MetricsHistory, dynamics_charts, dynamics_of, training_charts
from sepclip.report.examples import chosen, source_of
from sepclip.report.facts import configurations
from sepclip.report.listening import cards
from sepclip.report.markup import Markup, minus, signed, tag
from sepclip.report.of_run import LISTEN, about, is_run
from sepclip.report.page import Headline, Page
from sepclip.report.scores import FILE, Scores, evaluations
from sepclip.report.svg import histogram, paired
from sepclip.report.tables import grid, sortable
from sepclip.sweep.intervals import Estimate, of_differences
from sepclip.terminal import warn
from sepclip.training.run import Run


@dataclass(frozen=True)
class Pair:
    """Two evaluations of the same files; ``names`` are what the page calls them."""

    names: tuple[str, str]
    first: Scores
    second: Scores

    def values(self, metric: str) -> dict[str, tuple[float, float]]:
        """Return both scores of every file that has both."""
        one, other = self.first.by_file(metric), self.second.by_file(metric)
        return {name: (one[name], other[name]) for name in one if name in other}

    def difference(self, metric: str) -> Estimate | None:
        """Return the second minus the first, file by file, with its interval."""
        values = self.values(metric)
        one, other = ({name: pair[place] for name, pair in values.items()} for place in (0, 1))
        return of_differences({0: other}, {0: one})

    def metrics(self) -> list[str]:
        """Return the metrics that both have."""
        return [metric for metric in self.first.titles if metric in self.second.titles and self.values(metric)]

    def metric(self) -> str:
        """Return the metric of the headline."""
        best = self.first.best_metric()
        return best if best in self.metrics() else self.metrics()[0]

    def differing(self) -> list[str]:
        """Return those of the metrics that differ in any file: an oracle is the same for both."""
        return [metric for metric in self.metrics() if any(one != other for one, other in self.values(metric).values())]


def two_page(first: Path, second: Path) -> Page:
    """Return the page of two runs or two evaluations. Raises UserError where they are neither."""
    names = names_of(first, second)
    runs = [Run.open(path) for path in (first, second)] if is_run(first) and is_run(second) else []
    pair = pair_of(first, second)
    page = Page("sepclip report of two " + ("runs" if runs else "evaluations"), f"{names[0]} and {names[1]}")
    page.facts = {name: f"{run.config.loss.name}, {run.config.clip}" for name, run in zip(names, runs, strict=False)}
    if pair is not None:
        _add_scores(page, pair)
    if runs:
        histories = [MetricsHistory.read(path, name) for path, name in zip((first, second), names, strict=True)]
        charts = [chart.markup() for chart in training_charts(histories)]
        page.add("training", "Training", "Drag over a plot to zoom; all of them move together.", grid(charts))
        for place, (path, name) in enumerate(zip((first, second), names, strict=True), 1):
            records = dynamics_of(path)
            if records is not None:
                shown = [chart.markup() for chart in dynamics_charts(records, f"figure1-{place}")]
                page.add(f"dynamics-{place}", f"Training dynamics, {name}", "", grid(shown))
        page.add("run", "How they differ", "", configurations(runs[0], runs[1], names))
    return page


def names_of(first: Path, second: Path) -> tuple[str, str]:
    """Return names that tell the two apart: those of the folders, or of as many above as it takes."""
    one, other = first.resolve().parts, second.resolve().parts
    if one == other:
        raise UserError(f"{first} and {second} are the same folder: a comparison needs two")
    for count in range(1, max(len(one), len(other)) + 1):
        names = "/".join(one[-count:]), "/".join(other[-count:])
        if names[0] != names[1]:
            return names
    raise AssertionError("different folders have different paths")


def pair_of(first: Path, second: Path) -> Pair | None:
    """Return the evaluations to compare: of runs the first that has the same name and files in both."""
    names = names_of(first, second)
    if not (is_run(first) and is_run(second)):
        for path in (first, second):
            if not (path / FILE).is_file():
                raise UserError(f"{path} is neither a run nor holds {FILE}: give two runs, or two evaluations")
        found = Pair(names, Scores.read(first), Scores.read(second))
        if not found.metrics():
            raise UserError(f"{first} and {second} have scores for no file in common")
        return found
    others = {scores.folder.name: scores for scores in evaluations(second)}
    for scores in evaluations(first):
        if scores.folder.name in others:
            found = Pair(names, scores, others[scores.folder.name])
            if found.metrics():
                return found
    warn(f"{first} and {second} are scored on nothing in common: `sepclip eval RUN DATA` scores each")
    return None


def _add_scores(page: Page, pair: Pair) -> None:
    """Add what the scores say: the headline, what to listen to, the table, the picture and the list."""
    metric = pair.metric()
    title, values = pair.first.titles[metric], pair.values(metric)
    found = pair.difference(metric)
    if found is not None:
        half = "" if found.half is None else f" ± {found.half:.2f} (95 % interval over files)"
        of = f"{title}, {pair.names[1]} minus {pair.names[0]}, mean of {counted(found.files, 'file')}{half}"
        page.headline = Headline(signed(found.mean, "", 2), "dB", of)  # two runs may lie close together
    _add_listening(page, pair, {name: other - one for name, (one, other) in values.items()}, title)
    lead = f"{about(pair.first)} Differences are of the same files; an asterisk: the 95 % interval leaves out 0."
    order = sorted(values, key=lambda name: values[name][1] - values[name][0])
    rows: list[list[str | float | None]] = [[name, *values[name], values[name][1] - values[name][0]] for name in order]
    listed = sortable(
        "files", f"{counted(len(rows), 'file')}, {title} in dB", ["file", *pair.names, "difference"], rows, words=1
    )
    gains = {"difference": [other - one for one, other in values.values()]}
    spread = histogram(gains, "dB", f"{pair.names[1]} minus {pair.names[0]}, {title} of every file")
    picture = grid([paired(values, pair.names, "dB", f"{title} of every file"), spread])
    page.add("scores", "Scores", lead, _table(pair), picture, tag("h3", "Every file"), listed)


def _add_listening(page: Page, pair: Pair, gains: Mapping[str, float], title: str) -> None:
    words = {"best": "most gained", "median": "median", "worst": "most lost"}
    try:
        systems = {name: source_of(scores) for name, scores in zip(pair.names, (pair.first, pair.second), strict=True)}
        made = cards({name: words[word] for name, word in chosen(gains).items()}, systems, gains, f"dB {title}", 2)
    except UserError as error:
        warn(f"the report has no sounds: {error}")
        page.add("listen", "Listen", "", tag("p", f"No sounds: {error}.", class_="note"))
        return
    lead = f"Where {pair.names[1]} gained most over {pair.names[0]}, the median, and where it lost most. {LISTEN}"
    page.add("listen", "Listen", lead, made)


def _table(pair: Pair) -> Markup:
    titles = ("mean, dB", *pair.names, "difference", "better files")
    rows = []
    for metric in pair.differing() or pair.metrics():
        values = list(pair.values(metric).values())
        one, other = (sum(pair_of[place] for pair_of in values) / len(values) for place in (0, 1))
        found = pair.difference(metric)
        half = found.half if found else None
        told = f"{other - one:+.2f}" + ("" if half is None else f" ± {half:.2f}")
        star = "*" if found and found.leaves_out_zero else ""
        better = sum(b > a for a, b in values) / len(values)
        cells = (minus(f"{one:.2f}"), minus(f"{other:.2f}"), minus(told) + star, f"{better:.0%}")
        rows.append(tag("tr", tag("th", pair.first.titles[metric], scope="row"), (tag("td", cell) for cell in cells)))
    head = tag("tr", (tag("th", title, scope="col") for title in titles))
    return tag("div", tag("table", tag("thead", head), tag("tbody", rows), class_="wide"), class_="scroll")
