"""Threads and processes: the same results in the same order, and none of them outlives what started it."""

import json
import signal
import subprocess
import sys

import pytest

from sepclip.parallel import in_processes, in_threads
from tests.audio.fresh import python
from tests.conftest import sepclip
from tests.corpora import test_wsj0
from tests.mixing.conftest import tree
from tests.processes import ended, wait_until

_SQUARES = """
import json, os
from sepclip.parallel import in_processes
found = list(in_processes(lambda number: (number**2, os.getpid()), range(200), "squaring", {jobs}))
print(json.dumps([[square for square, _ in found], len({{pid for _, pid in found}} - {{os.getpid()}})]))
"""
_ERRORS = """
import os, signal
from pathlib import Path
from sepclip.audio.files import BadSound
from sepclip.errors import UserError
from sepclip.parallel import in_processes
def work(number):
    if number == 50:
        {error}
try:
    list(in_processes(work, range(100), "working", 2))
except UserError as error:
    print(type(error).__name__, error, getattr(error, "reason", ""))
"""
_SLEEPERS = r"""
import os, sys, time
from sepclip.parallel import in_processes
def work(number):
    os.write(1, f"{os.getpid()}\n".encode())  # at once, for two write
    time.sleep(60)
list(in_processes(work, range(8), "sleeping", 2))
"""


@pytest.mark.parametrize("work", [in_threads, in_processes])
def test_the_order_is_kept_and_errors_are_handed_on(work):
    assert list(work(lambda number: number**2, range(200), "", 3)) == [number**2 for number in range(200)]
    with pytest.raises(ZeroDivisionError):
        list(work(lambda number: 1 // (number - 50), range(100), "", 3))
    assert list(work(lambda number: number, [], "")) == []


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
@pytest.mark.parametrize(
    ("before", "jobs", "processes"),
    [("", 3, True), ("", 1, False), ("import torch", 3, False), ("import threading; threading.Timer(9, int)", 3, True)],
)
def test_processes_work_where_it_is_safe(before, jobs, processes):
    squares, others = json.loads(python(before + _SQUARES.format(jobs=jobs)))
    assert squares == [number**2 for number in range(200)]
    assert (others > 0) == processes


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("raise BadSound(Path('a.wav'), 'silent')", "BadSound a.wav: silent silent"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "UserError a process was killed while working"),
    ],
)
def test_what_goes_wrong_in_a_process_is_told(error, told):
    assert python(_ERRORS.format(error=error)).startswith(told)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_a_killed_command_leaves_no_process_behind():
    with subprocess.Popen([sys.executable, "-c", _SLEEPERS], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        pids = [int(running.stdout.readline()) for _ in range(2)]
        assert running.pid not in pids
        running.send_signal(signal.SIGKILL)
    wait_until(lambda: all(map(ended, pids)), seconds=10)


def test_the_command_line_makes_the_same_set_with_any_number_of_processes(tmp_path):
    root = test_wsj0.make_wsj0(tmp_path / "discs")
    rows = [
        (*row[:1], round(row[1] + 0.01 * index, 4), *row[2:]) for index in range(6) for row in test_wsj0.PAIRS["tr"]
    ]
    lists = test_wsj0.make_lists(tmp_path / "lists", {**test_wsj0.PAIRS, "tr": rows})
    trees = []
    for jobs in (1, 3):
        out = tmp_path / f"{jobs}"
        result = sepclip("prepare", "wsj0-2mix", root, out, "--lists", lists, "--jobs", jobs)
        assert result.returncode == 0, result.stderr
        trees.append(tree(out))
    assert trees[0] == trees[1]
    assert len([name for name in trees[0] if name.endswith(".wav")]) > 30
