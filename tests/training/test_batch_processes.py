"""Processes that make batches make the same ones as a single process, and none of them outlives the training."""

import errno
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sepclip.config.load import load_config
from sepclip.errors import UserError
from sepclip.mixing.batches import Batch, training_data
from sepclip.mixing.cache import WaveCache
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.training import batch_processes, hardware
from sepclip.training.batch_processes import BatchProcesses
from sepclip.training.feed import Feed
from tests.processes import ended, wait_until
from tests.training import launch
from tests.training.test_resume import command, step_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")


def make(step):
    waves = torch.full((3, 2, 5), float(step))
    return Batch(waves.sum(1), waves, (f"mixture {step}",), 1, 9)


def batches(make_batch, steps, count):
    """Return copies of the batches of ``steps``, and the ids of the processes that made them, which have ended."""
    processes = BatchProcesses(make_batch, steps, count)
    processes.start()
    try:
        pids = [process.pid for process in processes._processes]
        results = []
        for step in steps:
            batch = processes.batch(step)
            results.append(Batch(batch.mixture.clone(), batch.sources.clone(), batch.names, batch.first, batch.total))
        return results, pids
    finally:
        processes.end()


def alive(pids):
    """Return the processes that have not ended."""
    return [pid for pid in pids if not ended(pid)]


def children(pid):
    """Return the child processes of the main thread of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("steps", [range(0), range(3, 4), range(5), range(7, 20)])
def test_every_batch_arrives_complete(steps, count):
    results, pids = batches(make, steps, count)
    for step, batch in zip(steps, results, strict=True):
        expected = make(step)
        assert torch.equal(batch.mixture, expected.mixture)
        assert torch.equal(batch.sources, expected.sources)
        assert (batch.names, batch.first, batch.total) == (expected.names, expected.first, expected.total)
    assert len(pids) == max(0, min(count, len(steps) - 1))
    assert not alive(pids)


def test_processes_take_turns():
    def by_whom(step):
        return Batch(torch.full((1, 1), float(os.getpid())), torch.zeros(1, 2, 1))

    results, pids = batches(by_whom, range(8), 3)
    assert [int(batch.mixture) for batch in results] == [os.getpid(), *pids, *pids, pids[0]]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("gib", [0, 1e-4, 1])
def test_processes_make_the_batches_of_one_process(small_set: Path, dynamic, gib):
    def data(**more):
        return training_data(
            MixtureSet.open(small_set), segment=4000, batch_size=3, dynamic=dynamic, seed=0, memory_gib=gib, **more
        )

    results, _ = batches(data(shared_memory=True).batch, range(12), 3)
    expected = data()
    for step, batch in enumerate(results):
        assert torch.equal(batch.mixture, expected.batch(step).mixture)
        assert torch.equal(batch.sources, expected.batch(step).sources)
        assert batch.names == expected.batch(step).names


def test_a_file_that_one_process_has_read_is_not_read_again(tmp_path: Path):
    log = tmp_path / "log"

    def load(index):
        with log.open("a") as file:
            file.write(f"{index}\n")
        return np.full(1000, index, np.int16)

    kept = WaveCache(load, 1e6, shared=6)

    def make_batch(step):
        time.sleep(0.02)  # so that none reads what another is reading
        return Batch(torch.from_numpy(kept[step % 6].astype(np.float32)), torch.zeros(1))

    results, _ = batches(make_batch, range(1, 40), 2)
    assert all((batch.mixture == step % 6).all() for step, batch in enumerate(results, 1))
    assert len(log.read_text().split()) <= 8  # twice at the beginning, maybe, by both at once
    before = log.stat().st_size
    assert all((kept[index] == index).all() for index in range(6))  # here too
    assert log.stat().st_size == before


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (UserError("x.wav is truncated"), UserError, r"^x\.wav is truncated$"),
        (MemoryError("too much"), MemoryError, "too much"),
        (
            ZeroDivisionError("one"),
            RuntimeError,
            r"(?s)in a process that makes batches.*in broken.*ZeroDivisionError: one",
        ),
    ],
)
def test_an_error_is_raised_at_its_step(error, kind, message):
    def broken(step):
        if step == 4:
            raise error
        return make(step)

    processes = BatchProcesses(broken, range(9), 2)
    processes.start()
    for step in range(4):
        assert torch.equal(processes.batch(step).sources, make(step).sources)
    with pytest.raises(kind, match=message):
        processes.batch(4)
    assert torch.equal(processes.batch(5).sources, make(5).sources)
    processes.end()


def test_a_killed_process_is_reported_with_a_remedy():
    def killed(step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return make(step)

    with pytest.raises(UserError, match=r"was killed, possibly out of memory.*data\.memory_gib or data\.workers"):
        batches(killed, range(9), 2)


def test_a_process_killed_while_it_holds_the_lock_does_not_block_the_others():
    kept = WaveCache(lambda index: np.full(9, index, np.int16), 1e6, shared=99)

    def killed(step):
        if step == 2:
            kept._memory._lock.acquire()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2 * (step == 3))  # by then it is held
        return Batch(torch.from_numpy(kept[step].astype(np.float32)), torch.zeros(1))

    with pytest.raises(UserError, match="was killed"):
        batches(killed, range(1, 99), 3)


@pytest.mark.process  # started by Feed
@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_no_process_is_left_if_the_feed_ends_early(seconds):
    def slow(step):
        time.sleep(seconds)
        return make(step)

    for _ in range(5):
        before = children(os.getpid())
        with Feed(slow, 99, torch.device("cpu"), torch.float32, processes=4, ahead=True) as feed:
            pids = set(children(os.getpid())) - set(before)
            feed.batch(0)
        assert len(pids) == 4
        assert not alive(pids)


def test_batches_of_another_size_are_an_error():
    def growing(step):
        waves = torch.zeros(1 + (step > 2), 2, 5)
        return Batch(waves.sum(1), waves)

    with pytest.raises(RuntimeError, match=r"batches of .*1, 2\].* and .*2, 2\]"):
        batches(growing, range(9), 2)


def test_a_process_that_cannot_start_ends_the_others(monkeypatch):
    begun = []

    def fork():
        if len(begun) == 2:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        begun.append(real())
        return begun[-1]

    real = os.fork
    monkeypatch.setattr(batch_processes.os, "fork", fork)
    message = "process 3 of 4 .* cannot start: Resource temporarily unavailable.* data.workers=2"
    with pytest.raises(UserError, match=message):
        batches(make, range(9), 4)
    assert len(begun) == 2
    assert not alive(begun)


WORKERS = ("--set", "data.workers=2", "--steps", 100000, "--save-every", "60min", "--set", "train.valid_every=100000")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_is_handled_by_the_training_only(
    number: int, small_set: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    process = launch.start(command(small_set, run, *WORKERS), log)
    wait_until(lambda: (run / "metrics.jsonl").exists(), process)
    pids = children(process.pid)
    assert len(pids) == 2
    for pid in pids:
        os.kill(pid, signal.SIGUSR1)
        os.kill(pid, number)
    rows = len((run / "metrics.jsonl").read_text().splitlines())
    wait_until(lambda: len((run / "metrics.jsonl").read_text().splitlines()) > rows + 1, process)
    assert alive(pids) == pids
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == {signal.SIGINT: 130, signal.SIGTERM: 143}[signal.Signals(number)]
    assert step_of(run) > 0
    assert not alive(pids)
    assert log.read_text().count("saved at step") == 1


def test_a_kill_of_the_training_ends_its_processes_and_unlocks_the_run(small_set: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    process = launch.start(command(small_set, run, *WORKERS), log)
    wait_until(lambda: (run / "metrics.jsonl").exists(), process)
    pids = children(process.pid)
    for pid in pids:
        assert str(run) not in {os.path.realpath(handle) for handle in Path(f"/proc/{pid}/fd").iterdir()}
    process.kill()
    process.join(60)
    assert len(pids) == 2
    wait_until(lambda: not alive(pids), seconds=10)


@pytest.mark.parametrize(
    ("cores", "local", "device", "wanted", "expected", "readers"),
    [
        (2, 1, "cpu", "auto", 0, 2),
        (16, 1, "cuda", "auto", 8, 8),
        (4, 1, "cuda:1", "auto", 3, 4),
        (64, 8, "cuda", "auto", 7, 8),
        (8, 8, "cuda", "auto", 0, 1),
        (1, 1, "cuda", "auto", 0, 1),
        (2, 1, "cpu", 3, 3, 2),
        (16, 1, "cuda", 0, 0, 8),
    ],
)
def test_the_numbers_of_workers_and_readers_follow_cores_and_settings(
    monkeypatch, cores, local, device, wanted, expected, readers
):
    monkeypatch.setattr(hardware, "cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    config = load_config(settings=[f"device={device}", f"data.workers={wanted}", "threads=2"])
    assert hardware.worker_count(config) == expected
    assert hardware.reader_count(config) == readers
    monkeypatch.setattr(hardware.sys, "platform", "darwin")
    if wanted in ("auto", 0):
        assert hardware.worker_count(config) == 0
    else:
        with pytest.raises(UserError, match=r"data\.workers=3: processes that make batches need Linux"):
            hardware.worker_count(config)
