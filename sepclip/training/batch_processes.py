"""Processes that make batches, so that a fast device waits neither for files nor for the Python interpreter."""

import gc
import mmap
import os
import signal
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from sepclip.errors import UserError
from sepclip.mixing.batches import Batch
from sepclip.parallel import die_with_parent

# signals sent to the whole process group, which the training handles
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_CHECK_EVERY_SECONDS = 1.0  # between two looks at whether a process was killed
_KILLED = (
    "a process that makes batches was killed, possibly out of memory: run the same command again, with a lower "
    "data.memory_gib or data.workers"
)


class BatchProcesses:
    """Makes the batches of ``steps`` in up to ``count`` forked processes, each of which makes every count-th one.

    Each process has one batch ready, in memory that it shares with this one, and makes another meanwhile. The very
    first batch is made here, before they start: its warnings are printed once, and all others are of its size, or have
    excerpts of up to ``longest`` samples. The processes end with this one, however that ends. Linux only.
    """

    def __init__(self, make: Callable[[int], Batch], steps: range, count: int, longest: int | None = None):
        self._make, self._next_steps, self._longest = make, steps, longest
        self._count = max(0, min(count, len(steps) - 1))
        self._processes: list[_Process] = []
        self._first: Batch | None = None
        self._taken = 0  # number of batches taken from processes
        self._lender: _Process | None = None  # the process whose batch was returned last

    def start(self) -> None:
        """Start the processes. Call it in the main thread, before anything else makes batches.

        Raises UserError if the system does not allow as many processes.
        """
        if self._count:
            self._first = self._make(self._next_steps[0])
            # if one cannot start, end those already started, which would keep memory until this process ends
            try:
                # step k always belongs to the same process, so no queue of tasks is needed
                for index in range(self._count):
                    steps = self._next_steps[1 + index :: self._count]
                    self._processes.append(_fork(self._make, steps, self._first, self._longest))
            except BaseException as error:
                self.end()
                if not isinstance(error, OSError):
                    raise
                raise UserError(
                    f"process {len(self._processes) + 1} of {self._count} that make batches cannot start: "
                    f"{error.strerror}; use fewer: --set data.workers={len(self._processes)}"
                ) from error

    def end(self) -> None:
        """End all processes; a thread that is waiting for one of their batches gets a UserError."""
        # kill all before waiting for any, since ends overlap then; SIGKILL because they ignore the other signals
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def batch(self, step: int) -> Batch:
        """Return the batch of ``step``. It is valid up to the next call, which overwrites it.

        A batch that is not the next one is made here. Raises the error that making it raised, and UserError if the
        process that makes it was killed.
        """
        # the previous batch is no longer used: its process may overwrite it
        if self._lender:
            self._lender.release_batch()
            self._lender = None
        if not self._processes or not self._next_steps or step != self._next_steps[0]:
            return self._make(step)
        self._next_steps = self._next_steps[1:]
        if self._first is not None:
            first, self._first = self._first, None
            return first
        # the processes take turns; a killed one may hold the lock that this one is waiting for, so look at all
        self._lender = self._processes[self._taken % len(self._processes)]
        self._taken += 1
        while not self._lender.pipe.poll(_CHECK_EVERY_SECONDS):
            if any(process.was_killed() for process in self._processes):
                raise UserError(_KILLED)
        return self._lender.batch()


@dataclass
class _Process:
    """A process that writes batches into ``slot``, shared memory for the mixtures and for the sources of a batch."""

    pid: int
    pipe: Connection
    slot: tuple[Tensor, Tensor]

    def batch(self) -> Batch:
        """Return the next batch. Raises the error that making it raised, and UserError if the process was killed."""
        try:
            # only shapes and names pass through the pipe; the samples are in the slot already
            message = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise UserError(_KILLED) from error
        if isinstance(message, BaseException):
            raise message
        shapes, names, first, total = message
        mixture, sources = (flat[: shape.numel()].view(shape) for flat, shape in zip(self.slot, shapes, strict=True))
        return Batch(mixture, sources, names, first, total)

    def release_batch(self) -> None:
        """Let the process overwrite its last batch."""
        with suppress(OSError):  # a process that has ended is reported when its next batch is needed
            self.pipe.send_bytes(b"used")

    def was_killed(self) -> bool:
        """Return whether a signal has ended the process."""
        try:
            status = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # it has ended, and its status was already taken
            return True
        return status is not None and status.si_code != os.CLD_EXITED

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _fork(make: Callable[[int], Batch], steps: range, like: Batch, longest: int | None) -> _Process:
    """Start a process that makes the batches of ``steps``: of the size of ``like``, or of up to ``longest`` samples."""
    # anonymous memory must be mapped before the fork, or the child would write into memory of its own
    slot = _shared_tensor(like.mixture, longest), _shared_tensor(like.sources, longest)
    parent_end, child_end = Pipe()
    parent = os.getpid()
    # Python warns that other threads may hold locks at the time of a fork: none of ours makes batches yet
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        # forked, not started fresh: nothing has to be pickled, and the waves read so far are shared
        pid = os.fork()
    if pid == 0:
        try:
            die_with_parent(parent)
            _make_batches(make, steps, slot, child_end, like.sources.shape[:-1])
        finally:
            os._exit(0)  # skips the exit handlers of the parent, which belong to its GPU and files
    child_end.close()
    return _Process(pid, parent_end, slot)


def _shared_tensor(like: Tensor, longest: int | None) -> Tensor:
    """Return a flat tensor in memory shared with processes that are forked later.

    It has room for a tensor of the type and shape of ``like`` (..., T), with ``longest`` in place of T if that is more.
    """
    rows, samples = like.shape[:-1].numel(), max(like.shape[-1], longest or 0)
    return torch.frombuffer(mmap.mmap(-1, rows * samples * like.element_size()), dtype=like.dtype)


def _make_batches(
    make: Callable[[int], Batch], steps: range, slot: tuple[Tensor, Tensor], pipe: Connection, rows: torch.Size
) -> None:
    """Make the batches of ``steps`` in a forked process, one after the other, and send each through ``pipe``.

    All have as many excerpts and sources as ``rows`` (B, S) says.
    """
    gc.freeze()  # the parent's objects on a GPU must not be freed here
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    try:
        _close_all_but(pipe.fileno())
        torch.set_num_threads(1)  # the parent's threads do not survive a fork
        # make each batch while the previous one is still used, then wait until the slot is free
        for step in steps:
            batch = make(step)
            if step != steps[0]:
                pipe.recv_bytes()
            assert batch.sources.shape[:-1] == rows, f"batches of {rows} and {batch.sources.shape[:-1]}"
            for flat, tensor in zip(slot, (batch.mixture, batch.sources), strict=True):
                flat[: tensor.numel()].view(tensor.shape).copy_(tensor)
            pipe.send(((batch.mixture.shape, batch.sources.shape), batch.names, batch.first, batch.total))
        pipe.recv_bytes()  # the last batch is in use until then
    except Exception as error:  # noqa: BLE001 - the parent raises it again when it needs the batch
        known = isinstance(error, UserError | MemoryError)
        pipe.send(error if known else RuntimeError(f"in a process that makes batches:\n{traceback.format_exc()}"))


def _close_all_but(kept: int) -> None:
    """Close the parent's open files except the standard streams and ``kept``: its lock on the run, its other pipes."""
    for handle in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if handle > 2 and handle != kept:
            with suppress(OSError):  # the handle of the listing itself is closed already
                os.close(handle)
