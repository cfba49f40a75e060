"""A training shared by processes gives the results of one process. Started as by torchrun, with gloo on the CPU."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sepclip.mixing.mixture_set import MixtureSet
from sepclip.training import checkpoint
from tests.conftest import TINY
from tests.processes import wait_until
from tests.training import launch

# five excerpts a step are shared unevenly by two and by four
EXACT = [*TINY, "precision=fp64", "model.layers=2", "model.dropout=0", "data.batch_size=5", "train.log_every=1"]
EXACT += ["train.valid_every=3", "data.segment_frames=40", "device=cpu"]
STEPS = 7


def command(data: Path, run: Path, *more: object) -> list[object]:
    return ["train", data, "--run", run, "--steps", STEPS, *(p for s in EXACT for p in ("--set", s)), *more]


def start_all(size: int, arguments: list[object], folder: Path) -> list:
    """Start the processes of a training; each writes its output to ``folder/log RANK``."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
    return [
        launch.start(arguments, folder / f"log {rank}", RANK=str(rank), LOCAL_RANK=str(rank), **where)
        for rank in range(size)
    ]


def end_all(processes: list, folder: Path) -> tuple[list[int], list[str]]:
    """Wait for all processes; return their exit codes and outputs."""
    for process in processes:
        process.join(120)
    return [p.exitcode for p in processes], [(folder / f"log {rank}").read_text() for rank in range(len(processes))]


def trained(size: int, arguments: list[object], folder: Path) -> list[str]:
    codes, outputs = end_all(start_all(size, arguments, folder), folder)
    assert codes == [0] * size, outputs
    return outputs


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_alike(run: Path, whole: Path, tolerance: float = 1e-6) -> None:
    """Assert that losses, norms, thresholds, scores and weights of two runs are equal within a tolerance."""
    run_rows, whole_rows = rows(run), rows(whole)
    assert [row["step"] for row in run_rows] == [row["step"] for row in whole_rows]
    for one, other in zip(run_rows, whole_rows, strict=True):
        for key in ("loss", "grad_norm", "threshold", "clipped_share", "valid_loss", "valid_si_sdr_improvement"):
            assert one.get(key) == (pytest.approx(other[key], rel=tolerance) if other.get(key) is not None else None)
    weights, expected = (load_file(path / "checkpoints" / "last" / checkpoint.WEIGHTS) for path in (run, whole))
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=tolerance, atol=1e-9)


@pytest.fixture(scope="module", params=["mi", "dc"])
def whole(request: pytest.FixtureRequest, small_set: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return the name of a loss, and its run by one process."""
    folder = tmp_path_factory.mktemp("whole")
    code, outputs = launch.run(command(small_set, folder / "run", "--loss", request.param), folder / "log")
    assert code == 0, outputs
    return request.param, folder / "run"


def test_two_processes_give_the_run_of_one(whole, small_set: Path, tmp_path: Path) -> None:
    loss, alone = whole
    more = ("--loss", loss, "--set", "data.workers=2")
    first, second = trained(2, command(small_set, tmp_path / "run", *more), tmp_path)
    assert_alike(tmp_path / "run", alone)
    assert "is trained: 7 steps" in first
    assert second == ""  # only the first speaks


def test_a_step_in_parts_gives_the_run_of_whole_steps(whole, small_set: Path, tmp_path: Path) -> None:
    loss, alone = whole
    more = ("--loss", loss, "--set", "train.accumulate=3")
    assert launch.run(command(small_set, tmp_path / "run", *more), tmp_path / "log")[0] == 0
    assert_alike(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [(), ("--dynamic",), ("--set", "train.accumulate=2"), ("--set", "model.input_norm=bins")]
)
def test_four_processes_give_the_run_of_one(more: tuple[str, ...], small_set: Path, tmp_path: Path) -> None:
    assert launch.run(command(small_set, tmp_path / "alone", *more), tmp_path / "log")[0] == 0
    trained(4, command(small_set, tmp_path / "run", *more), tmp_path / "four")
    assert_alike(tmp_path / "run", tmp_path / "alone")


def test_a_run_resumes_with_another_number_of_processes(whole, small_set: Path, tmp_path: Path) -> None:
    loss, alone = whole
    run = tmp_path / "run"
    trained(2, command(small_set, run, "--loss", loss, "--steps", 4), tmp_path)
    code, outputs = launch.run(command(small_set, run, "--loss", loss, "--steps", 6), tmp_path / "log")
    assert code == 0
    assert f"resuming {run} at step 4" in outputs
    trained(2, command(small_set, run, "--loss", loss), tmp_path)
    assert rows(run)[-1]["step"] == STEPS
    weights, expected = (load_file(path / "checkpoints" / "last" / checkpoint.WEIGHTS) for path in (run, alone))
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-6, atol=1e-9)


def steps_of_a_rank(data: str, run: str, history: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    from sepclip.config.load import load_config
    from sepclip.training.distributed import joined
    from sepclip.training.loop import Training, _train
    from sepclip.training.run import Run
    from sepclip.training.signals import SignalRequests

    config = load_config(settings=[*EXACT, "precision=fp32", "model.dropout=0.3", "train.steps=12", "clip=auto:40"])
    mixtures = MixtureSet.open(Path(data))
    with joined() as ranks, SignalRequests() as requests:
        opened = ranks.first_then_others(
            lambda: Run.start_or_resume(Path(run), config, mixtures), lambda: Run.open(Path(run))
        )
        training = Training.prepare(opened, mixtures, ranks)
        _train(training, requests)
    torch.save([training.state.clip.state_dict(), training.state.separator.state_dict()], history)


def test_histories_and_weights_are_equal_to_the_last_bit_in_all_processes(small_set: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    children = []
    for rank in ("0", "1"):
        child_arguments = (
            str(small_set),
            str(tmp_path / "run"),
            str(tmp_path / rank),
            {**where, "RANK": rank, "LOCAL_RANK": rank},
        )
        children.append(launch.CONTEXT.Process(target=steps_of_a_rank, args=child_arguments))
        children[-1].start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    (clip, weights), (other_clip, other_weights) = (torch.load(tmp_path / rank) for rank in ("0", "1"))
    assert clip == other_clip
    assert len(clip["histories"][""]) == 12
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


@pytest.mark.parametrize(("split", "workers"), [("cv", 0), ("tr", 0), ("tr", 2)])
def test_an_unreadable_file_in_one_process_stops_all_with_one_message(
    split, workers, small_set: Path, tmp_path: Path
) -> None:
    data = tmp_path / "set"
    shutil.copytree(small_set, data)
    recipes = MixtureSet.open(data).recipes(split)
    wave = data / split / "s1" / f"{recipes[-1].name}.wav"  # cv: of the second batch, which the second one validates
    wave.write_bytes(wave.read_bytes()[:1000])
    more = ("--set", "data.batch_size=2", "--set", f"data.workers={workers}", "--steps", 20)
    codes, outputs = end_all(start_all(2, command(data, tmp_path / "run", *more), tmp_path), tmp_path)
    assert codes == [1, 1], outputs
    messages = [line for line in "".join(outputs).splitlines() if "error" in line or "Traceback" in line]
    assert len(messages) == 1
    assert wave.name in messages[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_process_stops_all_with_one_message(workers, small_set: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = ("--steps", 100000, "--save-every", 2, "--set", f"data.workers={workers}")
    processes = start_all(2, command(small_set, run, *more), tmp_path)
    wait_until(lambda: (run / "checkpoints" / "last").exists(), processes[1])
    processes[1].kill()
    codes, outputs = end_all(processes, tmp_path)
    assert codes == [1, -signal.SIGKILL], outputs
    assert "another process of the training has ended" in outputs[0]
    assert "Traceback" not in "".join(outputs)


def test_a_non_finite_step_stops_all_with_one_message(small_set: Path, tmp_path: Path) -> None:
    more = ("--on-nonfinite", "stop", "--set", "optimizer.learning_rate=3e38", "--set", "precision=fp32", "--steps", 99)
    codes, outputs = end_all(start_all(2, command(small_set, tmp_path / "run", *more), tmp_path), tmp_path)
    assert codes == [1, 1], outputs
    everything = "".join(outputs)
    assert everything.count("loss or gradient is not finite in mixtures") == 1
    assert "Traceback" not in everything
    (kept,) = (tmp_path / "run" / "nonfinite").iterdir()
    assert torch.load(kept)["mixture"].shape[0] == 5  # of all processes


def test_a_signal_to_one_process_saves_and_stops_all(small_set: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = start_all(2, command(small_set, run, "--steps", 100000, "--save-every", "60min"), tmp_path)
    wait_until(lambda: (run / "checkpoints" / "last").exists(), processes[1])
    os.kill(processes[1].pid, signal.SIGTERM)
    codes, outputs = end_all(processes, tmp_path)
    assert codes == [143, 143], outputs
    assert "".join(outputs).count("the same command resumes") == 1


def test_settings_that_processes_cannot_share_are_refused(small_set: Path, tmp_path: Path) -> None:
    for more, words in (
        (("--set", "data.batch_size=1"), "2 processes cannot share 1 excerpts a step"),
        (("--dynamics", "every=2"), "only for trainings of one process"),
        (("--clip", "nonsense"), "nonsense"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        codes, outputs = end_all(start_all(2, command(small_set, folder / "run", *more), folder), folder)
        assert codes == [1, 1], outputs
        messages = [one for one in outputs if one]
        assert len(messages) == 1, outputs
        assert words in messages[0]
        assert messages[0].count("error:") == 1
    code, outputs = launch.run(command(small_set, tmp_path / "run"), tmp_path / "log", WORLD_SIZE="2")
    assert code == 1
    assert "WORLD_SIZE is set but not RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT" in outputs


@pytest.mark.slow
def test_torchrun_training_saves_when_it_is_stopped(small_set: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sepclip"]
    more = ["--", *command(small_set, run, "--steps", 100000, "--save-every", "60min")]
    process = subprocess.Popen(list(map(str, [*start, *more])), stderr=subprocess.PIPE, text=True)
    wait_until((run / "checkpoints" / "last").exists, process)
    process.send_signal(signal.SIGTERM)
    _, outputs = process.communicate(timeout=120)
    assert outputs.count("the same command resumes") == 1
    more[more.index(100000)] = checkpoint.load_progress(run / "checkpoints" / "last").step + 100001
    assert rows(run)[-1]["step"] <= checkpoint.load_progress(run / "checkpoints" / "last").step


def user_errors(data: Path, tiny_run: Path, folder: Path) -> dict[str, tuple[list[object], str]]:
    """Return kinds of errors: in all processes at once, in the first only, and in the last only during training."""
    broken = folder / "broken"
    shutil.copytree(data, broken)
    wave = broken / "cv" / "s1" / f"{MixtureSet.open(broken).recipes('cv')[-1].name}.wav"
    wave.write_bytes(wave.read_bytes()[:1000])
    damaged = folder / "damaged"
    shutil.copytree(tiny_run, damaged)
    (damaged / "checkpoints" / "last" / checkpoint.REST).write_bytes(b"damaged")
    other = folder / "other"
    other.mkdir()
    (other / "thesis.txt").touch()
    small = ("--set", "data.batch_size=2", "--steps", 20)
    tiny = ["train", data, "--run", damaged, "--steps", 30, *(part for setting in TINY for part in ("--set", setting))]
    return {
        "unknown key": (command(data, folder / "a", "--set", "model.layer=2"), "did you mean model.layers"),
        "no set": (command(folder / "nowhere", folder / "b"), "nowhere"),
        "folder of something else": (command(data, other), "already contains something else"),
        "damaged checkpoint": (tiny, "is damaged"),
        "unreadable file of one process": (command(broken, folder / "c", *small), wave.name),
    }


def test_errors_are_printed_every_time_although_the_first_end_ends_all(
    small_set: Path, tiny_run: Path, tmp_path: Path
) -> None:
    """As torchrun does, but without its seconds of imports: once a process has ended, the others are terminated."""
    for name, (arguments, words) in user_errors(small_set, tiny_run, tmp_path).items():
        for number in range(10):
            folder = tmp_path / f"{name} {number}"
            processes = start_all(2, arguments, folder)
            wait([process.sentinel for process in processes], 120)
            for process in processes:
                process.terminate()
            _, outputs = end_all(processes, folder)
            errors = [line for line in "".join(outputs).splitlines() if "error:" in line]
            assert len(errors) == 1, (name, outputs)
            assert words in errors[0], name
            assert "Traceback" not in "".join(outputs)


@pytest.mark.slow
def test_errors_are_printed_under_torchrun(small_set: Path, tiny_run: Path, tmp_path: Path) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sepclip"]
    for name, (arguments, words) in user_errors(small_set, tiny_run, tmp_path).items():
        for _ in range(2):
            line = list(map(str, [*start, "--", *arguments]))
            result = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
            assert result.returncode == 1
            errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
            assert len(errors) == 1, (name, result.stderr)
            assert words in errors[0], name
