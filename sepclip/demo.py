"""The demo: prepare, train, separate and score the demo voices, on a CPU, in minutes, with mixtures to listen to."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from sepclip.audio.files import find_sounds, write_text
from sepclip.audio.layout import part_names
from sepclip.config.load import load_config
from sepclip.config.schema import Config
from sepclip.corpora.speakers.plan import prepare_voices
from sepclip.corpora.speakers.voice_settings import VoiceSettings
from sepclip.errors import UserError
from sepclip.evaluation.document import ScoreDocument
from sepclip.evaluation.sets import evaluate_set
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.model.inference import BlockSeparator
from sepclip.pretrained.model_cards import DEFAULT, model_names, read_card
from sepclip.report.write_report import NAME as REPORT
from sepclip.report.write_report import report_at_end
from sepclip.separation.separate_files import Options, separate_files
from sepclip.terminal import say
from sepclip.training.hardware import resolve_device
from sepclip.training.loop import train
from sepclip.training.run import Run

MIXTURES = VoiceSettings(
    counts={"tr": 480, "cv": 40, "tt": 60},
    fractions={"tr": 0.8, "cv": 0.08, "tt": 0.12},
    unseen=("fr-f", "ru-m"),
)
FINISHED = "demo.json"  # written last, so it marks a finished demo
LISTEN = {"seen": 3, "unseen": 1}  # how many test mixtures of each group are copied to listen to
SCORES = Path("run", "eval", "mixtures-tt")
NO_SPEECH = (
    "the demo's eight voices are not part of the installed package, and nothing is downloaded: take the folder "
    "data/speech from a clone of sepclip's repository and run `sepclip demo --data THAT_FOLDER`, or run `make demo` in "
    "the clone"
)


@dataclass(frozen=True)
class DemoResult:
    """The result of the demo: its scores, the seconds that each stage took, and the folders to listen to."""

    out: Path
    scores: ScoreDocument
    seconds: dict[str, float]
    listen: list[Path]
    was_finished: bool
    """Whether the demo was finished before, so that nothing was run."""

    def lines(self) -> list[str]:
        """Return lines for the user: what the scores mean, what to listen to, and where the files are."""
        groups = self.scores["summary"]["groups"]
        seen, unseen = (groups[name]["mean"]["si_sdr_improvement"] for name in ("seen", "unseen"))
        lines = [
            f"On new sentences of the six voices it learned, the separator gains {seen:.1f} dB SI-SDR; on the two "
            f"voices it never heard, {unseen:.1f} dB. It knows the six voices of its training only: to separate other "
            f"voices, train on dozens of them (README, Your own corpus).",
            "",
            "The first folder was separated by the pretrained model, which knew none of these voices.",
            "Listen to mixture.wav, then mixture_s1.wav and mixture_s2.wav (true sources: true_s1.wav, true_s2.wav):",
            *(f"  {folder}" for folder in self.listen),
            f"All scores: {self.out / SCORES / 'scores.csv'}",
            "The voices and their licences: data/README.md (it-f: http://www.voip.ammdomus.it).",
        ]
        times = ", ".join(f"{name} {value:.0f} s" for name, value in self.seconds.items())
        lines.append(f"Time: {times}; {sum(self.seconds.values()) / 60:.1f} min in total.")
        if self.was_finished:
            lines.append(f"The demo was already finished: remove {self.out} to run it again.")
        if (self.out / "run" / REPORT).is_file():
            lines.append(f"Open the report in a browser: {self.out / 'run' / REPORT}")
        return lines


def run_demo(data: Path, out: Path, config: Config | None = None) -> DemoResult:
    """Run all stages into ``out``, resuming an interrupted demo, and return the result; a finished demo is only read.

    Raises UserError if ``data`` does not contain the voices, or ``out`` is damaged.
    """
    if not data.is_dir() or not find_sounds(data)[0]:
        raise UserError(f"{data} contains no voices: {NO_SPEECH}")
    was_finished = (out / FINISHED).is_file()
    if not was_finished:
        seconds, listen = _run_stages(data, out, config or load_config("demo"))
        summary = {"seconds": seconds, "listen": [str(path.relative_to(out)) for path in listen]}
        write_text(out / FINISHED, json.dumps(summary, indent=1) + "\n")
    try:
        summary = json.loads((out / FINISHED).read_text(encoding="utf-8"))
        scores = json.loads((out / SCORES / "scores.json").read_text(encoding="utf-8"))
        return DemoResult(out, scores, summary["seconds"], [out / name for name in summary["listen"]], was_finished)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{out} is damaged ({error}): remove it and run the demo again") from error


def _run_stages(data: Path, out: Path, config: Config) -> tuple[dict[str, float], list[Path]]:
    """Run the stages in order. Return the seconds that each took and the folders to listen to."""
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(number: int, name: str, description: str) -> Iterator[None]:
        say(f"{number}/5 {description}")
        start = time.monotonic()
        yield
        seconds[name] = round(time.monotonic() - start, 1)

    with stage(1, "prepare", "mixing the voices"):
        mixtures = prepare_voices(data, out / "mixtures", MIXTURES, corpus="speakers")
        run = Run.start_or_resume(out / "run", config, mixtures)
        device = resolve_device(run.config.device)
    with stage(2, "pretrained", "separating two speakers with a pretrained model that never heard them"):
        first = _copy_test_mixtures(mixtures, out / "pretrained", {"unseen": 1})
        _separate(Run.open(Path(_model(mixtures.rate_hz))).separator(device), first, device)
        say(f"listen to mixture.wav, mixture_s1.wav and mixture_s2.wav in {first[0]}")
    with stage(3, "train", "training a small network"):
        training = train(run, mixtures)
        separator = run.separator(device)
    with stage(4, "separate", "separating a few test mixtures to listen to"):
        listen = _copy_test_mixtures(mixtures, out / "listen", LISTEN)
        _separate(separator, listen, device)
    with stage(5, "eval", "scoring all test mixtures"):
        evaluate_set(separator, mixtures, "tt", out / SCORES, {"run": str(out / "run")}, device=device)
        report_at_end(run.path)
    # the training's own time includes what was spent before an interruption
    return {**seconds, "train": training["seconds"]}, [*first, *listen]


def _model(rate_hz: int) -> str:
    """Return the model of this rate, or the default model if there is none."""
    return next((name for name in model_names() if read_card(name).rate_hz == rate_hz), DEFAULT)


def _separate(separator: BlockSeparator, folders: list[Path], device: torch.device) -> None:
    """Separate the mixture in each folder, into the same folder."""
    for folder in folders:
        separate_files(separator, [folder / "mixture.wav"], folder, device=device, options=Options(overwrite=True))


def _copy_test_mixtures(mixtures: MixtureSet, folder: Path, counts: dict[str, int]) -> list[Path]:
    """Copy the first test mixtures of each group, with their true sources, into ``folder``; return their folders."""
    shutil.rmtree(folder, ignore_errors=True)
    folders = []
    for group, count in counts.items():
        recipes = [recipe for recipe in mixtures.recipes("tt") if recipe.group == group]
        for recipe in recipes[:count]:
            target = folder / f"{group}-{'+'.join(source.voice for source in recipe.sources)}-{recipe.name[:5]}"
            target.mkdir(parents=True)
            for part, name in zip(("mix", *part_names(2)), ("mixture", "true_s1", "true_s2"), strict=True):
                shutil.copyfile(mixtures.wave_path("tt", part, recipe.name), target / f"{name}.wav")
            folders.append(target)
    return folders
