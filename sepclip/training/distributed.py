"""A training shared by several processes, started by torchrun: who is who, and what they tell each other.

Gradients are added up by hand, in one buffer once a step, instead of by DistributedDataParallel: see docs/DECISIONS.md.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sepclip.errors import EXIT_USER_ERROR, Stopped, UserError
from sepclip.mixing.batches import Share
from sepclip.terminal import enable_output

T = TypeVar("T")
_FAILED, _ENDED = "sepclip/failed", "sepclip/ended"  # keys of the store: which process tells why; how many know
_FAREWELL_SECONDS = 2.0
_PATIENCE = timedelta(minutes=30)  # that the others wait for one that validates or saves


class PeerLost(UserError):
    """Another process of the training has ended."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, of which this is number ``rank`` of ``size``, on GPU ``local`` of its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the one process that writes and speaks."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """The part of every batch that this process works on."""
        return Share(self.rank, self.size)

    def device(self, device: torch.device) -> torch.device:
        """Return the device of this process; UserError where one GPU is named for all."""
        if self.size == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise UserError(f"--device {device}: {self.size} processes take a GPU each; use --device cuda")
        if self.local >= torch.cuda.device_count():
            found = torch.cuda.device_count()
            raise UserError(f"this machine has {found} GPUs, fewer than processes: lower --nproc-per-node")
        torch.cuda.set_device(self.local)
        return torch.device("cuda", self.local)

    def add_up(self, tensors: list[Tensor]) -> None:
        """Replace the tensors, of one type and device, by their sums over all processes, in one transfer."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _together():
            dist.all_reduce(flat)
        pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view_as(tensor))

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors (P, ...) of all processes, in their order, as one (size P, ...); all of equal shape."""
        if self.size == 1:
            return tensor
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        with _together():
            dist.all_gather(found, tensor.contiguous())
        return torch.cat(found)

    def collect(self, value: T) -> list[T]:
        """Return the values of all processes, in their order; any plain data."""
        found: list[Any] = [value] * self.size
        if self.size > 1:
            with _together():
                dist.all_gather_object(found, value)
        return found

    def any(self, flags: list[bool]) -> list[bool]:
        """Return for each flag whether it is set in any process."""
        if self.size == 1:
            return flags
        counts = torch.tensor(flags, dtype=torch.int32)
        with _together():
            dist.all_reduce(counts)
        return [bool(count) for count in counts.tolist()]

    def led(self, first: Callable[[], T], others: Callable[[], T]) -> T:
        """Let the first process do its part before the others do theirs."""
        if self.size == 1:
            return first()
        made = first() if self.first else None
        self.any([False])
        return made if made is not None else others()

    def require_same(self, numbers: list[float]) -> None:
        """Raise UserError where the processes do not have the same ``numbers``, to the last bit."""
        mine = torch.tensor([numbers], dtype=torch.float64)
        everyone = self.gather(mine)
        if not all(torch.equal(one.nan_to_num(0.5), mine[0].nan_to_num(0.5)) for one in everyone):
            raise UserError(
                f"the {self.size} processes have drifted apart: are GPUs, versions of torch and files the same on all?"
            )


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the other processes that torchrun has started; yields ``ALONE`` where there are none.

    Of several that fail, or see others fail, one tells why; the others end with exit code 1 and no word.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield ALONE
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(f"WORLD_SIZE is set and {', '.join(missing)} not: start with torchrun, or unset WORLD_SIZE")
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    enable_output(ranks.first)
    try:
        # numbers of the processor go by gloo also where gradients go by NCCL: no flag waits for the GPU
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the {ranks.size} processes do not find each other: {str(error).splitlines()[0]}") from error
    store = dist.distributed_c10d._get_default_store()
    try:
        yield ranks
    except Stopped:
        raise
    except BaseException:
        if not _tells(store, ranks):
            sys.stdout.flush()
            os._exit(EXIT_USER_ERROR)  # not by the interpreter's end, where the lost connections would speak
        enable_output(True)
        raise
    dist.destroy_process_group()


def _tells(store: Any, ranks: Ranks) -> bool:
    """Whether this process is the one to tell of a failure: the first that comes here.

    It waits for the others to come, since the store may end with one of them.
    """
    try:
        tells = bool(store.compare_set(_FAILED, "", str(ranks.rank)).decode() == str(ranks.rank))
        store.add(_ENDED, 1)
        if not torch.cuda.is_available():  # NCCL might wait here for those that are gone
            dist.destroy_process_group()  # which wakes up whoever waits for this process
            until = time.monotonic() + _FAREWELL_SECONDS
            while store.add(_ENDED, 0) < ranks.size and time.monotonic() < until:
                time.sleep(0.02)
            time.sleep(0.2 * ranks.first)  # it may have the store, and leaves last
    except RuntimeError:  # the store went with a process that was killed
        return True
    return tells


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo and NCCL have no type of their own
        raise PeerLost(
            "another process of the training has ended: its own message, or the system's log (memory?), says why; "
            "the same command resumes"
        ) from error
