"""Batches made by processes of their own, so that a fast device waits neither for files nor for the interpreter."""

import gc
import mmap
import os
import signal
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from sepclip.errors import UserError
from sepclip.mixing.batches import Batch
from sepclip.parallel import die_with_parent

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # they come to all, and are for the training
_LOOK_EVERY_SECONDS = 1.0
_KILLED = (
    "a process that makes batches was killed, perhaps for want of memory: run the same command again, with a lower "
    "data.memory_gib or data.workers"
)


class BatchProcesses:
    """Makes the batches of ``steps`` in up to ``count`` forked processes, each of which makes every count-th one.

    A process has one batch ready, in memory that it shares with this one, and makes another meanwhile. The first of
    all is made here, before they begin: what it warns of is told once, and the others are of its size. The processes
    end with this one, however that ends. On Linux alone.
    """

    def __init__(self, make: Callable[[int], Batch], steps: range, count: int):
        self._make, self._steps = make, steps  # steps: those to come
        self._count = max(0, min(count, len(steps) - 1))
        self._processes: list[_Process] = []
        self._first: Batch | None = None
        self._turn = 0  # of the batches that processes have given
        self._given: _Process | None = None  # whose batch was given out last

    def begin(self) -> None:
        """Begin the processes, in the main thread, before anything else makes batches."""
        if self._count:
            self._first = self._make(self._steps[0])
            try:
                for index in range(self._count):
                    self._processes.append(_begin(self._make, self._steps[1 + index :: self._count], self._first))
            except BaseException as error:
                self.end()
                if not isinstance(error, OSError):
                    raise
                raise UserError(
                    f"process {len(self._processes) + 1} of {self._count} that make batches cannot begin: "
                    f"{error.strerror}; take fewer, by --set data.workers={len(self._processes)}"
                ) from error

    def end(self) -> None:
        """End all processes; a thread that waits for a batch of theirs gets a UserError."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def batch(self, step: int) -> Batch:
        """Return the batch of ``step``, which stays what it is up to the next call.

        One that is not the next is made here. Raises what went wrong in making it, and UserError where the process
        that was to make it is gone.
        """
        if self._given:
            self._given.batch_is_used()
            self._given = None
        if not self._processes or not self._steps or step != self._steps[0]:
            return self._make(step)
        self._steps = self._steps[1:]
        if self._first is not None:
            first, self._first = self._first, None
            return first
        self._given = self._processes[self._turn % len(self._processes)]
        self._turn += 1
        while not self._given.pipe.poll(_LOOK_EVERY_SECONDS):
            if any(process.was_killed() for process in self._processes):  # maybe holding the lock that this one wants
                raise UserError(_KILLED)
        return self._given.batch()


@dataclass
class _Process:
    """A process that makes batches into ``slot``, which is shared memory."""

    pid: int
    pipe: Connection
    slot: Batch

    def batch(self) -> Batch:
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise UserError(_KILLED) from error
        if isinstance(answer, BaseException):
            raise answer
        names, first, total = answer
        return replace(self.slot, names=names, first=first, total=total)

    def batch_is_used(self) -> None:
        with suppress(OSError):  # it is gone, which is told when its next batch is asked for
            self.pipe.send_bytes(b"used")

    def was_killed(self) -> bool:
        try:
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # and somebody has waited for it
            return True
        return ended is not None and ended.si_code != os.CLD_EXITED

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _begin(make: Callable[[int], Batch], steps: range, like: Batch) -> _Process:
    slot = replace(like, mixture=_shared(like.mixture), sources=_shared(like.sources))
    mine, its = Pipe()
    parent = os.getpid()
    with warnings.catch_warnings():  # of threads, whose locks a fork may catch held: none of ours makes batches yet
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            die_with_parent(parent)
            _work(make, steps, slot, its)
        finally:
            os._exit(0)  # and nothing of what the parent has to do at its end, on its GPU or its files
    its.close()
    return _Process(pid, mine, slot)


def _shared(like: Tensor) -> Tensor:
    """Return memory for a tensor like that one, shared with processes forked later."""
    return torch.frombuffer(mmap.mmap(-1, like.nbytes), dtype=like.dtype).view(like.shape)


def _work(make: Callable[[int], Batch], steps: range, slot: Batch, pipe: Connection) -> None:
    """Make one batch after the other; the last thing done by a process."""
    gc.freeze()  # what the parent has on a GPU is not to be freed here
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    try:
        _close_all_but(pipe.fileno())
        torch.set_num_threads(1)  # those of the parent do not outlive a fork
        for step in steps:
            made = make(step)
            if step != steps[0]:
                pipe.recv_bytes()  # the batch before has been used
            assert made.sources.shape == slot.sources.shape, f"batches of {slot.sources.shape} and {made.sources.shape}"
            slot.mixture.copy_(made.mixture)
            slot.sources.copy_(made.sources)
            pipe.send((made.names, made.first, made.total))
        pipe.recv_bytes()
    except Exception as error:  # noqa: BLE001 - it is raised again, where the batch is asked for
        known = isinstance(error, UserError | MemoryError)
        pipe.send(error if known else RuntimeError(f"in a process that makes batches:\n{traceback.format_exc()}"))


def _close_all_but(kept: int) -> None:
    """Close what the parent has open, standard streams aside: its lock on the run, its links to other processes."""
    for handle in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if handle > 2 and handle != kept:
            with suppress(OSError):  # the listing's own
                os.close(handle)
