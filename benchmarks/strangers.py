"""Measure a separator on speakers that it never heard, and how fast a recipe learns to separate such speakers.

    python benchmarks/strangers.py tables MODEL OPEN_SPEECH [--other CORPUS --test-voices a,b,...] [--json FILE]
    python benchmarks/strangers.py record OPEN_SPEECH --rate 8000 [--goal 5] [--set KEY=VALUE ...]

`tables`: SI-SDR improvement of 120 mixtures each with its bootstrap interval, its share of the ideal binary mask's, and
the share of mixtures made worse: all pairs, same-corpus pairs, fixed overlaps, sexes, ages and level differences; one
voice alone; long talks. `record`: CPU seconds of `sepclip train` from nothing to a validation SI-SDR improvement.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray

from sepclip import Separator
from sepclip.audio.activity import hop_levels, hop_samples, is_active
from sepclip.audio.permutation import best_permutation
from sepclip.audio.si_sdr import pairwise_si_sdr, si_sdr
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.recipe import Recipe
from sepclip.mixing.render import FULL_SCALE
from sepclip.scoring.oracles import default_stft, oracle_estimates

VOICES = Path(__file__).parents[1] / "sepclip" / "pretrained" / "open-speech-voices.yaml"
CORPORA = ["--corpus-from", "^(ls|so)|^lt"]
CONVERSATIONS = ["--overlap", "0.5,1,60", "--overlap", "0,0.5,25"]
PAUSES = (0.3, 1.0, 3.0, 10.0)  # seconds between the turns of a talk
TALK_SECONDS = 600.0
Wave = NDArray[np.float32]


def prepare(
    corpus: Path, out: Path, rate_hz: int, *options: str, count: int = 120, voices: Path = VOICES
) -> MixtureSet:
    """Make a set of test mixtures of unknown speakers, and return it."""
    command = [sys.executable, "-m", "sepclip", "prepare", "speakers", str(corpus), str(out), "--voices", str(voices)]
    command += ["--rate", str(rate_hz), "--tr", "1", "--cv", "1", "--tt", str(count), "--no-audio", *options]
    subprocess.run(command, check=True, capture_output=True)
    return MixtureSet.open(out)


class Measurement:
    """Scores the mixtures of a set with one separator."""

    def __init__(self, separator: Separator, rate_hz: int):
        self.separator, self.rate_hz = separator, rate_hz
        self.stft = default_stft(rate_hz)

    def waves(self, mixtures: MixtureSet, recipe: Recipe) -> tuple[Wave, Wave]:
        """Return mixture (T,) and sources (S, T)."""
        waves = mixtures.waves("tt", recipe).astype(np.float32) / FULL_SCALE
        return waves[0], waves[1:]

    def score(self, mixtures: MixtureSet, recipe: Recipe) -> tuple[float, float]:
        """Return the SI-SDR improvement of the separator, and that of the ideal binary mask, in dB."""
        mixture, sources = self.waves(mixtures, recipe)
        estimates = self.separator.separate(mixture, mixtures.rate_hz)
        reference = torch.from_numpy(sources)[None]  # (1, S, T)
        unprocessed = torch.from_numpy(mixture).expand_as(reference)
        before = si_sdr(est=unprocessed, ref=reference).mean()
        pairwise = pairwise_si_sdr(est=torch.from_numpy(estimates)[None], ref=reference)
        after = best_permutation(pairwise, maximise=True)[0].squeeze()
        [(_, masked)] = oracle_estimates(["ibm"], mixture=mixture[:, None], ref=sources[..., None], stft=self.stft)
        ideal = si_sdr(est=torch.from_numpy(masked[None, ..., 0]), ref=reference.double()).mean()
        return float(after - before), float(ideal - before)


def summary(scores: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return mean, 95 % bootstrap interval over mixtures, share of the ideal mask's mean, and share made worse."""
    gains, ideals = np.array(scores).T
    draws = np.random.default_rng(0).choice(gains, (4000, len(gains))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {
        "mixtures": len(gains),
        "si_sdr_improvement": float(gains.mean()),
        "low": float(low),
        "high": float(high),
        "ideal_share": float(gains.mean() / ideals.mean()),
        "made_worse": float((gains < 0).mean()),
    }


def tables(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Print and return the scores of a model by kind of mixture."""
    separator = Separator.load(options.model, device="cpu", precision=options.precision)
    rate_hz = separator._separator.rate_hz
    measure, rows = Measurement(separator, rate_hz), {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def add(name: str, mixtures: MixtureSet, chosen: Callable[[Recipe], bool] = lambda _: True) -> None:
            recipes = [recipe for recipe in mixtures.recipes("tt") if chosen(recipe)]
            if recipes:
                rows[name] = summary([measure.score(mixtures, recipe) for recipe in recipes])
                print_row(name, rows[name])

        corpus: Path = options.corpus
        every = prepare(corpus, folder / "all", rate_hz, *CONVERSATIONS)
        add("all pairs", every)
        same = prepare(corpus, folder / "same", rate_hz, *CONVERSATIONS, "--same-corpus", "1", *CORPORA)
        add("same corpus", same)
        for overlap in (0, 0.25, 0.5, 0.75, 1):
            fixed = f"{overlap},{overlap}"
            add(f"overlap {overlap}", prepare(corpus, folder / f"o{overlap}", rate_hz, "--overlap", fixed))
        for kind in ("ff", "fm", "mm"):  # of speechocean762, whose names say it
            add(f"sexes {kind}", same, lambda recipe, kind=kind: sexes(recipe) == kind)
        for kind in ("aa", "ac", "cc"):
            add(f"adult or child {kind}", same, lambda recipe, kind=kind: ages(recipe) == kind)
        for low, high in ((0, 1.5), (1.5, 3), (3, 5)):
            add(f"levels {low} to {high} dB apart", every, lambda r, low=low, high=high: low <= apart(r) < high)
        if options.other:
            lists = folder / "other.yaml"
            lists.write_text(f"cv: [{options.validation_voices}]\ntt: [{options.test_voices}]\n", encoding="utf-8")
            add("other corpora", prepare(options.other, folder / "other", rate_hz, *CONVERSATIONS, voices=lists))
        rows["one voice"] = alone(measure, prepare(corpus, folder / "one", rate_hz, "--single", "1"))
        print("one voice alone, quieter output below the input:", rows["one voice"])
        talk_set = prepare(corpus, folder / "talk", rate_hz, "--same-corpus", "1", *CORPORA, count=12)
        for pause in PAUSES:
            rows[f"talk, pauses of {pause} s"] = talk(measure, talk_set, pause)
            print(f"talk with pauses of {pause} s:", rows[f"talk, pauses of {pause} s"])
    return rows


def sexes(recipe: Recipe) -> str | None:
    """Return the sexes of two voices of speechocean762, such as ``fm``; None for others."""
    letters = [source.voice[3] for source in recipe.sources if source.voice.startswith("so_")]
    return "".join(sorted(letters)) if len(letters) == 2 else None


def ages(recipe: Recipe) -> str | None:
    """Return whether two voices of speechocean762 are of adults (a) or children (c); None for others."""
    letters = [source.voice[4] for source in recipe.sources if source.voice.startswith("so_")]
    return "".join(sorted(letters)) if len(letters) == 2 else None


def apart(recipe: Recipe) -> float:
    """Return the difference of the levels of two voices in dB."""
    return abs(recipe.sources[0].level_db - recipe.sources[1].level_db)


def alone(measure: Measurement, mixtures: MixtureSet) -> dict[str, float]:
    """Return by how many dB the quieter output lies below the input, for one voice alone: median and tenth."""
    below = []
    for recipe in mixtures.recipes("tt"):
        mixture, _ = measure.waves(mixtures, recipe)
        estimates = measure.separator.separate(mixture, mixtures.rate_hz)
        quieter = min(float(np.square(estimate, dtype=np.float64).mean()) for estimate in estimates)
        below.append(10 * np.log10(np.square(mixture, dtype=np.float64).mean() / max(quieter, 1e-20)))
    return {"files": len(below), "median_db": float(np.median(below)), "tenth_db": float(np.quantile(below, 0.1))}


def talk(measure: Measurement, mixtures: MixtureSet, pause_seconds: float) -> dict[str, float]:
    """Return the share of the speech on the wrong output in talks of two speakers who take turns.

    A talk repeats the utterances of a mixture, one voice after the other with pauses between. The outputs are assigned
    to the voices once for the talk; the oracle assigns them for each turn.
    """
    wrong = oracle = speech = 0.0
    for recipe in mixtures.recipes("tt")[:4]:
        _, sources = measure.waves(mixtures, recipe)
        mixture, turns = conversation(sources, mixtures.rate_hz, pause_seconds, Random(recipe.name))
        estimates = measure.separator.separate(mixture, mixtures.rate_hz)
        # energy of each output during the active speech of each turn
        energies = [[float(np.square(estimate[a:b]).sum()) for estimate in estimates] for _, a, b in turns]
        voices = [voice for voice, _, _ in turns]
        orders = ((0, 1), (1, 0))
        costs = [sum(e[order[1 - voice]] for e, voice in zip(energies, voices, strict=True)) for order in orders]
        wrong += min(costs)
        oracle += sum(min(e) for e in energies)
        speech += sum(map(sum, energies))
    return {"wrong": wrong / speech, "oracle": oracle / speech}


def conversation(sources: Wave, rate_hz: int, pause: float, chance: Random) -> tuple[Wave, list[tuple[int, int, int]]]:
    """Return a talk (T,) in which two voices take turns, and the turns as (voice, start, stop)."""
    pieces, turns, position = [], [], 0
    spoken = []
    for source in sources:
        active = np.flatnonzero(is_active(hop_levels(source, rate_hz)))
        hop = hop_samples(rate_hz)
        spoken.append(source[active[0] * hop : (active[-1] + 1) * hop])
    while position < TALK_SECONDS * rate_hz:
        voice = chance.randrange(2) if turns and chance.random() < 0.2 else len(turns) % 2
        pieces += [spoken[voice], np.zeros(round(pause * rate_hz), np.float32)]
        turns.append((voice, position, position + len(spoken[voice])))
        position += len(pieces[-2]) + len(pieces[-1])
    return np.concatenate(pieces), turns


def print_row(name: str, row: dict[str, float]) -> None:
    """Print one line of the table."""
    print(
        f"{name:28} {row['mixtures']:4}  {row['si_sdr_improvement']:5.2f} [{row['low']:5.2f}..{row['high']:5.2f}] dB  "
        f"{row['ideal_share']:4.0%} of the ideal mask  {row['made_worse']:4.0%} made worse",
        flush=True,
    )


def record(options: argparse.Namespace) -> dict[str, float]:
    """Train from nothing until the validation reaches the goal; return the CPU seconds and steps that it took."""
    with tempfile.TemporaryDirectory() as scratch:
        mixtures, run = Path(scratch, "set"), Path(scratch, "run")
        command = [sys.executable, "-m", "sepclip", "prepare", "speakers", str(options.corpus), str(mixtures)]
        command += ["--voices", str(VOICES), "--rate", str(options.rate), "--tr", "3000", "--cv", "150", "--tt", "1"]
        command += ["--no-audio", *CONVERSATIONS, "--single", "0.15", "--same-corpus", "0.75", *CORPORA]
        subprocess.run(command, check=True, capture_output=True)
        before = cpu_seconds()
        settings = [word for setting in options.set for word in ("--set", setting)]
        train = [sys.executable, "-m", "sepclip", "train", str(mixtures), "--config", "two-speakers", "--run", str(run)]
        process = subprocess.Popen([*train, "--no-report", "-q", *settings], env={**os.environ, "COLUMNS": "100"})
        start, result = time.monotonic(), {}
        while process.poll() is None:
            time.sleep(2)
            for row in validations(run / "metrics.jsonl"):
                if row["valid_si_sdr_improvement"] >= options.goal and process.poll() is None:
                    process.send_signal(signal.SIGINT)
                    process.wait()
                    result = {"step": row["step"], "si_sdr_improvement": row["valid_si_sdr_improvement"]}
        return {**result, "wall_s": time.monotonic() - start, "cpu_s": cpu_seconds() - before}


def validations(path: Path) -> Iterable[dict[str, float]]:
    """Yield the complete rows of a training's metrics that have a validation."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for line in text[: text.rfind("\n") + 1].splitlines():
        if "valid_si_sdr_improvement" in line:
            yield json.loads(line)


def cpu_seconds() -> float:
    """Return the CPU time of all processes that were started and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Parse the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_tables = commands.add_parser("tables")
    of_tables.add_argument("model")
    of_tables.add_argument("corpus", type=Path)
    of_tables.add_argument("--other", type=Path)
    of_tables.add_argument("--test-voices", default="")
    of_tables.add_argument("--validation-voices", default="")
    of_tables.add_argument("--precision", default="fp32")
    of_record = commands.add_parser("record")
    of_record.add_argument("corpus", type=Path)
    of_record.add_argument("--rate", type=int, default=8000)
    of_record.add_argument("--goal", type=float, default=5.0)
    of_record.add_argument("--set", action="append", default=[])
    for command in (of_tables, of_record):
        command.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = tables(options) if options.command == "tables" else record(options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.command == "record":
        print(result)


if __name__ == "__main__":
    main()
