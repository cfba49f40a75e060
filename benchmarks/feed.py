"""Measure whether batches are ready in time for a device beside the processor, emulated by sleeping.

    python benchmarks/feed.py MIXTURES [--step-ms 15] [--launch-ms 3] [--batch 25] [--steps 60] [--rounds 3]
                              [--readers 1 2] [--workers 0 1 2]

A step takes ``--launch-ms`` of Python in the main thread, as launching kernels does, and sleeps for the rest. Printed
is the share of time for which the device would be busy: with a batch that is always ready, which is the upper limit;
and for fixed and dynamic mixtures, with all audio in memory and with none, with one thread, with several readers, and
with separate processes. Also printed: the time that making a batch takes on its own.
"""

import argparse
import time
from itertools import product
from pathlib import Path
from statistics import median

import torch

from sepclip.mixing.batches import training_data
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.training.feed import Feed

SEGMENT = 399 * 64
READY = 8  # steps before the clock starts


def busy_share(make, workers: int, options: argparse.Namespace) -> float:
    """Return the share of time for which the emulated device is busy."""
    steps = options.steps
    with Feed(make, steps + READY, torch.device("cpu"), torch.float32, processes=workers, ahead=True) as feed:
        for step in range(steps + READY):
            if step == READY:
                began = time.perf_counter()
            feed.batch(step)
            launched = time.perf_counter() + options.launch_ms / 1e3
            while time.perf_counter() < launched:
                sum(range(200))
            time.sleep((options.step_ms - options.launch_ms) / 1e3)
    return steps * options.step_ms / 1e3 / (time.perf_counter() - began)


def milliseconds(batches, options: argparse.Namespace) -> float:
    """Return the milliseconds that making a batch takes if nothing else is done."""
    began = time.perf_counter()
    for step in range(options.steps):
        batches.batch(step)
    return (time.perf_counter() - began) / options.steps * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mixtures", type=Path)
    parser.add_argument("--step-ms", type=float, default=15)
    parser.add_argument("--launch-ms", type=float, default=3)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--readers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    mixtures = MixtureSet.open(options.mixtures)
    batch = training_data(
        mixtures, segment=SEGMENT, batch_size=options.batch, dynamic=False, seed=0, memory_gib=4
    ).batch(0)  # fmt: skip
    found = [busy_share(lambda _: batch, 0, options) for _ in range(options.rounds)]
    print(f"always ready: device busy {median(found):.1%} [{min(found):.1%}..{max(found):.1%}]", flush=True)
    ways = [(1, workers) for workers in options.workers] + [(count, 0) for count in options.readers if count > 1]
    for dynamic, memory_gib in product((False, True), (4, 0)):
        shares, alone = {way: [] for way in ways}, {way: [] for way in ways}
        for _, (readers, workers) in product(range(options.rounds), ways):
            batches = training_data(
                mixtures, segment=SEGMENT, batch_size=options.batch, dynamic=dynamic, seed=0, memory_gib=memory_gib,
                readers=readers, shared_memory=workers > 0,
            )  # fmt: skip
            if memory_gib:
                for step in range(options.steps + READY):  # bring the audio into memory
                    batches.batch(step)
            alone[readers, workers].append(milliseconds(batches, options))
            shares[readers, workers].append(busy_share(batches.batch, workers, options))
        kind = f"{'dynamic' if dynamic else 'fixed'}, {'in memory' if memory_gib else 'from files'}"
        for readers, workers in ways:
            found = shares[readers, workers]
            print(
                f"{kind:20} {f'processes {workers}' if workers else f'readers {readers}'}: device busy "
                f"{median(found):.1%} [{min(found):.1%}..{max(found):.1%}]; alone: "
                f"{median(alone[readers, workers]):.1f} ms a batch",
                flush=True,
            )


if __name__ == "__main__":
    main()
