"""The same function on many files at once, in threads or in processes.

- ``cores``: how many cores this process may use.
- ``in_threads``: for work that releases the interpreter lock, such as reading files and operations on large arrays.
- ``in_processes``: for work in many small steps of Python, which threads would serialise.
- ``die_with_parent``: for a forked process that must not outlive the process that started it.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from sepclip.errors import UserError
from sepclip.terminal import track

A = TypeVar("A")
B = TypeVar("B")

_CHUNK = 4  # items handed to a process at a time: few, so that all processes finish at about the same time
_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: CPU time allowed per period, both in microseconds, or "max"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def cores() -> int:
    """Return the number of cores that this process may use.

    A batch system may grant fewer than the machine has (the affinity), and a container's CPU quota may allow fewer.
    """
    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(granted, int(quota) // int(period)))
    except (OSError, ValueError):  # there is no quota, or it is "max"
        return granted


def in_threads(
    function: Callable[[A], B], items: Sequence[A], description: str, jobs: int | None = None
) -> Iterator[B]:
    """Yield ``function(item)`` for each item, in order, computed by ``jobs`` threads, with a progress bar.

    ``jobs`` is the number of cores if None. An error in ``function`` is raised here, and the remaining items are
    cancelled.
    """
    pool = ThreadPoolExecutor(jobs or cores())
    try:
        yield from track(pool.map(function, items), len(items), description)
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, do not wait for the remaining items


def in_processes(
    function: Callable[[A], B], items: Sequence[A], description: str, jobs: int | None = None
) -> Iterator[B]:
    """Yield ``function(item)`` for each item, in order, computed by ``jobs`` processes, as :func:`in_threads` does.

    In threads, work of a few milliseconds in many small steps waits half of its time for the interpreter lock.

    The processes are forked, so only what ``function`` returns or raises is pickled, not the function or the items. A
    fork is safe on Linux if this process has a single thread and has not loaded torch, whose threads do not survive a
    fork. Otherwise the work is done in threads. Raises UserError if a process was killed.
    """
    count = min(jobs or cores(), -(-len(items) // _CHUNK))
    if count < 2 or not _may_fork():
        yield from in_threads(function, items, description, jobs)
        return
    context = multiprocessing.get_context("fork")
    try:
        pool = ProcessPoolExecutor(count, context, _start_worker, (function, items, os.getpid()))
    except (OSError, NotImplementedError):  # no shared memory for the queues of the pool
        yield from in_threads(function, items, description, jobs)
        return
    try:
        try:
            # Python warns about a fork beside other threads: here those of BLAS, which handles forks itself
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                results = pool.map(_run_item, range(len(items)), chunksize=_CHUNK)
        except OSError:  # a limit on the number of processes
            results = None
        if results is not None:
            yield from track(results, len(items), description)
            return
    except BrokenProcessPool as error:
        raise UserError(
            f"a process was killed while {description}, possibly out of memory: run the same command again with fewer "
            f"--jobs than {count}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, even while items are still being handed out
    yield from in_threads(function, items, description, jobs)


def die_with_parent(parent: int) -> None:
    """Make this forked process end when the process ``parent`` ends, even if it is killed. Linux only."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the call above
        os._exit(1)


def _may_fork() -> bool:
    return sys.platform == "linux" and "torch" not in sys.modules and threading.active_count() == 1


_task: tuple[Callable[[Any], Any], Sequence[Any]]  # the function and the items, in a forked process


def _start_worker(function: Callable[[Any], Any], items: Sequence[Any], parent: int) -> None:
    """Prepare a forked process: it ends with its parent, which alone handles Ctrl-C."""
    global _task
    _task = function, items
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(parent)


def _run_item(index: int) -> Any:
    function, items = _task
    return function(items[index])
