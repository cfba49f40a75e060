"""The page of one run."""

from pathlib import Path
from statistics import fmean

from sepclip.errors import UserError, counted
from sepclip.report.curves import GAIN as VALIDATED
from sepclip.report.curves import MetricsHistory, dynamics_charts, dynamics_of, training_charts
from sepclip.report.examples import chosen, source_of, validation_source
from sepclip.report.facts import data_path, environment_of, what_was_run
from sepclip.report.listening import cards
from sepclip.report.markup import signed, tag
from sepclip.report.page import Headline, Page
from sepclip.report.scores import GAIN, Scores, evaluations, values_of
from sepclip.report.tables import distributions, file_list, grid, summary
from sepclip.terminal import warn
from sepclip.training.run import CONFIG, ENVIRONMENT, Run

LISTEN = (
    "Each player has its spectrogram above it: a click there plays from that point. Below an estimate is its mask, "
    "bright where it keeps what the mixture has."
)


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return (path / CONFIG).is_file() and (path / ENVIRONMENT).is_file()


def run_page(path: Path) -> Page:
    """Return the page of a run. Raises UserError where ``path`` is none."""
    run = Run.open(path)
    history = MetricsHistory.read(path, path.resolve().name)
    scored = evaluations(path)
    page = Page("sepclip report of a run", path.resolve().name, headline(history, scored), run_facts(run, history))
    add_listening(page, scored[0] if scored else None, run)
    for place, scores in enumerate(scored):
        add_scores(page, scores, place)
    charts = [chart.markup() for chart in training_charts([history])]
    page.add("training", "Training", "Drag over a plot to zoom; all of them move together.", grid(charts))
    records = dynamics_of(path)
    if records is not None:
        lead = "The panels of the AutoClip paper's Figure 1, of the recorded steps."
        page.add("dynamics", "Training dynamics", lead, grid([chart.markup() for chart in dynamics_charts(records)]))
    page.add("run", "What was run", "", what_was_run(run))
    return page


def scores_page(folder: Path) -> Page:
    """Return the page of one evaluation. Raises UserError where ``folder`` holds none."""
    scores = Scores.read(folder)
    page = Page("sepclip report of an evaluation", folder.resolve().name, headline(None, [scores]))
    add_listening(page, scores, None)
    add_scores(page, scores, 0)
    return page


def add_scores(page: Page, scores: Scores, place: int) -> None:
    """Add a section of scores: the summary, the distributions and the list of files."""
    listed = file_list(scores, f"files-{place + 1}")
    parts = (summary(scores), distributions(scores), tag("h3", "Every file"), listed)
    page.add(f"scores-{place + 1}", f"Scores, {scores.folder.resolve().name}", about(scores), *parts)


def about(scores: Scores) -> str:
    """Return what was scored, in a line."""
    told = scores.about
    if "run" in told:
        limit = f", the first {told['limit']}" if told.get("limit") else ""
        return f"The split {told.get('split')} of {told.get('data')}{limit}."
    return f"{told.get('estimates')} against {told.get('references')}."


def headline(history: MetricsHistory | None, scored: list[Scores]) -> Headline | None:
    """Return the mean improvement on what was scored last, or else the best one of the validations."""
    for scores in scored:
        groups = scores.groups()
        values = values_of(scores.rows, GAIN)
        if values:
            means = {name: values_of(rows, GAIN) for name, rows in groups.items() if name != "all"}
            parts = ", ".join(f"{signed(fmean(found), 'dB')} {name}" for name, found in means.items() if found)
            of = f"SI-SDR improvement, mean of {counted(len(scores.files()), 'scored mixture')}"
            return Headline(signed(fmean(values), ""), "dB", of + (f": {parts}" if parts else ""))
    best = history.best(VALIDATED) if history else None
    if best is None:
        return None
    return Headline(
        signed(best[1], ""), "dB", f"SI-SDR improvement on the validation excerpts, the best, at step {best[0]:,}"
    )


def run_facts(run: Run, history: MetricsHistory) -> dict[str, str]:
    """Return what a run is, in a few words a key."""
    config = run.config
    last = history.rows[-1]["step"] if history.rows else 0
    best = history.best(VALIDATED)
    seconds, share = history.last("seconds"), history.last("clipped_share")
    network = config.model.network
    if network == "blstm":
        network = f"{config.model.layers} × {config.model.hidden} {network}"
    return {
        "loss": config.loss.name,
        "clipping": config.clip + ("" if share is None else f", {share:.0%} of the steps"),
        "network": network,
        "steps": f"{last:,} of {config.data.batch_size} excerpts",
        **({} if best is None else {"best validation": f"{best[1]:.2f} dB at step {best[0]:,}"}),
        **({} if seconds is None else {"training time": _duration(seconds)}),
        "device": f"{config.device}, {config.precision}",
        "data": Path(environment_of(run.path)["data"]["path"]).name,
    }


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def add_listening(page: Page, scores: Scores | None, run: Run | None) -> None:
    """Add the best, median and worst mixture; what cannot be had is told on the page and on stderr."""
    try:
        if scores is not None:
            metric = scores.best_metric()
            by_file = scores.by_file(metric) if metric else {}
            unit = f"dB {scores.titles[metric]}" if metric else ""
            source, which = source_of(scores), f"Of {counted(len(by_file), 'scored mixture')}"
        elif run is not None:
            source, by_file = validation_source(run, data_path(run.path))
            unit, which = (
                "dB SI-SDRi",
                f"Nothing is scored yet (sepclip eval); of the first {counted(len(by_file), 'validation mixture')}",
            )
        else:
            return
        made = cards(chosen(by_file), {"estimate": source}, by_file, unit)
    except UserError as error:
        warn(f"the report has no sounds: {error}")
        page.add("listen", "Listen", "", tag("p", f"No sounds: {error}.", class_="note"))
        return
    page.add("listen", "Listen", f"{which} the best, the median and the worst. {LISTEN}", made)
