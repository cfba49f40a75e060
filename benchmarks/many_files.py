"""Compare separating many short files in common batches with separating them one by one.

    python benchmarks/many_files.py RUN [--files 200] [--seconds 3,5] [--rounds 3] [--jobs N] [--speech data/speech]

Files of 3 to 5 s with two voices are separated by `separate_files`, as `sepclip separate` does, from files to files,
after a first file as warm-up. Both take turns. Also printed: how many of the written samples differ, and by how much.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
import torch

from sepclip.model.inference import InferenceOptions
from sepclip.separation import separate_files
from sepclip.training.hardware import resolve_precision
from sepclip.training.run import Run

RATE = 8000


def write_mixtures(folder: Path, speech: Path, count: int, shortest: float, longest: float) -> None:
    """Write ``count`` excerpts of two voices speaking at once."""
    chance = np.random.default_rng(0)
    names = ("en-f", "ca-m")
    waves = [np.concatenate([soundfile.read(p)[0] for p in sorted((speech / n).glob("*.flac"))]) for n in names]
    for index in range(count):
        length = int(chance.uniform(shortest, longest) * RATE)
        begins = [int(chance.integers(0, len(wave) - length)) for wave in waves]
        parts = [wave[begin : begin + length] for wave, begin in zip(waves, begins, strict=True)]
        soundfile.write(folder / f"{index:04}.wav", sum(parts) / 2, RATE)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seconds", default="3,5")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--speech", type=Path, default=Path("data/speech"))
    options = parser.parse_args()
    cpu = torch.device("cpu")
    separator = Run.open(options.run).separator(cpu, InferenceOptions(precision=resolve_precision("auto", cpu)))
    how = separate_files.Options(jobs=options.jobs)
    batch = separate_files.MOST_TOGETHER
    spent: dict[str, list[float]] = {"together": [], "one by one": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        shortest, longest = map(float, options.seconds.split(","))
        write_mixtures(folder / "in", options.speech, options.files, shortest, longest)
        separate_files.separate_files(separator, [folder / "in" / "0000.wav"], folder / "warm", device=cpu, options=how)
        for turn in range(options.rounds):
            for arm, separate_files.MOST_TOGETHER in (("together", batch), ("one by one", 1)):
                began = time.perf_counter()
                separate_files.separate_files(
                    separator, [folder / "in"], folder / f"{arm}{turn}", device=cpu, options=how
                )
                spent[arm].append(time.perf_counter() - began)
        steps = []
        for path in sorted((folder / "together0").iterdir()):
            one, other = (soundfile.read(folder / f"{arm}0" / path.name, dtype="int16")[0].astype(int) for arm in spent)
            steps.append(np.abs(one - other))
    for arm, times in spent.items():
        print(f"{arm:11} {median(times):.2f} s [{min(times):.2f}..{max(times):.2f}] for {options.files} files")
    ratios = [one / other for one, other in zip(*spent.values(), strict=True)]
    print(f"ratio       {median(ratios):.2f} [{min(ratios):.2f}..{max(ratios):.2f}]")
    every = np.concatenate(steps)
    print(f"samples that differ: {np.mean(every > 0):.2%}, at most by {every.max()} steps of 16 bits")


if __name__ == "__main__":
    main()
