"""The page of a run, and of one evaluation."""

from pathlib import Path
from statistics import fmean

from sepclip.errors import UserError, counted
from sepclip.evaluation.leakage import leakage_lines
from sepclip.pretrained.model_cards import is_model
from sepclip.report.curves import GAIN as VALIDATION_GAIN
from sepclip.report.curves import MetricsHistory, dynamics_charts, read_dynamics, training_charts
from sepclip.report.examples import example_source, select_examples, validation_source
from sepclip.report.facts import data_path, read_environment, run_details
from sepclip.report.listening import example_cards
from sepclip.report.markup import signed, tag
from sepclip.report.page import Headline, Page
from sepclip.report.scores import GAIN, Scores, evaluations, values_of
from sepclip.report.tables import distributions, file_list, grid, summary
from sepclip.terminal import warn
from sepclip.training.run import CONFIG, ENVIRONMENT, Run

PLAYER_HELP = (
    "Above each player is its spectrogram: click it to play from that point. Below an estimate is its mask, which is "
    "bright where it keeps the mixture."
)
ZOOM_HELP = "Drag over a plot to zoom; all plots of this section move together."


def is_run(path: Path) -> bool:
    """Return whether a folder contains a run, or ``path`` is the name of a model."""
    return is_model(path) or ((path / CONFIG).is_file() and (path / ENVIRONMENT).is_file())


def run_page(path: Path) -> Page:
    """Return the page of a run or a model. Raises UserError if ``path`` is neither."""
    run = Run.open(path)
    history = MetricsHistory.read(run.path, path.resolve().name)
    all_scores = evaluations(path)
    page = Page("sepclip report of a run", path.resolve().name, _headline(history, all_scores), run_facts(run, history))
    # what to listen to, then the scores of each evaluation
    _add_listening(page, all_scores[0] if all_scores else None, run)
    for number, scores in enumerate(all_scores, 1):
        _add_scores(page, scores, number)
    # how it was trained
    charts = [chart.markup() for chart in training_charts([history])]
    page.add("training", "Training", ZOOM_HELP, grid(charts))
    records = read_dynamics(path)
    if records is not None:
        lead = "The panels of Figure 1 of the AutoClip paper, over the recorded steps."
        page.add("dynamics", "Training dynamics", lead, grid([chart.markup() for chart in dynamics_charts(records)]))
    page.add("run", "Configuration", "", run_details(run))
    return page


def scores_page(folder: Path) -> Page:
    """Return the page of one evaluation. Raises UserError if ``folder`` has no scores."""
    scores = Scores.read(folder)
    page = Page("sepclip report of an evaluation", folder.resolve().name, _headline(None, [scores]))
    _add_listening(page, scores, None)
    _add_scores(page, scores, 1)
    return page


def _add_scores(page: Page, scores: Scores, number: int) -> None:
    """Add a section of scores: the summary, the distributions and the list of files."""
    files = file_list(scores, f"files-{number}")
    parts = (summary(scores), distributions(scores), tag("h3", "All files"), files)
    page.add(f"scores-{number}", f"Scores, {scores.folder.resolve().name}", scored_data(scores), *parts)


def scored_data(scores: Scores) -> str:
    """Return what was scored, in one sentence."""
    origin = scores.origin
    if "run" in origin:
        limit = f", the first {origin['limit']}" if origin.get("limit") else ""
        leakage = scores.leakage
        lines = [f"{line[0].upper()}{line[1:]}." for line in leakage_lines(leakage)] if leakage else []
        return " ".join([f"The split {origin.get('split')} of {origin.get('data')}{limit}.", *lines])
    if "pairs" in origin:
        return f"The files of the table {origin['pairs']}."
    return f"{origin.get('estimates')} against {origin.get('references')}."


def _headline(history: MetricsHistory | None, all_scores: list[Scores]) -> Headline | None:
    """Return the mean improvement of the latest evaluation, or the best validation if there is no evaluation."""
    for scores in all_scores:
        values = values_of(scores.rows, GAIN)
        if values:
            group_values = {name: values_of(rows, GAIN) for name, rows in scores.groups().items() if name != "all"}
            means = [f"{signed(fmean(group), 'dB')} {name}" for name, group in group_values.items() if group]
            meaning = f"SI-SDR improvement, mean of {counted(len(scores.files()), 'scored mixture')}"
            return Headline(signed(fmean(values), ""), "dB", meaning + (f": {', '.join(means)}" if means else ""))
    best = history.best(VALIDATION_GAIN) if history else None
    if best is None:
        return None
    step, value = best
    return Headline(
        signed(value, ""), "dB", f"SI-SDR improvement on the validation excerpts, the best, at step {step:,}"
    )


def run_facts(run: Run, history: MetricsHistory) -> dict[str, str]:
    """Return the main settings and results of a run: short names to texts."""
    config = run.config
    last_step = history.rows[-1].step if history.rows else 0
    best = history.best(VALIDATION_GAIN)
    seconds, share = history.last("seconds"), history.last("clipped_share")
    network = config.model.network
    if network == "blstm":
        network = f"{config.model.layers} × {config.model.hidden} {network}"
    return {
        "loss": config.loss.name,
        "clipping": config.clip + ("" if share is None else f", {share:.0%} of the steps"),
        "network": network,
        "steps": f"{last_step:,} of {config.data.batch_size} excerpts",
        **({} if best is None else {"best validation": f"{best[1]:.2f} dB at step {best[0]:,}"}),
        **({} if seconds is None else {"training time": _duration(seconds)}),
        "device": f"{config.device}, {config.precision}",
        "data": Path(read_environment(run.path)["data"]["path"]).name,
    }


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _add_listening(page: Page, scores: Scores | None, run: Run | None) -> None:
    """Add the best, median and worst mixtures; if they are not available, say why on the page and on stderr."""
    try:
        # of an evaluation if there is one, otherwise of the validation mixtures
        if scores is not None:
            metric = scores.headline_metric()
            by_file = scores.by_file(metric) if metric else {}
            unit = f"dB {scores.titles[metric]}" if metric else ""
            source = example_source(scores)
            lead = f"The best, median and worst of {counted(len(by_file), 'scored mixture')}."
        elif run is not None:
            source, by_file = validation_source(run, data_path(run.path))
            unit = "dB SI-SDRi"
            lead = (
                "Nothing is scored yet (sepclip eval): the best, median and worst of the first "
                f"{counted(len(by_file), 'validation mixture')}."
            )
        else:
            return
        cards = example_cards(select_examples(by_file), {"estimate": source}, by_file, unit)
    except UserError as error:
        add_listening_error(page, error)
        return
    page.add("listen", "Listen", f"{lead} {PLAYER_HELP}", cards)


def add_listening_error(page: Page, error: UserError) -> None:
    """Say on the page and on stderr why there is nothing to listen to."""
    warn(f"the report has no sounds: {error}")
    page.add("listen", "Listen", "", tag("p", f"No sounds: {error}.", class_="note"))
