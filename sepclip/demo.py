"""The whole way on the demo voices, on a CPU, in minutes: prepare, train, separate, score, and what to listen to."""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepclip import evaluation, scoring
from sepclip.audio.files import find_sounds
from sepclip.config import Config, load_config
from sepclip.errors import UserError
from sepclip.mixing.corpora import speakers
from sepclip.mixing.mixture import MixtureSet, part_names
from sepclip.separation import separate_files
from sepclip.terminal import say
from sepclip.training.loop import train
from sepclip.training.run import Run, resolve_device

UNSEEN = "fr-f,ru-m"
LISTEN = {"seen": 3, "unseen": 1}  # test mixtures laid out to be heard
HOLDS_SPEECH = (
    "the demo's eight voices are not part of the installed package: take the folder data/speech from a clone of "
    "sepclip's repository and run `sepclip demo --data THAT_FOLDER`, or run `make demo` in the clone"
)


@dataclass(frozen=True)
class Demo:
    """What the demo ends with: its scores, the seconds that each stage took, and the files to open."""

    out: Path
    result: dict[str, Any]
    seconds: dict[str, float]
    listen: list[Path]
    already: bool


def demo(data: Path, out: Path, config: Config | None = None) -> Demo:
    """Run all stages into ``out``, each where it was left; a finished demo is only read.

    Raises UserError where the voices are not in ``data``.
    """
    if not data.is_dir() or not find_sounds(data)[0]:
        raise UserError(f"{data} holds no voices: {HOLDS_SPEECH}")
    scores_folder = out / "run" / "eval" / "mixtures-tt"
    already = (scores_folder / "scores.json").is_file()
    seconds: dict[str, float] = {}
    began = time.monotonic()

    def stage(name: str) -> None:
        nonlocal began
        seconds[name] = round(time.monotonic() - began, 1)
        began = time.monotonic()

    if not already:
        say("1/4 mixing the voices")
        speakers.prepare(data, out / "mixtures", tr=480, cv=60, tt=60, unseen=UNSEEN, fractions="0.8,0.08,0.12")
        stage("prepare")
    mixtures = MixtureSet.open(out / "mixtures")
    run = Run.start_or_resume(out / "run", config or load_config("demo"), mixtures)
    device = resolve_device(run.config.device)
    if not already:
        say(f"2/4 training on {run.config.device} in {run.config.precision}, with --clip {run.config.clip}")
        train(run, mixtures)
        stage("train")
    separator = run.separator(device)
    listen = _lay_out(mixtures, out / "listen")
    if not already:
        say("3/4 separating")
    for folder in listen:
        separate_files(separator, [folder / "mixture.wav"], folder, device=device)
    if not already:
        stage("separate")
        say("4/4 scoring the test mixtures")
        items, total = evaluation.set_items(separator, mixtures, "tt", device=device)
        rows = scoring.score(items, total, stft=separator.stft)
        about = {"run": str(out / "run"), "data": str(mixtures.path), "split": "tt"}
        evaluation.write_scores(scores_folder, evaluation.document(rows, about))
        stage("eval")
    result = json.loads((scores_folder / "scores.json").read_text(encoding="utf-8"))
    return Demo(out, result, seconds, listen, already)


def _lay_out(mixtures: MixtureSet, folder: Path) -> list[Path]:
    """Copy a few test mixtures with their true sources to where they are easily found."""
    folders = []
    for group, count in LISTEN.items():
        recipes = [recipe for recipe in mixtures.recipes("tt") if recipe.group == group][:count]
        for recipe in recipes:
            target = folder / f"{group}-{'+'.join(source.voice for source in recipe.sources)}-{recipe.name[:5]}"
            target.mkdir(parents=True, exist_ok=True)
            for part, name in zip(("mix", *part_names(2)), ("mixture", "true_s1", "true_s2"), strict=True):
                shutil.copyfile(mixtures.wave_path("tt", part, recipe.name), target / f"{name}.wav")
            folders.append(target)
    return folders
