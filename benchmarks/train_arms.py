"""Define the steps that benchmarks/train.py times: a training step of sepclip, and its floor.

The floor is the bare network with the heads of the loss, dropout, input normalisation, clip rule and optimizer, on
features that are already computed, with the mean square of the heads' outputs as the loss.

    python benchmarks/train_arms.py ARM --batch 8 ...        one arm in this process, as JSON
"""

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path

from sepclip import startup

FRAMES, BINS, SAMPLES = 400, 129, 399 * 64
LOSSES = ("dc", "wkm", "mi", "chimera", "snr", "tsnr", "si-sdr")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
HEADS = {"dc": "embedding", "wkm": "embedding", "chimera": "both"} | dict.fromkeys(
    ("mi", "snr", "tsnr", "si-sdr"), "mask"
)
FLOOR_OF = {"embedding": "dc", "mask": "mi", "both": "chimera"}  # the loss that stands for these heads


def processor() -> str:
    """Return the name of the processor, from the kernel if it knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def facts(allocator: str, precision: str, device: str = "cpu") -> str:
    """Return a line with what a figure depends on: hardware, threads, allocator, precision."""
    import torch

    hardware = torch.cuda.get_device_name(device) if device.startswith("cuda") else processor()
    return f"{hardware}, {torch.get_num_threads()} threads, torch {torch.__version__}, memory {allocator}, {precision}"


def make_step(
    arm: str, batch_size: int, precision: str, *, network: str = "2x300", device: str = "cpu"
) -> Callable[[], object]:
    """Return the step of an arm: the name of a loss, ``floor-HEADS``, or ``lstm`` (the recurrent layers alone)."""
    import torch

    from sepclip.audio.layout import Layout
    from sepclip.config.load import load_config
    from sepclip.mixing.batches import Batch
    from sepclip.training.hardware import configure_torch, resolve_hardware
    from sepclip.training.state import TrainingState, build_separator
    from sepclip.training.step import take_step

    layers, hidden = network.split("x")
    name = FLOOR_OF.get(arm.removeprefix("floor-"), "mi") if arm not in LOSSES else arm
    settings = [f"precision={precision}", f"loss.name={name}", f"model.layers={layers}", f"model.hidden={hidden}"]
    settings += ["model.dropout=0.3", "optimizer.schedule=constant", f"device={device}"]
    config = resolve_hardware(load_config("small", settings))
    configure_torch(config)
    state = TrainingState.start(config, build_separator(config, Layout(8000, 2)), torch.device(device), 1000)
    state.separator.train()
    chance = torch.Generator().manual_seed(0)
    if arm in LOSSES:
        sources = 0.05 * torch.randn(batch_size, 2, SAMPLES, generator=chance)
        batch = Batch(sources.sum(1), sources).to(torch.device(device))
        return lambda: take_step(state, batch, config)
    features = torch.randn(batch_size, FRAMES, BINS, generator=chance).to(device)
    if arm == "lstm":
        return lstm_step(features, int(layers), int(hidden), precision)
    return floor_step(state, features, precision)


def floor_step(state, features, precision: str) -> Callable[[], object]:
    """Return a step of the bare network with its heads."""
    import torch

    from sepclip.model.networks import dropout

    network = state.separator.network
    batch_size, frames, bins = features.shape

    def step() -> None:
        state.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(features.device.type, torch.bfloat16, enabled=precision == "bf16"):
            hidden = network.norm(features.reshape(-1, network.norm.num_features, 1)).reshape(batch_size, frames, bins)
            for index, layer in enumerate(network.recurrent):
                hidden, _ = layer(dropout(hidden, network.dropout) if index else hidden)
            loss = sum(head(hidden).square().mean() for head in network.heads.values())
        loss.backward()
        state.clip(state.separator.named_parameters())
        state.optimizer.step()

    return step


def lstm_step(features, layers: int, hidden: int, precision: str) -> Callable[[], object]:
    """Return a forward and backward pass of torch's LSTM (cuDNN's on a GPU) and nothing else."""
    import torch

    lstm = torch.nn.LSTM(BINS, hidden, layers, batch_first=True, bidirectional=True).to(features.device)

    def step() -> None:
        with torch.autocast(features.device.type, torch.bfloat16, enabled=precision == "bf16"):
            out, _ = lstm(features)
        out.backward(torch.ones_like(out))
        lstm.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("arm")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--network", default="2x300")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--system-allocator", action="store_true")
    options = parser.parse_args()
    startup.spin_briefly()
    if options.system_allocator:
        os.environ["SEPCLIP_MALLOC"] = "system"
    kept = startup.keep_memory()
    import torch

    from sepclip.training.hardware import resolve_precision

    precision = resolve_precision(options.precision, torch.device("cpu"))
    step = make_step(options.arm, options.batch, precision, network=options.network)
    found = timed(step, options.steps, CLOCKS[options.clock])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB, on Linux
    conditions = facts("kept" if kept else "default", precision)
    print(json.dumps(found | {"peak_mib": peak, "facts": conditions}))


def timed(step: Callable[[], object], steps: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return the seconds of a step, after two warm-up steps."""
    step(), step()
    began = clock()
    for _ in range(steps):
        step()
    return {"seconds": (clock() - began) / steps}


if __name__ == "__main__":
    main()
