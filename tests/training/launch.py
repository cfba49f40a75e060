"""Trainings in separate processes that can be killed, without the seconds that importing torch takes each time.

A server process imports sepclip once and then forks a child for every training (``multiprocessing``'s "forkserver");
the server itself has computed nothing, so that its children start in a clean state.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.processes import kill

CONTEXT = multiprocessing.get_context("forkserver")
# torch._dynamo is what the first optimizer imports, for longer than any of these trainings takes
CONTEXT.set_forkserver_preload(["sepclip.cli", "sepclip.training.loop", "tests.training.launch", "torch._dynamo"])
FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate"}


def start(arguments: Sequence[object], log: Path, *, die_at: int = 0, below: Path | None = None, **environment: str):
    """Start ``sepclip ARGUMENTS``; its output is appended to ``log``.

    ``die_at``: the process kills itself at the N-th operation on files ``below`` a folder.
    """
    words = [str(argument) for argument in arguments]
    process = CONTEXT.Process(target=_main, args=(words, str(log), die_at, str(below), environment))
    process.start()
    return process


def run(arguments: Sequence[object], log: Path, **options) -> tuple[int, str]:
    """Run ``sepclip ARGUMENTS``; return the exit code and its output, which is also appended to ``log``."""
    before = log.stat().st_size if log.exists() else 0
    process = start(arguments, log, **options)
    process.join(300)
    if process.exitcode is None:
        kill(process)
        pytest.fail(f"not finished after 300 s\n{log.read_text()}")
    with log.open() as file:
        file.seek(before)
        return process.exitcode, file.read()


def kill_after(process: BaseProcess, seconds: float) -> bool:
    """Kill a process after so many seconds; return whether it was still running."""
    process.join(seconds)
    if process.exitcode is not None:
        return False
    kill(process)
    return process.exitcode == -signal.SIGKILL


def _main(arguments: list[str], log: str, die_at: int, below: str, environment: dict[str, str]) -> None:
    handle = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.environ.update(environment)
    if die_at:
        _die(die_at, below)
    from sepclip.cli import main

    sys.argv = ["sepclip", *arguments]
    main(arguments)


def _die(at: int, below: str) -> None:
    count = 0

    def hook(event: str, details: tuple) -> None:
        nonlocal count
        if event in FILE_EVENTS and str(details[0]).startswith(below):
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
