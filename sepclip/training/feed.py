"""The feed of batches to the device; to a GPU the next ones are copied while it works on the current one."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType

import torch

from sepclip.mixing.batches import Batch
from sepclip.training.batch_processes import BatchProcesses
from sepclip.training.hardware import use_as_current

_AHEAD = 2  # batches made ahead: one on its way, one being made


class Feed:
    """Returns the batch of each step below ``steps``, on ``device``, in ``dtype``.

    For a GPU a separate thread makes the next batches and copies them from pinned memory on a separate stream
    (``ahead``), so that the GPU does not wait as long as batches are made faster than it uses them. From step ``first``
    on they are made by up to ``processes`` processes; ``longest`` is the samples of the longest excerpts, if they
    differ. On a CPU working ahead gains nothing, as making a batch needs the
    same cores as the step.
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
        longest: int | None = None,
        ahead: bool | None = None,
    ):
        self._steps, self._device, self._dtype = steps, device, dtype
        # processes start in __enter__, before the thread below has work: a fork must not happen beside a busy thread
        self._processes = BatchProcesses(batch, range(first, steps), processes, longest)
        gpu = device.type != "cpu"
        self._stream = torch.get_device_module(device).Stream(device) if gpu else None
        # one thread: batches must be taken from the processes in the order of the steps
        starts_thread = gpu if ahead is None else ahead
        self._thread = ThreadPoolExecutor(1, "batches", use_as_current, (device,)) if starts_thread else None
        self._pending: deque[tuple[int, Future[tuple[Batch, torch.cuda.Event | None]]]] = deque()

    def __enter__(self) -> "Feed":
        self._processes.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # processes first: this wakes up a thread that waits for one of their batches, which shutdown then joins
        self._processes.end()
        if self._thread:
            self._thread.shutdown(cancel_futures=True)

    def batch(self, step: int) -> Batch:
        """Return the batch of ``step``. Raises the error that making it raised."""
        if self._thread is None:
            return self._load(step)[0]
        # drop what was made for other steps, if the caller has jumped to another one
        while self._pending and self._pending[0][0] != step:
            self._pending.popleft()[1].cancel()
        # keep the thread busy with this step, if it is new, and the next ones
        for later in range(step + len(self._pending), min(step + 1 + _AHEAD, self._steps)):
            self._pending.append((later, self._thread.submit(self._load, later)))
        batch, copy_event = self._pending.popleft()[1].result() if self._pending else self._load(step)
        # let the GPU wait for the copy, not this thread
        if copy_event is not None:
            current = torch.get_device_module(self._device).current_stream(self._device)
            current.wait_event(copy_event)
            for tensor in (batch.mixture, batch.sources):
                tensor.record_stream(current)  # its memory must not be reused before this stream has finished with it
        return batch

    def _load(self, step: int) -> tuple[Batch, torch.cuda.Event | None]:
        """Return the batch of a step on the device, and the event of its copy if another stream makes it."""
        batch = self._processes.batch(step)
        if self._thread is None:
            return self._to_device(batch), None
        # a batch that a process made is valid only up to the next call: copy it
        copy = torch.Tensor.clone if self._stream is None else torch.Tensor.pin_memory
        batch = replace(batch, mixture=copy(batch.mixture), sources=copy(batch.sources))
        if self._stream is None:
            return self._to_device(batch), None
        with torch.get_device_module(self._device).stream(self._stream):
            return self._to_device(batch), self._stream.record_event()

    def _to_device(self, batch: Batch) -> Batch:
        # a copy is asynchronous only from pinned memory; from other memory, non_blocking does nothing
        mixture, sources = (
            tensor.to(self._device, self._dtype, non_blocking=True) for tensor in (batch.mixture, batch.sources)
        )
        return replace(batch, mixture=mixture, sources=sources)
