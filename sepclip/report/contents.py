"""What a folder holds, in a few lines: a run, or a mixture set."""

from pathlib import Path
from typing import Any

from sepclip.errors import UserError, counted
from sepclip.mixing.mixture_set import SET_FILE, MixtureSet
from sepclip.mixing.recipe import SPLITS
from sepclip.report.curves import MetricsHistory
from sepclip.report.facts import environment_of
from sepclip.report.of_run import is_run, run_facts
from sepclip.report.scores import GAIN, evaluations, mean_and_median, values_of
from sepclip.report.write_report import NAME
from sepclip.training import checkpoint
from sepclip.training.run import Run


def contents(path: Path) -> dict[str, Any]:
    """Return what a run or a mixture set is, by short keys. Raises UserError for any other folder."""
    if not path.exists():
        raise UserError(f"{path}: no such folder")
    if is_run(path):
        return _run(path)
    if (path / SET_FILE).is_file():
        return _mixtures(path)
    raise UserError(f"{path} is neither a run (config.yaml) nor a mixture set ({SET_FILE})")


def _run(path: Path) -> dict[str, Any]:
    run = Run.open(path)
    told: dict[str, Any] = {"run": str(path), **run_facts(run, MetricsHistory.read(path, path.name))}
    told["data"] = environment_of(path)["data"]["path"]
    told["mixtures"] = str(run.layout)
    found = checkpoint.find(run.checkpoint_path("last"))
    told["checkpoint"] = f"at step {checkpoint.load_progress(found).step:,}" if found else "none yet"
    for scores in evaluations(path):
        values = values_of(scores.rows, GAIN)
        told[scores.folder.name] = (
            f"SI-SDRi {mean_and_median(values)} dB, mean (median) of {counted(len(scores.files()), 'file')}"
        )
    told["report"] = str(path / NAME) if (path / NAME).is_file() else f"none; `sepclip report {path}` writes it"
    return told


def _mixtures(path: Path) -> dict[str, Any]:
    data = MixtureSet.open(path)
    told: dict[str, Any] = {"mixtures": str(path), "of": str(data.layout), "corpus": str(data.root)}
    if not data.root.is_dir():
        told["corpus"] += ", which is not there"
    told["audio"] = "rendered" if data.audio else "mixed, or read from the corpus, when it is needed"
    for split in SPLITS:
        recipes = data.recipes(split)
        minutes = sum(recipe.length for recipe in recipes) / data.rate_hz / 60
        groups: dict[str, int] = {}
        for recipe in recipes:
            groups[recipe.group] = groups.get(recipe.group, 0) + 1
        voices = {source.voice for recipe in recipes for source in recipe.sources}
        parts = ", ".join(f"{number} {group}" for group, number in groups.items())
        told[split] = (
            f"{counted(len(recipes), 'mixture')} ({parts}), {minutes:.1f} min, {counted(len(voices), 'voice')}"
        )
    told["digest"] = data.digest
    return told
