"""Measure the gain of phase refinement: SI-SDR of separated mixtures, and of ideal masks, by iterations of MISI.

    python benchmarks/misi.py RUN MIXTURES [--split tt] [--iterations 0,1,2,5,10] [--json FILE]

"Ideal" uses the magnitudes of the true sources instead of the masked ones, the upper limit for a network of magnitudes.
"""

import argparse
import json
from pathlib import Path
from statistics import mean

import torch

from sepclip.audio.misi import refine_phases
from sepclip.audio.permutation import best_permutation
from sepclip.audio.si_sdr import pairwise_si_sdr
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.render import FULL_SCALE
from sepclip.model.inference import BlockSeparator, InferenceOptions
from sepclip.training.run import Run


def score(*, est, ref) -> float:
    pairwise = pairwise_si_sdr(est=est.unsqueeze(0), ref=ref.unsqueeze(0))
    return float(best_permutation(pairwise, maximise=True)[0])


def ideal(true, stft, iterations: int):
    mixture, magnitudes = true.sum(0, keepdim=True), stft.forward(true).abs().unsqueeze(1)  # (1, T), (S, 1, N, F)
    waves = stft.inverse(magnitudes * stft.forward(mixture).sgn(), mixture.shape[-1])  # (S, 1, T)
    return refine_phases(waves, magnitudes, mixture, stft, iterations)[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="tt")
    parser.add_argument("--iterations", default="0,1,2,5,10")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model, mixtures = Run.open(options.run).separator(torch.device("cpu")).model, MixtureSet.open(options.data)
    rows = []
    for count in map(int, options.iterations.split(",")):
        separator = BlockSeparator(model, InferenceOptions(misi=count))
        scores = []
        for recipe in mixtures.recipes(options.split):
            waves = torch.from_numpy(mixtures.waves(options.split, recipe).copy()).float() / FULL_SCALE  # (1 + S, T)
            est = separator.separate(waves[:1])[:, 0]  # (S, T)
            scores.append(
                (score(est=est, ref=waves[1:]), score(est=ideal(waves[1:], separator.stft, count), ref=waves[1:]))
            )
        rows.append({"iterations": count, "network": mean(s for s, _ in scores), "ideal": mean(s for _, s in scores)})
        print(
            f"{count:3} iterations: network {rows[-1]['network']:6.2f} dB, ideal magnitudes {rows[-1]['ideal']:6.2f} dB"
        )
    print(f"mean SI-SDR of {len(mixtures.recipes(options.split))} mixtures of {options.split}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
