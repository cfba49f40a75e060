"""The same work on many files at once: in threads, or in processes where Python itself would be what all wait for."""

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

_CHUNK = 4  # items that a process gets at a time: few enough that none has much left to do at the end
_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of processors in so many of time
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def cores() -> int:
    """Return how many cores: a batch system may grant fewer than there are, and a container's limit pay for fewer."""
    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(granted, int(quota) // int(period)))
    except (OSError, ValueError):  # no such limit, or "max"
        return granted


def in_threads(
    function: Callable[[A], B], items: Sequence[A], description: str, jobs: int | None = None
) -> Iterator[B]:
    """Yield ``function`` of each item, in order, from ``jobs`` threads (None: one a core), under a progress bar.

    Threads are enough where the work is in reading and in large arrays, which release the interpreter.
    """
    pool = ThreadPoolExecutor(jobs or cores())
    try:
        yield from track(pool.map(function, items), len(items), description)
    finally:
        pool.shutdown(cancel_futures=True)  # an error or Ctrl-C does not wait for the rest


def in_processes(
    function: Callable[[A], B], items: Sequence[A], description: str, jobs: int | None = None
) -> Iterator[B]:
    """Yield ``function`` of each item, in order, from ``jobs`` processes (None: one a core), as :func:`in_threads`.

    Work of some milliseconds in many small steps waits half of the time for the interpreter where threads share it.
    What ``function`` returns or raises is pickled, the function and the items are not: the processes are forked. That
    is safe where nothing else runs in this one; elsewhere, and where torch is loaded, whose threads do not outlive a
    fork, threads do the work. Raises UserError where a process was killed.
    """
    count = min(jobs or cores(), -(-len(items) // _CHUNK))
    if count < 2 or not _may_fork():
        yield from in_threads(function, items, description, jobs)
        return
    try:
        pool = ProcessPoolExecutor(count, multiprocessing.get_context("fork"), _begin, (function, items, os.getpid()))
        with warnings.catch_warnings():  # of the threads that BLAS has ready: it sees to them itself
            warnings.simplefilter("ignore", DeprecationWarning)
            found = pool.map(_work, range(len(items)), chunksize=_CHUNK)
    except (OSError, NotImplementedError):  # no more processes allowed, or no shared memory for their queues
        yield from in_threads(function, items, description, jobs)
        return
    try:
        yield from track(found, len(items), description)
    except BrokenProcessPool as error:
        raise UserError(
            f"a process was killed while {description}, perhaps for want of memory: run the same command again, with "
            f"fewer --jobs than {count}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def end_with(parent: int) -> None:
    """Make this forked process end when its ``parent`` does, however that ends. On Linux alone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _may_fork() -> bool:
    return sys.platform == "linux" and "torch" not in sys.modules and threading.active_count() == 1


_task: tuple[Callable[[Any], Any], Sequence[Any]]  # of a forked process


def _begin(function: Callable[[Any], Any], items: Sequence[Any], parent: int) -> None:
    """Make a forked process end with its parent, and leave Ctrl-C to it."""
    global _task
    _task = function, items
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with(parent)


def _work(index: int) -> Any:
    function, items = _task
    return function(items[index])
