"""The whole way on the demo voices, on a CPU, in minutes: prepare, train, separate, score, and what to listen to."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sepclip.audio.files import find_sounds, write_text
from sepclip.audio.layout import part_names
from sepclip.config.load import load_config
from sepclip.config.schema import Config
from sepclip.corpora.speakers.plan import VoiceSettings, prepare_voices
from sepclip.errors import UserError
from sepclip.evaluation.document import ScoreDocument
from sepclip.evaluation.sets import evaluate_set
from sepclip.mixing.mixture_set import MixtureSet
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
DONE = "demo.json"  # written last: the demo is finished
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
    result: ScoreDocument
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
        told = ", ".join(f"{name} {value:.0f} s" for name, value in self.seconds.items())
        lines.append(f"Time: {told}; {sum(self.seconds.values()) / 60:.1f} min in all.")
        if self.already:
            lines.append(f"The demo is done already: remove {self.out} to start it anew.")
        if (self.out / "run" / REPORT).is_file():
            lines.append(f"To look at and listen to, in a browser: {self.out / 'run' / REPORT}")
        return lines


def demo(data: Path, out: Path, config: Config | None = None) -> Demo:
    """Run all stages into ``out``, each where it was left; a finished demo is only read.

    Raises UserError where the voices are not in ``data``.
    """
    if not data.is_dir() or not find_sounds(data)[0]:
        raise UserError(f"{data} holds no voices: {NO_SPEECH}")
    already = (out / DONE).is_file()
    if not already:
        seconds, listen = _run_stages(data, out, config or load_config("demo"))
        done = {"seconds": seconds, "listen": [str(path.relative_to(out)) for path in listen]}
        write_text(out / DONE, json.dumps(done, indent=1) + "\n")
    try:
        done = json.loads((out / DONE).read_text(encoding="utf-8"))
        result = json.loads((out / SCORES / "scores.json").read_text(encoding="utf-8"))
        return Demo(out, result, done["seconds"], [out / name for name in done["listen"]], already)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{out} is damaged ({error}): remove it and start the demo anew") from error


def _run_stages(data: Path, out: Path, config: Config) -> tuple[dict[str, float], list[Path]]:
    """Run the stages one after the other; returns the seconds that each took, and the folders to listen to."""
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(number: int, name: str, what: str) -> Iterator[None]:
        say(f"{number}/4 {what}")
        began = time.monotonic()
        yield
        seconds[name] = round(time.monotonic() - began, 1)

    with stage(1, "prepare", "mixing the voices"):
        mixtures = prepare_voices(data, out / "mixtures", MIXTURES, corpus="speakers").mixtures
        run = Run.start_or_resume(out / "run", config, mixtures)
        device = resolve_device(run.config.device)
    with stage(2, "train", "training a small network"):
        trained = train(run, mixtures)
        separator = run.separator(device)
    with stage(3, "separate", "separating a few test mixtures to listen to"):
        listen = _lay_out(mixtures, out / "listen")
        for folder in listen:
            separate_files(separator, [folder / "mixture.wav"], folder, device=device, options=Options(overwrite=True))
    with stage(4, "eval", "scoring all test mixtures"):
        evaluate_set(separator, mixtures, "tt", out / SCORES, {"run": str(out / "run")}, device=device)
        report_at_end(run.path)
    return {**seconds, "train": trained["seconds"]}, listen  # with what came before an interruption


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
