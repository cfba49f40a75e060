"""Measure the cost of `--dynamics`, and the effect of bfloat16 on local smoothness, with the demo's network and voices.

    sepclip prepare speakers data/speech mixtures --no-audio
    python benchmarks/dynamics.py mixtures [--steps 60] [--json FILE]

Every step of a training in fp32 is timed alone and then with its probe, so that both see the same conditions. The
smoothness of each step is measured in fp32 and in bf16.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from statistics import median, quantiles

import torch

from sepclip.config.load import load_config
from sepclip.mixing.batches import training_data
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.training.dynamics import LossEnvironment, local_smoothness
from sepclip.training.state import TrainingState, build_separator
from sepclip.training.step import mean_loss, take_step


def again(before, *step):
    before.restore()
    return mean_loss(*step)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = MixtureSet.open(options.data)
    config = load_config("demo", ["precision=fp32", f"train.steps={options.steps}"])
    rough = config.model_copy(update={"precision": "bf16"})
    state = TrainingState.start(config, build_separator(config, data.layout), torch.device("cpu"), options.steps)
    separator = state.separator.train()
    segment = separator.stft.samples(config.data.segment_frames)
    batches = training_data(data, segment=segment, batch_size=8, dynamic=True, seed=0, memory_gib=1)
    costs, ratios = [], []
    for step in range(options.steps):
        batch = batches.batch(step)
        start = [parameter.detach().clone() for parameter in separator.parameters()]
        before = LossEnvironment(separator, state.device)
        began = time.perf_counter()
        take_step(state, batch, config)
        alone = time.perf_counter() - began
        after = LossEnvironment(separator, state.device)
        found = []
        for precision in (config, rough):
            loss = partial(again, before, separator, batch, precision)
            began = time.perf_counter()
            found.append(local_smoothness(loss, list(separator.parameters()), start, [0.5])[1])
            if precision is config:
                costs.append((time.perf_counter() - began) / alone)
        after.restore()
        ratios.append(found[1] / found[0])
    table = {"probe / step, fp32": costs, "smoothness bf16 / fp32": ratios}
    for name, values in table.items():
        deciles = quantiles(values, n=10)
        print(f"{name:24} median {median(values):.2f}, 10 to 90 % of the steps {deciles[0]:.2f} to {deciles[-1]:.2f}")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
