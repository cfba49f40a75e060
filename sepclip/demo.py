"""The whole way on the demo voices, on a CPU, in minutes: prepare, train, separate, score, and what to listen to."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
FRACTIONS = "0.8,0.08,0.12"  # of tr, cv and tt
LISTEN = {"seen": 3, "unseen": 1}  # test mixtures laid out to be heard
SCORES = Path("run", "eval", "mixtures-tt")
NO_SPEECH = (
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

    def words(self) -> list[str]:
        """Return what the demo has to say about its scores, as lines for people."""
        groups = self.result["summary"]["groups"]
        seen, unseen = (groups[name]["mean"]["si_sdr_improvement"] for name in ("seen", "unseen"))
        lines = [
            f"On new sentences of the six voices it learned, the separator gains {seen:.1f} dB SI-SDR; on the two "
            f"voices it never heard, {unseen:.1f} dB. Six voices teach six voices: to separate strangers, train on "
            f"dozens of voices (README, Your own corpus).",
            "",
            "Listen to mixture.wav, then mixture_s1.wav and mixture_s2.wav (true_s1.wav, true_s2.wav are the truth):",
            *(f"  {folder}" for folder in self.listen),
            f"All scores: {self.out / SCORES / 'scores.csv'}",
            "The voices and their licences: data/README.md (it-f: http://www.voip.ammdomus.it).",
        ]
        if self.already:
            return [*lines, f"The demo is done already: remove {self.out} to start it anew."]
        told = ", ".join(f"{name} {value:.0f} s" for name, value in self.seconds.items())
        return [*lines, f"Time: {told}; {sum(self.seconds.values()) / 60:.1f} min in all."]


def demo(data: Path, out: Path, config: Config | None = None) -> Demo:
    """Run all stages into ``out``, each where it was left; a finished demo is only read.

    Raises UserError where the voices are not in ``data``.
    """
    if not data.is_dir() or not find_sounds(data)[0]:
        raise UserError(f"{data} holds no voices: {NO_SPEECH}")
    already = (out / SCORES / "scores.json").is_file()
    seconds = {} if already else _run_stages(data, out, config or load_config("demo"))
    result = json.loads((out / SCORES / "scores.json").read_text(encoding="utf-8"))
    return Demo(out, result, seconds, sorted(path for path in (out / "listen").iterdir()), already)


def _run_stages(data: Path, out: Path, config: Config) -> dict[str, float]:
    """Run the stages one after the other; returns the seconds that each took."""
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(number: int, name: str, what: str) -> Iterator[None]:
        say(f"{number}/4 {what}")
        began = time.monotonic()
        yield
        seconds[name] = round(time.monotonic() - began, 1)

    with stage(1, "prepare", "mixing the voices"):
        speakers.prepare(data, out / "mixtures", tr=480, cv=40, tt=60, unseen=UNSEEN, fractions=FRACTIONS)
        mixtures = MixtureSet.open(out / "mixtures")
        run = Run.start_or_resume(out / "run", config, mixtures)
        device = resolve_device(run.config.device)
    with stage(2, "train", f"training on {device} in {run.config.precision}, with --clip {run.config.clip}"):
        train(run, mixtures)
        separator = run.separator(device)
    with stage(3, "separate", "separating a few test mixtures to listen to"):
        for folder in _lay_out(mixtures, out / "listen"):
            separate_files(separator, [folder / "mixture.wav"], folder, device=device, overwrite=True)
    with stage(4, "eval", "scoring all test mixtures"):
        items, total = evaluation.set_items(separator, mixtures, "tt", device=device)
        rows = scoring.score(items, total, stft=separator.stft)
        about = {"run": str(out / "run"), "data": str(mixtures.path), "split": "tt"}
        evaluation.write_scores(out / SCORES, evaluation.document(rows, about))
    return seconds


def _lay_out(mixtures: MixtureSet, folder: Path) -> list[Path]:
    """Copy a few test mixtures with their true sources to where they are easily found."""
    shutil.rmtree(folder, ignore_errors=True)
    folders = []
    for group, count in LISTEN.items():
        recipes = [recipe for recipe in mixtures.recipes("tt") if recipe.group == group]
        for recipe in recipes[:count]:
            target = folder / f"{group}-{'+'.join(source.voice for source in recipe.sources)}-{recipe.name[:5]}"
            target.mkdir(parents=True)
            for part, name in zip(("mix", *part_names(2)), ("mixture", "true_s1", "true_s2"), strict=True):
                shutil.copyfile(mixtures.wave_path("tt", part, recipe.name), target / f"{name}.wav")
            folders.append(target)
    return folders
