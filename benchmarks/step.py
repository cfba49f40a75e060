"""Measure a training step of the demo's network, by precision, allocator and the spinning of OpenMP's threads.

    python benchmarks/step.py [--rounds 3] [--json FILE]

Every arm is a separate process, because all of this is set before torch is imported. The arms take turns, and the ratio
to the first arm is computed within a round. With ``--busy``, another process keeps one core busy meanwhile.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

STEP = """
import sys, time
from sepclip import startup
if sys.argv[2] == "kept": startup.keep_memory()
import torch
from sepclip.audio.layout import Layout
from sepclip.config.load import load_config
from sepclip.mixing.batches import Batch
from sepclip.training.step import take_step
from sepclip.training.state import TrainingState, build_separator
config = load_config("demo", ["precision=" + sys.argv[1]])
state = TrainingState.start(config, build_separator(config, Layout(8000, 2)), torch.device("cpu"), 1000)
state.separator.train()
chance = torch.Generator().manual_seed(0)
sources = 0.05 * torch.randn(16, 2, 19136, generator=chance)
batch = Batch(sources.sum(1), sources)
for _ in range(3): take_step(state, batch, config)
began = time.perf_counter()
steps = int(sys.argv[3])
for _ in range(steps): take_step(state, batch, config)
print((time.perf_counter() - began) / steps)
"""
ARMS = {  # name: (precision, allocator, environment)
    "fp32, as torch comes": ("fp32", "system", {}),
    "fp32, memory kept": ("fp32", "kept", {}),
    "bf16, memory kept": ("bf16", "kept", {}),
    "bf16, memory kept, short spins": ("bf16", "kept", {"GOMP_SPINCOUNT": "1000"}),
    "bf16, memory kept, one thread": ("bf16", "kept", {"OMP_NUM_THREADS": "1"}),
}


def seconds(arm: str, steps: int) -> float:
    precision, allocator, environment = ARMS[arm]
    command = [sys.executable, "-c", STEP, precision, allocator, str(steps)]
    result = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return float(result.stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if options.busy else None
    try:
        rounds = [{arm: seconds(arm, options.steps) for arm in ARMS} for _ in range(options.rounds)]
    finally:
        if busy:
            busy.kill()
    first = next(iter(ARMS))
    table = {}
    for arm in ARMS:
        times, ratios = [one[arm] for one in rounds], [one[arm] / one[first] for one in rounds]
        table[arm] = {"seconds": times, "ratio": ratios}
        print(
            f"{arm:32} {median(times):7.3f} s [{min(times):.3f}..{max(times):.3f}]"
            f"   x{median(ratios):.2f} [{min(ratios):.2f}..{max(ratios):.2f}]"
        )
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
