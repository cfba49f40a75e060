"""Measure accuracy and time of resampling to 8 kHz, by sepclip's resampler and others.

    python benchmarks/resampling.py [--seconds 60] [--json FILE]

Accuracy: the error in dB for sines of random phases below 3.4 kHz, whose samples at 8 kHz are known. Alias: the level
in dB that remains of sines above 4.6 kHz. Time: the median of seven runs over ``--seconds`` of sound in one thread.
soxr is included if it is installed.
"""

import argparse
import importlib.util
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from scipy.signal import resample_poly

from sepclip.audio.resample import load_torchaudio, resample

TO_HZ, EDGE = 8000, 800
RATES_HZ = (16000, 44100, 48000)


def sines(lowest: float, highest: float, rate_hz: int, seconds: float) -> np.ndarray:
    chance = np.random.default_rng(0)
    time_axis = np.arange(int(seconds * rate_hz)) / rate_hz
    pitches, phases = chance.uniform(lowest, highest, 40), chance.uniform(0, 2 * np.pi, 40)
    return sum(np.sin(2 * np.pi * f * time_axis + p) for f, p in zip(pitches, phases, strict=True)) / 40


def ways() -> dict[str, Callable[[np.ndarray, int], np.ndarray]]:
    functional = load_torchaudio().functional
    found: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
        "sepclip": lambda wave, rate: resample(torch.from_numpy(wave), rate, TO_HZ).numpy(),
        "torchaudio": lambda wave, rate: functional.resample(torch.from_numpy(wave), rate, TO_HZ).numpy(),
        "scipy": lambda wave, rate: resample_poly(wave, TO_HZ // math.gcd(TO_HZ, rate), rate // math.gcd(TO_HZ, rate)),
    }
    if importlib.util.find_spec("soxr"):
        import soxr

        found["soxr HQ"] = lambda wave, rate: soxr.resample(wave, rate, TO_HZ, quality="HQ")
        found["soxr VHQ"] = lambda wave, rate: soxr.resample(wave, rate, TO_HZ, quality="VHQ")
    return found


def measure(way: Callable[[np.ndarray, int], np.ndarray], rate_hz: int, seconds: float) -> dict[str, float]:
    made = way(sines(50, 3400, rate_hz, 4).astype(np.float32), rate_hz)
    truth = sines(50, 3400, TO_HZ, 4)[EDGE:-EDGE]
    error = made[EDGE : EDGE + len(truth)] - truth
    above = sines(4600, 0.49 * rate_hz, rate_hz, 4).astype(np.float32)
    left = way(above, rate_hz)[EDGE:-EDGE]
    long = sines(50, 3400, rate_hz, seconds).astype(np.float32)
    taken = []
    for _ in range(7):
        began = time.perf_counter()
        way(long, rate_hz)
        taken.append(time.perf_counter() - began)
    return {
        "accuracy_db": 10 * math.log10(np.square(truth).mean() / np.square(error).mean()),
        "alias_db": 10 * math.log10(np.square(left, dtype=np.float64).mean() / np.square(above).mean()),
        "ms": 1000 * median(taken),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = {
        f"{name}, {rate} Hz": measure(way, rate, arguments.seconds) for rate in RATES_HZ for name, way in ways().items()
    }
    for name, row in rows.items():
        print(f"{name:22}" + "".join(f"{key} {value:9.1f}  " for key, value in row.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
