"""A training shared by several processes that torchrun starts: their ranks, and the data they exchange.

Gradients are summed explicitly, in one buffer per step, instead of by DistributedDataParallel: see docs/DECISIONS.md.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sepclip.errors import EXIT_USER_ERROR, Stopped, UserError, is_out_of_memory
from sepclip.mixing.batches import Share
from sepclip.terminal import enable_output, print_error
from sepclip.training.lifeline import lifeline

T = TypeVar("T")
# keys of the shared store: the rank of the process that reports a failure; whether it has; the number of processes that
# have ended
_FAILED, _PRINTED, _ENDED = "sepclip/failed", "sepclip/printed", "sepclip/ended"
_PRINT_SECONDS = 30.0  # that the others wait for the report, before torchrun ends all processes because one has ended
_FAREWELL_SECONDS = 2.0  # that the reporting process waits for the others to end
_LOST = (
    "another process of the training has ended: its own message, or the system log (out of memory?), gives the reason; "
    "the same command resumes"
)
_PATIENCE = timedelta(minutes=30)  # that a process waits for another one, which may be validating or saving


class PeerLost(UserError):
    """Another process of the training has ended."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of a training: ``rank`` of ``size``, on GPU ``local`` of its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the one process that writes files and prints."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """The part of every batch that this process works on."""
        return Share(self.rank, self.size)

    def device(self, device: torch.device) -> torch.device:
        """Return the device of this process. Raises UserError if one GPU is named for all, or if there are too few."""
        if self.size == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise UserError(f"--device {device}: {self.size} processes need a GPU each; use --device cuda")
        if self.local >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise UserError(f"this machine has {count} GPUs, fewer than processes: lower --nproc-per-node")
        # also the current device, so that what torch allocates on plain "cuda" is not on the first GPU for all ranks
        torch.cuda.set_device(self.local)
        return torch.device("cuda", self.local)

    def sum_tensors(self, tensors: list[Tensor]) -> None:
        """Replace the tensors, of one type and device, with their sums over all processes, in one transfer."""
        if self.size == 1:
            return
        # one large transfer instead of one for each tensor, whose latency would dominate; it costs a copy of the
        # gradients. All ranks get the same bits, which equal clip histories and weights need (require_same)
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _lost_peer_as_user_error():
            dist.all_reduce(flat)
        pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view_as(tensor))  # in place: the optimizer reads these gradients

    def gather(self, tensor: Tensor) -> Tensor:
        """Concatenate the tensors (P, ...) of all processes in the order of their ranks, as (size P, ...)."""
        if self.size == 1:
            return tensor
        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        with _lost_peer_as_user_error():
            dist.all_gather(tensors, tensor.contiguous())
        return torch.cat(tensors)

    def gather_objects(self, value: T) -> list[T]:
        """Return the values of all processes in the order of their ranks; any data that can be pickled."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            with _lost_peer_as_user_error():
                dist.all_gather_object(values, value)
        return values

    def any(self, flags: list[bool]) -> list[bool]:
        """Return for each flag whether it is set in any process. The flags stay on the CPU: see :func:`joined`."""
        if self.size == 1:
            return flags
        counts = torch.tensor(flags, dtype=torch.int32)
        with _lost_peer_as_user_error():
            dist.all_reduce(counts)
        return [bool(count) for count in counts.tolist()]

    def first_then_others(self, first: Callable[[], T], others: Callable[[], T]) -> T:
        """Call ``first`` in the first process and then ``others`` in the other ones; return the result of the call."""
        if self.size == 1:
            return first()
        # an error in the first process ends the others too: their wait for it fails
        result = first() if self.first else None
        self.any([False])  # a barrier
        return result if result is not None else others()

    def require_same(self, numbers: list[float]) -> None:
        """Raise UserError if the processes do not have the same ``numbers``, to the last bit."""
        local = torch.tensor([numbers], dtype=torch.float64)  # (1, numbers)
        rows = self.gather(local)  # (size, numbers)
        # NaN is not equal to itself: compare it as a number
        if not all(torch.equal(row.nan_to_num(0.5), local[0].nan_to_num(0.5)) for row in rows):
            raise UserError(
                f"the {self.size} processes have drifted apart: are GPUs, versions of torch and files the same on all?"
            )


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the other processes that torchrun has started; yield ``ALONE`` if there are none.

    If several processes fail, or see others fail, one prints the message; the others exit with code 1 in silence.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield ALONE
        return
    ranks = _ranks_of_torchrun()
    enable_output(ranks.first)
    try:
        # numbers on the CPU go by gloo even if gradients go by NCCL, so that no exchange of flags waits for the GPU
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the {ranks.size} processes cannot connect: {str(error).splitlines()[0]}") from error
    store = dist.distributed_c10d._get_default_store()
    try:
        with lifeline(ranks.rank, ranks.size, store, lambda: _end_after_loss(store, ranks)):
            yield ranks
    except Stopped:
        raise
    except BaseException as error:
        if not _report_failure(store, ranks, error):
            sys.stdout.flush()
            os._exit(EXIT_USER_ERROR)  # not sys.exit: at a normal exit the lost connections would print errors
        if isinstance(error, Exception):
            raise SystemExit(EXIT_USER_ERROR) from None  # its message is printed
        raise
    dist.destroy_process_group()


def _ranks_of_torchrun() -> Ranks:
    """Return the ranks from the variables that torchrun sets. Raises UserError if some of them are missing."""
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(f"WORLD_SIZE is set but not {', '.join(missing)}: start with torchrun, or unset WORLD_SIZE")
    return Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))


def _end_after_loss(store: Any, ranks: Ranks) -> None:
    """End this process, whose main thread waits for one that has died; one of the processes prints the message."""
    reports, printed = True, False
    try:
        reports = _claims_report(store, ranks)
        if reports:
            _print(UserError(_LOST))
            printed = True
            store.set(_PRINTED, "")
    except RuntimeError:  # the store has ended with the process that has died
        if not printed:
            _print(UserError(_LOST))
    sys.stdout.flush()
    if ranks.first:
        time.sleep(_FAREWELL_SECONDS)  # this process may host the store, which the others ask who prints
    os._exit(EXIT_USER_ERROR)  # the main thread cannot be interrupted


def _claims_report(store: Any, ranks: Ranks) -> bool:
    """Return whether this process is the first one to report a failure."""
    # atomic in the store: of several processes that fail together exactly one gets its own number back
    return bool(store.compare_set(_FAILED, "", str(ranks.rank)).decode() == str(ranks.rank))


def _report_failure(store: Any, ranks: Ranks, error: BaseException) -> bool:
    """Print ``error`` if this process is the first one that gets here; return whether it is.

    It prints before any process ends, because torchrun then ends all others, and waits a moment for them, since the
    store may end with this process.
    """
    reports, printed = True, False
    try:
        reports = _claims_report(store, ranks)
        if reports:
            _print(error)
            printed = True
            store.set(_PRINTED, "")
        else:
            store.wait([_PRINTED], timedelta(seconds=_PRINT_SECONDS))
            printed = True
        store.add(_ENDED, 1)
        # with NCCL the destruction could wait for processes that have already ended
        if not torch.cuda.is_available():
            dist.destroy_process_group()  # wakes up the processes that wait for this one
            deadline = time.monotonic() + _FAREWELL_SECONDS
            while store.add(_ENDED, 0) < ranks.size and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(0.2 * ranks.first)  # this process may host the store, and then must end last
    except RuntimeError:  # the store has ended with a process that was killed, or the report takes too long
        if not printed:
            _print(error)
            return True
    return reports


def _print(error: BaseException) -> None:
    """Print the message of an error that the command line would print, or the traceback of any other."""
    enable_output(True)
    if isinstance(error, UserError | OSError):
        print_error(error)
    elif isinstance(error, Exception):
        traceback.print_exception(error)
    sys.stderr.flush()


@contextmanager
def _lost_peer_as_user_error() -> Iterator[None]:
    """Raise PeerLost if the exchange in the block fails."""
    try:
        yield
    except RuntimeError as error:  # gloo and NCCL have no exception type of their own
        if is_out_of_memory(error):
            raise
        raise PeerLost(_LOST) from error
