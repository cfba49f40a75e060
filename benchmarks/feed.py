"""Whether batches come fast enough for a device that works beside the processor, which is emulated by sleeping.

    python benchmarks/feed.py MIXTURES [--step-ms 15] [--launch-ms 3] [--batch 25] [--steps 60] [--rounds 3]

A step takes ``--launch-ms`` of Python in the main thread, as launching kernels does, and sleeps for the rest. Shown is
the share of the time that the device would be busy, for fixed and dynamic mixtures, with all audio in memory and with
none, by one reader and by several; and what making a batch takes alone.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import torch

from sepclip.mixing.dataset import training_data
from sepclip.mixing.mixture import MixtureSet
from sepclip.training.feed import Feed

SEGMENT = 399 * 64


def busy_share(batches, options: argparse.Namespace) -> float:
    """Return the share of the time in which the emulated device works."""
    steps, ready = options.steps, 3
    with Feed(batches.batch, steps + ready, torch.device("cpu"), torch.float32, ahead=True) as feed:
        for step in range(steps + ready):
            if step == ready:
                began = time.perf_counter()
            feed.batch(step)
            launched = time.perf_counter() + options.launch_ms / 1e3
            while time.perf_counter() < launched:
                sum(range(200))
            time.sleep((options.step_ms - options.launch_ms) / 1e3)
    return steps * options.step_ms / 1e3 / (time.perf_counter() - began)


def milliseconds(batches, options: argparse.Namespace) -> float:
    """Return what making a batch takes while nothing else is done."""
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
    options = parser.parse_args()
    mixtures = MixtureSet.open(options.mixtures)
    for dynamic in (False, True):
        for memory_gib in (4, 0):
            for readers in options.readers if not memory_gib else options.readers[:1]:
                shares, alone = [], []
                for _ in range(options.rounds):
                    batches = training_data(
                        mixtures, segment=SEGMENT, batch_size=options.batch, dynamic=dynamic, seed=0,
                        memory_gib=memory_gib, readers=readers,
                    )  # fmt: skip
                    if memory_gib:
                        for step in range(options.steps + 3):  # now it is in memory
                            batches.batch(step)
                    alone.append(milliseconds(batches, options))
                    shares.append(busy_share(batches, options))
                kind = f"{'dynamic' if dynamic else 'fixed'}, {'in memory' if memory_gib else 'from files'}"
                print(
                    f"{kind:20} readers {readers}: {median(alone):6.1f} ms a batch, device busy "
                    f"{median(shares):.1%} [{min(shares):.1%}..{max(shares):.1%}]",
                    flush=True,
                )


if __name__ == "__main__":
    main()
