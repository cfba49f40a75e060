"""How a training comes by its waves: remembered as far as memory goes, and read by several threads where that helps."""

import math
import mmap
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import numpy as np

from sepclip.audio.arrays import PcmWaves
from sepclip.errors import UserError

TRIED_EVERY = 32  # batches after which threads and none are compared again
_MOST_BYTES = 4  # of a sample in memory
_LOCKS = 64
_MOST_AXES = 3  # of a wave
_ALIGNED = 8  # bytes, of where waves begin
_MAP_NORESERVE = 0x4000  # mman.h of Linux: memory counts once it is written to

T = TypeVar("T")


class Readers:
    """Makes the excerpts of a batch, in ``count`` threads where that has been faster of late.

    Decoding lets go of the interpreter, so that threads share it; small pieces of plain files, and what is in memory,
    are work for Python itself, and threads wait for each other. So now and then a batch is made either way, and the
    faster one is kept to.
    """

    def __init__(self, count: int):
        self._pool = ThreadPoolExecutor(count, "readers") if count > 1 else None
        self._batches, self._seconds = 0, {True: math.inf, False: 0.0}  # the latest batch by threads, and without

    def each(self, make: Callable[[int], T], places: Sequence[int]) -> list[T]:
        """Return what ``make`` makes of each place, in order: the same either way."""
        turn, self._batches = self._batches % TRIED_EVERY, self._batches + 1
        pool = self._pool if turn == 1 or (turn != 0 and self._seconds[True] < self._seconds[False]) else None
        began = time.perf_counter()
        made = list((pool.map if pool else map)(make, places))
        self._seconds[pool is not None] = time.perf_counter() - began
        return made


class Remembered:
    """Remember loaded waves up to a number of bytes; what exceeds it is loaded again when needed. For any threads.

    ``shared``: so many waves, at most, are remembered together with the processes that are forked later.
    """

    def __init__(self, load: Callable[[int], PcmWaves], most_bytes: float, shared: int = 0):
        self._load = load
        self._memory = _SharedMemory(most_bytes, shared) if shared else _Memory(most_bytes)
        self._waves: dict[int, PcmWaves] = {}  # that this process has met
        self._loading = [Lock() for _ in range(_LOCKS)]

    def has_room(self, index: int, samples: int) -> bool:
        """Tell whether a wave of so many ``samples`` in all is kept, or would be."""
        return self._known(index) is not None or _MOST_BYTES * samples <= self._memory.room

    def __getitem__(self, index: int) -> PcmWaves:
        wave = self._known(index)
        if wave is None:
            with self._loading[index % _LOCKS]:  # who else wants it waits for it
                wave = self._known(index)
                if wave is None:
                    wave = self._load(index)
                    kept = self._memory.keep(index, wave)
                    if kept is not None:
                        self._waves[index] = kept
        return wave

    def _known(self, index: int) -> PcmWaves | None:
        wave = self._waves.get(index)
        if wave is None:
            wave = self._memory.find(index)
            if wave is not None:
                self._waves[index] = wave
        return wave


class _Memory:
    """What is kept stays where it is, in the memory of this process, and is counted."""

    def __init__(self, most_bytes: float):
        self.room, self._counting = most_bytes, Lock()

    def find(self, index: int) -> PcmWaves | None:
        """Return the wave where another process has kept it."""
        return None

    def keep(self, index: int, wave: PcmWaves) -> PcmWaves | None:
        """Return the wave as it is kept, or None where there is no room for it."""
        with self._counting:
            if wave.nbytes > self.room:
                return None
            self.room -= wave.nbytes
        return wave


class _SharedMemory:
    """The same memory for this process and those forked later, with a table of where the waves are in it."""

    def __init__(self, most_bytes: float, count: int):
        fields = [("start", np.int64), ("type", "S3"), ("axes", np.int64), ("shape", np.int64, _MOST_AXES)]
        row = np.dtype(fields, align=True)
        table = (1 + count) * row.itemsize  # of the last row the start alone is used, for the next wave's
        size = table + int(min(most_bytes, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
        try:
            memory = mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
            self._lock = multiprocessing.get_context("fork").Lock()
        except OSError as error:
            raise UserError(
                f"the processes that make batches cannot share {size / 2**30:.1f} GiB of memory: {error.strerror}; "
                f"lower data.memory_gib, or do without them by --set data.workers=0"
            ) from error
        self._bytes = np.frombuffer(memory, np.uint8)
        self._rows = self._bytes[:table].view(row)
        self._rows["start"][-1] = table

    @property
    def room(self) -> int:
        return len(self._bytes) - int(self._rows["start"][-1])

    def find(self, index: int) -> PcmWaves | None:
        row = self._rows[index]
        start = int(row["start"])  # the last that is written of a row
        if not start:
            return None
        return np.ndarray(tuple(row["shape"][: row["axes"]]), row["type"].decode(), self._bytes, start)

    def keep(self, index: int, wave: PcmWaves) -> PcmWaves | None:
        # held but for a moment: a process that is killed while it holds the lock never lets go of it
        with self._lock:
            kept = self.find(index)  # by another process meanwhile
            if kept is not None or wave.nbytes > self.room:
                return kept
            start = int(self._rows["start"][-1])
            self._rows["start"][-1] = start + -(-wave.nbytes // _ALIGNED) * _ALIGNED
        kept = np.ndarray(wave.shape, wave.dtype, self._bytes, start)
        kept[...] = wave
        with self._lock:  # it also lets no processor see the row before the wave
            row = self._rows[index]
            row["type"], row["axes"] = wave.dtype.str, wave.ndim
            row["shape"][: wave.ndim] = wave.shape
            row["start"] = start
        return kept
