import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from sepclip.training.profiling import STAGES, STEPS, VALIDATION, WARM_UP, stage, time_table
from tests.conftest import TINY, sepclip, train_tiny
from tests.training.test_loop import assert_same_run


def test_profile_shows_the_time_of_each_stage_and_changes_nothing(
    small_set: Path, tiny_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = train_tiny(small_set, run, "--profile", "--json")
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    (first,) = [index for index, line in enumerate(lines) if line.startswith(f"{STEPS} steps of ")]
    shares = {}
    for line in lines[first + 1 : first + 10]:
        name, number, unit, share = line.rsplit(maxsplit=3)
        assert unit == "ms"
        assert float(number) >= 0
        shares[name.strip()] = float(share.rstrip("%"))
    assert list(shares) == [*STAGES, VALIDATION, "idle and other"]
    assert sum(shares.values()) == pytest.approx(100, abs=0.5)
    assert all(shares[name] > 0 for name in ("forward", "backward"))
    assert json.loads(result.stdout)["steps"] == 20
    assert str(run / "trace.json.gz") in result.stderr.replace("\n", "")
    events = json.loads(gzip.decompress((run / "trace.json.gz").read_bytes()))["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert {name: names.count(name) for name in ("data", "backward", "clip", "optimizer")} == dict.fromkeys(
        ("data", "backward", "clip", "optimizer"), STEPS
    )
    assert names.count(VALIDATION) == 1  # after step 10, whose one batch is no step's
    assert names.count("forward") == names.count("STFT") == names.count("loss") == STEPS + 1
    assert_same_run(run, tiny_run)
    assert "already trained" in train_tiny(small_set, run, "--profile").stdout


def test_a_training_too_short_to_be_profiled_prints_a_warning(small_set: Path, tmp_path: Path) -> None:
    settings = [part for setting in TINY for part in ("--set", setting)]
    command = ("train", small_set, "--run", tmp_path / "run", *settings, "--steps", WARM_UP - 1, "--profile")
    result = sepclip(*command)
    assert result.returncode == 0, result.stderr
    assert f"within its first {WARM_UP} steps" in result.stderr
    assert not (tmp_path / "run" / "trace.json.gz").exists()


def event(name: str, start: float, end: float, kind: DeviceType = DeviceType.CPU) -> SimpleNamespace:
    time_range = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
    return SimpleNamespace(name=name, time_range=time_range, device_type=kind)


def test_table_of_a_known_training() -> None:
    # two steps of 10 ms: 1 of data, 4 forward, 3 backward, 2 of other things, in one of them a validation of 1;
    # kernels overlap and reach beyond the end
    events = [
        event("ProfilerStep#5", 0, 10_000),
        event("ProfilerStep#6", 10_000, 20_000),
        *(event("data", at, at + 1000) for at in (0, 10_000)),
        *(event("forward", at, at + 4000) for at in (1000, 11_000)),
        event("aten::mm", 1000, 3000),
        *(event("backward", at, at + 3000) for at in (5000, 15_000)),
        event("validation", 18_000, 19_000),
        event("forward", 18_000, 18_900),
        event("gemm", 2000, 8000, DeviceType.CUDA),
        event("gemm", 4000, 6000, DeviceType.CUDA),
        event("adam", 17_000, 21_000, DeviceType.CUDA),
        event("forward", 0, 20_000, DeviceType.CUDA),  # torch's own range on the GPU's line
    ]
    first, *rows, gpu = time_table(events)
    assert first == "2 steps of 10.0 ms each, of which on average:"
    assert {row.split()[0]: row.split()[-3:] for row in rows} == {
        "data": ["1.00", "ms", "10.0%"],
        "STFT": ["0.00", "ms", "0.0%"],
        "forward": ["4.00", "ms", "40.0%"],
        "loss": ["0.00", "ms", "0.0%"],
        "backward": ["3.00", "ms", "30.0%"],
        "clip": ["0.00", "ms", "0.0%"],
        "optimizer": ["0.00", "ms", "0.0%"],
        "validation": ["0.50", "ms", "5.0%"],
        "idle": ["1.50", "ms", "15.0%"],
    }
    assert gpu == "  the GPU was busy 45.0% of the time"  # 2 to 8 and 17 to 20 ms
    assert len(time_table([e for e in events if e.device_type == DeviceType.CPU])) == 10


def test_a_stage_does_nothing_without_a_profiler() -> None:
    assert type(stage("data")).__name__ == "nullcontext"
    with torch.profiler.profile() as profiler, stage("data"):
        pass
    assert "data" in {e.key for e in profiler.key_averages()}
