"""Compare separation in blocks with the whole file, at the seams and elsewhere, by length of block and overlap.

    python benchmarks/seams.py RUN [--seconds 120] [--blocks 10:2,15:3,20:4,30:6] [--precision fp32]

Two voices speaking at once are separated by a trained network of masks. `middle` fades in the middle of every overlap,
`agree` where both blocks agree, as sepclip does. The differences are in dB relative to the result in one piece.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import soundfile
import torch

from sepclip.audio.permutation import best_permutation
from sepclip.audio.si_sdr import pairwise_si_sdr
from sepclip.model.inference import InferenceOptions
from sepclip.separation import stitching, stream
from sepclip.separation.recording import WaveRecording
from sepclip.training.run import Run

RATE = 8000


def voices(speech: Path, seconds: float) -> torch.Tensor:
    """Return two voices (2, T), repeated to the required length."""
    waves = []
    for name in ("en-f", "ca-m"):
        wave = np.concatenate([soundfile.read(p, dtype="float32")[0] for p in sorted((speech / name).glob("*.flac"))])
        waves.append(np.resize(0.05 * wave / wave.std(), int(seconds * RATE)))
    return torch.from_numpy(np.stack(waves))


def middle(old: torch.Tensor, new: torch.Tensor, fade: int, hop: int) -> int:
    """Return the middle of an overlap."""
    return (old.shape[-1] - fade) // 2


def si_sdr(est: torch.Tensor, ref: torch.Tensor) -> float:
    return float(best_permutation(pairwise_si_sdr(est=est[None], ref=ref[None]), maximise=True)[0])


def decibels(ratio: torch.Tensor) -> float:
    return 10 * math.log10(max(float(ratio), 1e-20))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--blocks", default="10:2,15:3,20:4,30:6")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--speech", type=Path, default=Path("data/speech"))
    options = parser.parse_args()
    separator = Run.open(options.run).separator(torch.device("cpu"), InferenceOptions(precision=options.precision))
    ref = voices(options.speech, options.seconds)
    mixture = ref.sum(0, keepdim=True)
    whole = separator.separate(mixture)[:, 0]
    print(f"in one piece: SI-SDR {si_sdr(whole, ref):.3f} dB, {options.precision}")
    agree, places = stitching.cut, []
    for layout in options.blocks.split(","):
        stream.BLOCKS = tuple(map(float, layout.split(":")))
        for name, chosen in (("middle", middle), ("agree", agree)):
            places.clear()
            stitching.cut = lambda *given, chosen=chosen: places.append(chosen(*given)) or places[-1]
            made = stream.SeparatedStream(separator, WaveRecording(mixture, RATE), torch.device("cpu"))
            waves = torch.cat(list(made.chunks()), -1)[:, 0]
            either = [(waves - whole).square().sum(0), (waves.flip(0) - whole).square().sum(0)]
            energy = min(either, key=lambda each: float(each.sum())) / whole.square().sum(0).mean()  # (T,)
            seams = torch.zeros_like(energy, dtype=torch.bool)
            fade = round(stream.FADE_SECONDS * RATE)
            for start, place in zip(made.blocks.starts[1:], places, strict=True):
                seams[start + place : start + place + fade] = True
            parts = {"all": energy, f"at {len(places)} seams": energy[seams], "away": energy[~seams]}
            levels = ", ".join(f"{part} {decibels(values.mean()):6.1f}" for part, values in parts.items())
            print(f"{layout:5} s, {name:6}: SI-SDR {si_sdr(waves, ref):.3f} dB; difference {levels}", flush=True)


if __name__ == "__main__":
    main()
