"""Waiting for processes and for what they do; every wait has a deadline."""

import subprocess
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

AnyProcess = subprocess.Popen[str] | subprocess.Popen[bytes] | BaseProcess
END_SECONDS = 60.0  # that a killed process may take to end


def ended(pid: int) -> bool:
    """Return whether a process has ended, even if its parent has not waited for it (Linux only)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def exit_code(process: AnyProcess) -> int | None:
    """Return the exit code of a process, or None while it runs."""
    return process.poll() if isinstance(process, subprocess.Popen) else process.exitcode


def wait_until(
    condition: Callable[[], object], process: AnyProcess | None = None, *, seconds: float = 120.0, pause: float = 0.01
) -> None:
    """Wait until ``condition()`` is true.

    The test fails if that takes more than so many ``seconds``, or if ``process`` ends before; it is then killed.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None and exit_code(process) is not None and not condition():
            pytest.fail(f"the process ended with exit code {exit_code(process)} too early\n{_stderr(process)}")
        if time.monotonic() > deadline:
            if process is not None:
                kill(process)
            pytest.fail(f"waited {seconds:g} s in vain")
        time.sleep(pause)


def kill(process: AnyProcess) -> None:
    """Kill a process and wait for its end."""
    process.kill()
    if isinstance(process, subprocess.Popen):
        process.communicate(timeout=END_SECONDS)
    else:
        process.join(END_SECONDS)
        assert process.exitcode is not None


def _stderr(process: AnyProcess) -> str:
    """Return what an ended process has written to its stderr, if that is a pipe."""
    if not isinstance(process, subprocess.Popen) or process.stderr is None:
        return ""
    text = process.communicate(timeout=END_SECONDS)[1]
    return text if isinstance(text, str) else text.decode(errors="replace")
