"""Summaries of a run or a mixture set in a few lines, for ``sepclip info``."""

from pathlib import Path

from sepclip.errors import UserError, counted
from sepclip.mixing.mixture_set import SET_FILE, MixtureSet
from sepclip.mixing.recipe import SPLITS
from sepclip.report.curves import MetricsHistory
from sepclip.report.facts import read_environment
from sepclip.report.run_page import is_run, run_facts
from sepclip.report.scores import GAIN, evaluations, mean_and_median, values_of
from sepclip.report.write_report import NAME
from sepclip.training import checkpoint
from sepclip.training.run import Run
from sepclip.training.state import EARLY_STOPPING, TIME


def contents(path: Path) -> dict[str, str]:
    """Return what a run or a mixture set contains: short names to texts. Raises UserError for any other folder."""
    if is_run(path):
        return _run_contents(path)
    if not path.exists():
        raise UserError(f"{path}: no such folder")
    if (path / SET_FILE).is_file():
        return _set_contents(path)
    raise UserError(f"{path} is neither a run (config.yaml) nor a mixture set ({SET_FILE})")


def _run_contents(path: Path) -> dict[str, str]:
    """Return the settings of a run, its progress, the mean scores of each evaluation, and its report."""
    run = Run.open(path)
    facts = {"run": str(path), **run_facts(run, MetricsHistory.read(run.path, path.name))}
    facts["data"] = read_environment(run.path)["data"]["path"]
    facts["mixtures"] = str(run.layout)
    latest = checkpoint.find(run.checkpoint_path("last"))
    facts["checkpoint"] = "none yet"
    if latest:
        progress = checkpoint.load_progress(latest)
        ends = {EARLY_STOPPING: ", ended by early stopping", TIME: ", ended by train.max_minutes"}
        facts["checkpoint"] = f"at step {progress.step:,}{ends.get(progress.ended, '')}"
    for scores in evaluations(path):
        values = values_of(scores.rows, GAIN)
        facts[scores.folder.name] = (
            f"SI-SDRi {mean_and_median(values)} dB, mean (median) of {counted(len(scores.files()), 'file')}"
        )
    facts["report"] = str(path / NAME) if (path / NAME).is_file() else f"none; `sepclip report {path}` writes it"
    return facts


def _set_contents(path: Path) -> dict[str, str]:
    """Return the origin of a mixture set, and the size of each split."""
    data = MixtureSet.open(path)
    facts = {"mixtures": str(path), "of": str(data.layout), "corpus": str(data.root)}
    if not data.root.is_dir():
        facts["corpus"] += ", which does not exist"
    facts["audio"] = "rendered" if data.audio else "mixed, or read from the corpus, when it is needed"
    for split in SPLITS:
        recipes = data.recipes(split)
        minutes = sum(recipe.length for recipe in recipes) / data.rate_hz / 60
        groups: dict[str, int] = {}
        for recipe in recipes:
            groups[recipe.group] = groups.get(recipe.group, 0) + 1
        voices = {source.voice for recipe in recipes for source in recipe.sources if not source.absent}
        parts = ", ".join(f"{number} {group}" for group, number in groups.items())
        facts[split] = (
            f"{counted(len(recipes), 'mixture')} ({parts}), {minutes:.1f} min, {counted(len(voices), 'voice')}"
        )
    facts["digest"] = data.digest
    return facts
