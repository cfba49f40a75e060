"""A process of a training that dies ends the others, even if their main threads wait where nothing interrupts them."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

# the wait stands for a kernel of NCCL that waits for the other process: the main thread does not return
WAITS = """
import sys, time
from sepclip.training.distributed import joined
with joined() as ranks:
    print("joined", flush=True)
    time.sleep(float(sys.argv[1]))
"""


def start(rank: int, size: int, port: int, seconds: float) -> subprocess.Popen[str]:
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "RANK": str(rank)}
    return subprocess.Popen(
        [sys.executable, "-c", WAITS, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **where, "LOCAL_RANK": str(rank), "COLUMNS": "200"},
    )


def start_all(size: int, seconds: float) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(rank, size, port, seconds) for rank in range(size)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "joined\n"
    return processes


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_processes_that_wait_for_a_killed_one_end_with_a_message(killed: int) -> None:
    processes = start_all(3, 120)
    processes[killed].send_signal(signal.SIGKILL)
    began = time.monotonic()
    others = [process for process in processes if process is not processes[killed]]
    results = [process.communicate(timeout=60) for process in others]
    assert time.monotonic() - began < 30
    assert [process.returncode for process in others] == [1, 1]
    errors = [error for _, error in results if "another process of the training has ended" in error]
    # the store ends with the first process, and without it the others cannot agree on who prints the message
    assert len(errors) == 1 if killed else errors
    processes[killed].communicate()


def test_processes_that_end_normally_end_in_silence() -> None:
    for process in start_all(2, 0.2):
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "has ended" not in error
