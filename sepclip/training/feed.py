"""Brings the batches to the device: where that is a GPU, the next ones while it works on this one."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType

import torch

from sepclip.mixing.batches import Batch
from sepclip.training.batch_processes import BatchProcesses

_AHEAD = 2  # batches made ahead: one on its way, one being made


class Feed:
    """Gives the batch of each step up to ``steps``, on ``device``, in ``dtype``.

    On a GPU a thread of its own makes the next batches and copies them from pinned memory on a stream of its own
    (``ahead``), so that the GPU never waits for them as long as they are made faster than it takes them: with
    ``processes``, for steps from ``first`` on, in so many of them. On a CPU there is nothing to be gained: making a
    batch takes the same cores as the step.
    """

    def __init__(
        self,
        batch: Callable[[int], Batch],
        steps: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        first: int = 0,
        processes: int = 0,
        ahead: bool | None = None,
    ):
        self._steps, self._device, self._dtype = steps, device, dtype
        self._processes = BatchProcesses(batch, range(first, steps), processes)
        cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(1, "batches") if (cuda if ahead is None else ahead) else None
        self._coming: deque[tuple[int, Future[tuple[Batch, torch.cuda.Event | None]]]] = deque()

    def __enter__(self) -> "Feed":
        self._processes.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.end()
        if self._thread:
            self._thread.shutdown(cancel_futures=True)

    def batch(self, step: int) -> Batch:
        """Return the batch of ``step``; what goes wrong in making it is raised here."""
        if self._thread is None:
            return self._load(step)[0]
        while self._coming and self._coming[0][0] != step:  # the caller went elsewhere
            self._coming.popleft()[1].cancel()
        for later in range(step + len(self._coming), min(step + 1 + _AHEAD, self._steps)):
            self._coming.append((later, self._thread.submit(self._load, later)))
        made, copied = self._coming.popleft()[1].result() if self._coming else self._load(step)
        if copied is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(copied)
            for tensor in (made.mixture, made.sources):
                tensor.record_stream(current)  # the memory is not to be used again before this stream is done with it
        return made

    def _load(self, step: int) -> tuple[Batch, torch.cuda.Event | None]:
        made = self._processes.batch(step)
        if self._thread is None:
            return self._moved(made), None
        copied = torch.Tensor.clone if self._stream is None else torch.Tensor.pin_memory
        # the next call takes back what processes have made
        own = replace(made, mixture=copied(made.mixture), sources=copied(made.sources))
        if self._stream is None:
            return self._moved(own), None
        with torch.cuda.stream(self._stream):
            moved = self._moved(own)
            return moved, self._stream.record_event()

    def _moved(self, batch: Batch) -> Batch:
        mixture, sources = (
            tensor.to(self._device, self._dtype, non_blocking=True) for tensor in (batch.mixture, batch.sources)
        )
        return replace(batch, mixture=mixture, sources=sources)
