"""Do everything that needs a GPU, within 25 minutes, and write one JSON document and one table.

    PYTHONPATH=. python benchmarks/gpu.py OUT [--minutes 25] [--only tests layers ...]

Writes OUT/gpu.json, OUT/gpu.md and the logs of all commands; a part that fails or has no time left is reported there,
and the exit code is 1 if any part failed. The parts, in this order:

- ``tests``: the tests that are skipped without a CUDA device, and those of the pretended device.
- ``layers``: the dtype of ``torch.nn.LSTM`` under autocast to bfloat16, whether cuDNN takes bfloat16 weights, the
  warnings of a step in bf16, and the cosine of the recurrent gradients of every loss in bf16 with those in fp32.
- ``steps``: seconds of a step of every loss for 2x300 and 4x600 in fp32, tf32 and bf16, against the bare floor, and
  cuDNN alone (``benchmarks/train.py floor``); and of Conv-TasNet.
- ``train``: the share of time for which the GPU is busy in ``sepclip train`` (``--profile``).
- ``ranks``: the same training by two processes, if there are two GPUs; its last loss against that of one.
- ``memory``: the peak memory of a step of the largest network.
- ``sweep``: the 35 cells of ``table1-small`` with ``--jobs-per-gpu``.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
LOSSES = ("mi", "dc", "wkm", "chimera", "snr", "tsnr", "si-sdr")
CELLS_PER_GPU = 4


@dataclass
class Bench:
    """The folder of the results, and the time at which everything must have ended."""

    out: Path
    deadline: float

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def run(self, name: str, *command: object, most: float = 1e9) -> str:
        """Run a command for at most the time that is left; return its output, which is also in OUT/NAME.log."""
        log = self.out / f"{name}.log"
        with log.open("w") as file:
            done = subprocess.run(
                [str(part) for part in command],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"},
                timeout=max(1.0, min(most, self.left())),
                check=False,
            )
        text = log.read_text()
        if done.returncode:
            last = (text.strip().splitlines() or [""])[-1]
            raise RuntimeError(f"exit code {done.returncode}, see {log.name}: {last[:300]}")
        return text

    def sepclip(self, name: str, *arguments: object, most: float = 1e9) -> str:
        return self.run(name, sys.executable, "-m", "sepclip", *arguments, most=most)

    def mixtures(self) -> Path:
        """Return a mixture set of the demo voices, which is prepared once."""
        folder = self.out / "set"
        if not (folder / "set.json").is_file():
            counts = ("--tr", 300, "--cv", 24, "--tt", 24)
            self.sepclip("prepare", "prepare", "speakers", REPOSITORY / "data" / "speech", folder, *counts)
        return folder


def tests(bench: Bench) -> dict[str, Any]:
    files = ("tests/test_pretend_device.py", "tests/training/test_feed.py", "tests/test_clip.py")
    text = bench.run("tests", sys.executable, "-m", "pytest", "-q", "-rs", *files, most=300)
    return {"last line": text.strip().splitlines()[-1], "skipped": re.findall(r"^SKIPPED.*", text, re.MULTILINE)}


def layers(bench: Bench) -> dict[str, Any]:
    import torch

    from sepclip.model.recurrence import takes_bf16

    device = torch.device("cuda")
    lstm = torch.nn.LSTM(129, 64, batch_first=True, bidirectional=True).to(device)
    with torch.autocast("cuda", torch.bfloat16):
        dtype = lstm(torch.randn(4, 50, 129, device=device))[0].dtype
    found: dict[str, Any] = {"LSTM under bf16 autocast": str(dtype), "cuDNN takes bf16": takes_bf16(device)}
    # 4x600 would be slower and says no more about dtypes
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for loss in LOSSES:
            found[f"least cosine of {loss}, bf16 with fp32"] = _least_cosine(loss)
    found["warnings"] = sorted({str(warning.message).splitlines()[0] for warning in caught})
    return found


def _least_cosine(loss: str) -> float:
    """Return the least cosine of the gradients of a recurrent tensor in bf16 and in fp32, for one batch."""
    import torch

    from sepclip.audio.layout import Layout
    from sepclip.config.load import load_config
    from sepclip.mixing.batches import Batch
    from sepclip.training.hardware import configure_torch
    from sepclip.training.state import TrainingState, build_separator
    from sepclip.training.step import mean_loss

    device = torch.device("cuda")
    sources = 0.1 * torch.randn(8, 2, 399 * 64, generator=torch.Generator().manual_seed(0))
    batch, gradients = Batch(sources.sum(1), sources).to(device), []
    for precision in ("fp32", "bf16"):
        settings = (f"loss.name={loss}", f"precision={precision}", "device=cuda", "threads=1", "model.layers=2")
        config = load_config(settings=[*settings, "model.hidden=300", "model.dropout=0", "allocator=system"])
        configure_torch(config)
        state = TrainingState.start(config, build_separator(config, Layout(8000, 2)), device, 10)
        weights = [weight for name, weight in state.separator.named_parameters() if "recurrent" in name]
        gradients.append(torch.autograd.grad(mean_loss(state.separator.train(), batch, config), weights))
    pairs = zip(gradients[0], gradients[1], strict=True)
    cosines = [torch.cosine_similarity(a.double().flatten(), b.double().flatten(), 0) for a, b in pairs]
    return round(float(min(cosines)), 5)


def steps(bench: Bench) -> dict[str, Any]:
    target = bench.out / "steps.json"
    command = (sys.executable, HERE / "train.py", "floor", "--device", "cuda", "--batch", 25, "--rounds", 3)
    networks = ("--network", "2x300", "4x600", "--precision", "fp32", "tf32", "bf16", "--losses", *LOSSES)
    bench.run("steps", *command, "--steps", 10, *networks, "--json", target, most=480)
    table: dict[str, Any] = json.loads(target.read_text())
    for precision in ("fp32", "tf32", "bf16"):
        table[f"conv-tasnet {precision} batch 3 si-sdr"] = {"seconds": [_seconds_of_conv_tasnet(precision)]}
    return table


def _seconds_of_conv_tasnet(precision: str, count: int = 20) -> float:
    import torch

    from sepclip.audio.layout import Layout
    from sepclip.config.load import load_config
    from sepclip.mixing.batches import Batch
    from sepclip.training.hardware import configure_torch
    from sepclip.training.state import TrainingState, build_separator
    from sepclip.training.step import take_step

    device = torch.device("cuda")
    settings = [f"precision={precision}", "device=cuda", "threads=1", "allocator=system"]
    config = load_config("conv-tasnet", settings)
    configure_torch(config)
    state = TrainingState.start(config, build_separator(config, Layout(8000, 2)), device, 1000)
    state.separator.train()
    sources = 0.1 * torch.randn(3, 2, 32000, generator=torch.Generator().manual_seed(0))
    batch = Batch(sources.sum(1), sources).to(device)
    for _ in range(5):  # cuDNN looks for its fastest algorithms in the first ones
        take_step(state, batch, config)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        take_step(state, batch, config)
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def train(bench: Bench) -> dict[str, Any]:
    run = bench.out / "run"
    arguments = ("--run", run, "--steps", 400, "--device", "cuda", "--no-report", "--profile")
    arguments += ("--set", "train.valid_every=200")
    text = bench.sepclip("train", "train", bench.mixtures(), *arguments, most=240)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speeds = [row["steps_per_second"] for row in rows if row.get("steps_per_second")]
    busy = re.search(r"the GPU was busy ([\d.]+)%", text)
    return {
        "started": next((line for line in text.splitlines() if line.startswith("training ")), ""),
        "busy share": float(busy[1]) / 100 if busy else None,
        "steps per second at the end": speeds[-1] if speeds else None,
        "environment": json.loads((run / "environment.json").read_text())["gpu"],
    }


def ranks(bench: Bench) -> dict[str, Any]:
    import torch

    if torch.cuda.device_count() < 2:
        return {"skipped": f"{torch.cuda.device_count()} GPU"}
    last = {}
    for count in (1, 2):
        run = bench.out / f"ranks-{count}"
        torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}")
        settings = ("--set", "model.dropout=0", "--set", "precision=fp32", "--set", "model.layers=2")
        arguments = ("--run", run, "--steps", 60, "--device", "cuda", "--no-report", *settings)
        bench.run(f"ranks-{count}", *torchrun, "-m", "sepclip", "train", bench.mixtures(), *arguments, most=180)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        last[count] = next(row["loss"] for row in reversed(rows) if "loss" in row)
    return {"last loss of one process": last[1], "last loss of two": last[2]}


def memory(bench: Bench) -> dict[str, Any]:
    import torch
    from train_arms import make_step

    found = {}
    for precision in ("fp32", "bf16"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        step = make_step("chimera", 25, precision, network="4x600", device="cuda")
        step(), step()
        found[f"MiB of chimera, 4x600, batch 25, {precision}"] = round(torch.cuda.max_memory_allocated() / 2**20)
        del step
    return found


def sweep(bench: Bench) -> dict[str, Any]:
    began = time.monotonic()
    arguments = ("--out", bench.out / "sweep", "--device", "cuda", "--jobs-per-gpu", CELLS_PER_GPU)
    bench.sepclip("sweep", "sweep", "table1-small", bench.mixtures(), *arguments)
    return {"seconds": round(time.monotonic() - began), "cells per GPU": CELLS_PER_GPU}


PARTS: tuple[Callable[[Bench], dict[str, Any]], ...] = (tests, layers, steps, train, ranks, memory, sweep)


def flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    """Return nested results as rows of a name and a value; lists of numbers as their median."""
    if isinstance(value, dict):
        return [row for key, item in value.items() for row in flat(f"{prefix}, {key}" if prefix else key, item)]
    if isinstance(value, list) and value and all(isinstance(item, int | float) for item in value):
        ordered = sorted(value)
        return [(prefix, f"{ordered[len(ordered) // 2]:.4g} [{ordered[0]:.4g}..{ordered[-1]:.4g}]")]
    return [(prefix, f"{value:.4g}" if isinstance(value, float) else str(value))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--only", nargs="+", choices=[part.__name__ for part in PARTS])
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.exit("no CUDA device: these measurements need one")
    options.out.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(HERE))
    bench = Bench(options.out.resolve(), time.monotonic() + 60 * options.minutes)
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    results: dict[str, Any] = {"torch": torch.__version__, "cuDNN": torch.backends.cudnn.version(), "GPUs": names}
    failed = False
    for part in PARTS:
        if options.only and part.__name__ not in options.only:
            continue
        began = time.monotonic()
        try:
            result = part(bench) if bench.left() > 0 else {"skipped": "no time left"}
        except Exception as error:  # noqa: BLE001 - the other parts are worth having
            result, failed = {"failed": f"{type(error).__name__}: {error}"}, True
        results[part.__name__] = {**result, "took seconds": round(time.monotonic() - began, 1)}
        print(f"{part.__name__}: {json.dumps(results[part.__name__])[:400]}", flush=True)
        # after each part, so that what was measured is kept if this process is ended
        (bench.out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
        lines = ["| what | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in flat("", results))]
        (bench.out / "gpu.md").write_text("\n".join(lines) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
