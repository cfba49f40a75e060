"""Measure a training step: against the bare network, against other toolkits, and as part of `sepclip train`.

    python benchmarks/train.py floor [--batch 8 25] [--precision fp32 bf16] [--rounds 5] [--json FILE]
    python benchmarks/train.py floor --device cuda --network 2x300 4x600 --precision fp32 tf32 bf16
    python benchmarks/train.py peers --peer-python peers/bin/python     (how to make it: train_peers.py)
    python benchmarks/train.py whole MIXTURES                           (a set made by `sepclip prepare`)
    python benchmarks/train.py memory MIXTURES

``floor``: the step of each loss and its floor in one process, taking turns; ratios are computed within a round. On a
GPU also torch's LSTM alone, and the share of time for which the GPU is busy. ``peers``: deep clustering, each toolkit
with its defaults, every measurement in a separate process, taking turns. ``whole``: `sepclip train` for 200 steps
against 200 bare steps. ``memory``: the peak of a process that trains the largest recipe, and the memory of `sepclip
train` during 10,000 steps.

``--clock cpu`` measures CPU time instead of wall time, for machines that others use at the same time. Set
OMP_NUM_THREADS=1 with it, because threads that wait for each other spin.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from train_arms import CLOCKS, HEADS, LOSSES, facts, make_step

from sepclip import startup

HERE = Path(__file__).parent
_TRIES, _MOST_OF_OTHERS = 6, 0.15  # repeat a measurement if other processes use more cores than this
Table = dict[str, dict[str, object]]


def shown(numbers: list[float], unit: str = "", digits: int = 3) -> str:
    return f"{median(numbers):.{digits}f}{unit} [{min(numbers):.{digits}f}..{max(numbers):.{digits}f}]"


def floor(options: argparse.Namespace) -> Table:
    """Print and return the seconds of the step of each loss, and the ratio to its floor."""
    startup.spin_briefly()
    kept = startup.keep_memory()
    table: Table = {}
    for network in options.network:
        for precision in options.precision:
            print(facts("kept" if kept else "default", precision, options.device), f"{network} BLSTM", sep=", ")
            for batch_size in options.batch:
                table |= floor_of(options, network, precision, batch_size)
    return table


def floor_of(options: argparse.Namespace, network: str, precision: str, batch_size: int) -> Table:
    arms = [arm for loss in options.losses for arm in (loss, f"floor-{HEADS[loss]}")]
    arms = list(dict.fromkeys([*arms, "lstm"] if on_gpu(options) else arms))
    steps = {arm: make_step(arm, batch_size, precision, network=network, device=options.device) for arm in arms}
    for step in steps.values():
        step()
    rounds = [
        {arm: seconds_of(step, options.steps, options.device, options.clock) for arm, step in steps.items()}
        for _ in range(options.rounds)
    ]
    table: Table = {}
    for loss in options.losses:
        own = [one[loss] for one in rounds]
        bare = [one[f"floor-{HEADS[loss]}"] for one in rounds]
        ratios = [a / b for a, b in zip(own, bare, strict=True)]
        line = f"  batch {batch_size:2} {loss:8} {shown(own, ' s')}   floor {shown(bare, ' s')}   x{shown(ratios)}"
        if on_gpu(options):
            alone = [a / one["lstm"] for a, one in zip(own, rounds, strict=True)]
            line += f"   to the LSTM alone x{shown(alone)}   GPU busy {busy_share(steps[loss]):.1%}"
        print(line, flush=True)
        key = f"{network} {precision} batch {batch_size} {loss}"
        table[key] = {"seconds": own, "floor": bare, "ratio": ratios}
    return table


def on_gpu(options: argparse.Namespace) -> bool:
    return str(options.device).startswith("cuda")


def seconds_of(step: Callable[[], object], steps: int, device: str, name: str) -> float:
    import torch

    clock = CLOCKS[name]
    for _ in range(_TRIES):
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        others, began_at, began = used_by_others(), time.perf_counter(), clock()
        for _ in range(steps):
            step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds = (clock() - began) / steps
        if name == "cpu" or used_by_others() - others < _MOST_OF_OTHERS * (time.perf_counter() - began_at):
            break
    return seconds


def used_by_others() -> float:
    """Return the CPU seconds that all other processes of this machine have used; 0 if the system is not Linux."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return 0.0
    user, nice, system, _, _, irq, softirq, *_ = map(int, stat.read_text().split()[1:9])
    mine = os.times()
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK") - mine.user - mine.system


def busy_share(step: Callable[[], object], steps: int = 20) -> float:
    """Return the share of time for which a kernel runs on the GPU."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
        wall = time.perf_counter() - began
    return sum(event.self_device_time_total for event in trace.key_averages()) / 1e6 / wall


def peers(options: argparse.Namespace) -> Table:
    """Print and return the seconds of a deep clustering step of sepclip, asteroid and nussl with their defaults."""
    peer = [options.peer_python, str(HERE / "train_peers.py")]
    own = [sys.executable, str(HERE / "train_arms.py")]
    arms = {
        "sepclip": [*own, "dc"],
        "sepclip, fp32": [*own, "dc", "--precision", "fp32"],
        "asteroid 0.7.0": [*peer, "asteroid"],
        "nussl 1.1.9": [*peer, "nussl"],
    }
    table: Table = {}
    clock = ["--clock", options.clock]
    for batch_size in options.batch:
        steps = max(2, options.steps * 8 // batch_size)
        rounds = [
            {
                arm: measured([*command, "--batch", batch_size, "--steps", steps, *clock])
                for arm, command in arms.items()
            }
            for _ in range(options.rounds)
        ]
        for arm in arms:
            seconds = [one[arm]["seconds"] for one in rounds]
            times = [one[arm]["seconds"] / one["sepclip"]["seconds"] for one in rounds]
            table[f"batch {batch_size} {arm}"] = {"seconds": seconds, "ratio": times, "facts": rounds[0][arm]["facts"]}
            print(f"batch {batch_size:2} {arm:14} {shown(seconds, ' s')}   x{shown(times, digits=2)}", end="   ")
            print(rounds[0][arm]["facts"], flush=True)
    return table


def measured(command: list[object]) -> dict[str, float]:
    """Run an arm in a separate process and return its result."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def whole(options: argparse.Namespace) -> Table:
    """Print and return the seconds of `sepclip train` and of the same number of bare steps."""
    totals, loops, bare = [], [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "sepclip", "train", options.data, "--run", f"{folder}/run", "--json"]
            command += ["--config", "small", "--loss", options.loss, "--batch-size", options.batch[0]]
            command += ["--steps", options.steps, "--set", "model.dropout=0.3"]
            began = spent(options.clock)
            loops.append(measured(command)["seconds"])
            totals.append(spent(options.clock) - began)
        arm = [sys.executable, HERE / "train_arms.py", options.loss, "--batch", options.batch[0]]
        found = measured([*arm, "--steps", options.steps, "--clock", options.clock])
        bare.append(found["seconds"] * options.steps)
    print(found["facts"])
    table: Table = {"bare steps": {"seconds": bare}}
    print(f"{options.steps} bare steps of {options.loss}, batch {options.batch[0]}: {shown(bare, ' s', 1)}")
    arms = {"sepclip train": totals} | ({"its loop": loops} if options.clock == "wall" else {})
    for name, seconds in arms.items():
        ratios = [a / b for a, b in zip(seconds, bare, strict=True)]
        print(f"{name:14} {shown(seconds, ' s', 1)}   x{shown(ratios)}")
        table[name] = {"seconds": seconds, "ratio": ratios}
    return table


def memory(options: argparse.Namespace) -> Table:
    """Print and return the peak of a few steps in a separate process, and the memory of a long training."""
    table: Table = {}
    for network, batch_size in zip(options.network, options.batch, strict=True):
        for precision in options.precision:
            for allocator in ([], ["--system-allocator"]):
                arm = [sys.executable, HERE / "train_arms.py", options.loss, "--batch", batch_size, "--steps", 1]
                found = measured([*arm, "--network", network, "--precision", precision, *allocator])
                name = f"peak of {options.loss}, {network}, batch {batch_size}"
                print(f"{name}: {found['peak_mib']:.0f} MiB   {found['facts']}", flush=True)
                table[f"{name}, {found['facts']}"] = {"mib": found["peak_mib"]}
    if options.steps:
        held = held_while_training(options.data, options.steps)
        for share in (0.1, 0.25, 0.5, 0.75, 1.0):
            step = max(step for step, _ in held if step <= share * options.steps)
            mib = next(mib for at, mib in held if at == step)  # the first: at the end it makes a summary
            print(f"`sepclip train` at step {step}: {mib:.1f} MiB")
        table["held"] = {"steps and mib": held}
    return table


def held_while_training(data: Path, steps: int) -> list[tuple[int, float]]:
    """Return pairs of a step and the resident MiB of `sepclip train` with a tiny network (Linux only)."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        tiny = ["data.segment_frames=20", "data.valid_excerpts=8", "model.hidden=8", "model.layers=1"]
        tiny += ["train.log_every=50", f"train.valid_every={steps // 10}", "train.average=0.999"]
        command = [sys.executable, "-m", "sepclip", "train", data, "--run", run, "--steps", steps, "--batch-size", 4]
        command += ["--config", "small", "--no-report", *(part for one in tiny for part in ("--set", one))]
        held: list[tuple[int, float]] = []
        with subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL) as training:
            while training.poll() is None:
                time.sleep(0.25)
                rows = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").is_file() else []
                pages = Path(f"/proc/{training.pid}/statm").read_text().split()
                if rows and int(pages[1]):  # 0 after it has ended
                    step = json.loads(rows[-1])["step"]
                    held.append((step, int(pages[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20))
        if training.returncode:
            sys.exit("sepclip train failed")
        return held


def spent(clock: str) -> float:
    """Return the wall time, or the CPU time of all child processes that have ended."""
    children = os.times()
    return time.perf_counter() if clock == "wall" else children.children_user + children.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(required=True)
    defaults = {floor: ([8, 25], 2, 5), peers: ([8, 25], 6, 3), whole: ([8], 200, 2), memory: ([25], 10_000, 1)}
    for mode, (batch, steps, rounds) in defaults.items():
        command = modes.add_parser(mode.__name__)
        command.set_defaults(mode=mode)
        command.add_argument("--batch", type=int, nargs="+", default=batch)
        command.add_argument("--steps", type=int, default=steps)
        command.add_argument("--rounds", type=int, default=rounds)
        command.add_argument("--json", type=Path)
        command.add_argument("--clock", choices=["wall", "cpu"], default="wall")
        if mode is floor:
            command.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
            command.add_argument("--precision", nargs="+", default=["fp32"])
            command.add_argument("--network", nargs="+", default=["2x300"])
            command.add_argument("--device", default="cpu")
        elif mode is peers:
            command.add_argument("--peer-python", required=True)
        else:
            command.add_argument("data", type=Path)
            command.add_argument("--loss", choices=LOSSES, default="chimera" if mode is memory else "mi")
        if mode is memory:
            command.add_argument("--network", nargs="+", default=["4x600"])
            command.add_argument("--precision", nargs="*", default=["fp32", "bf16"])
    options = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", str(HERE.parent))
    table = options.mode(options)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
