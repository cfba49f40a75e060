"""Waves for training: kept in memory up to a limit, and read by several threads if that is faster."""

import math
import mmap
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock
from typing import Protocol, TypeVar

import numpy as np
import torch

from sepclip.audio.arrays import PcmWaves
from sepclip.errors import UserError

TRIED_EVERY = 32  # batches after which reading with and without threads is compared again
_MOST_BYTES = 4  # of a sample in memory
_LOCKS = 64
_MOST_AXES = 3  # of a wave
_ALIGNED = 8  # bytes; waves begin at multiples of this
_MAP_NORESERVE = 0x4000  # mman.h of Linux: memory counts only once it is written to

T = TypeVar("T")


class IndexedWaves(Protocol):
    """Waves that are loaded when they are first read, and possibly kept."""

    def __getitem__(self, index: int) -> PcmWaves:
        """Return one wave."""


# Returns a caching wrapper around `load(index)`, where index is below a number
MakeCache = Callable[[Callable[[int], PcmWaves], int], IndexedWaves]


class ReaderPool:
    """Makes the excerpts of a batch, in ``count`` threads if that was faster recently.

    Decoding releases the interpreter, so threads run in parallel. Small pieces of uncompressed files and waves in
    memory are work for Python itself, and threads wait for each other. So from time to time one batch is made each
    way, and the faster way is used until the next comparison.
    """

    def __init__(self, count: int):
        self._pool = _single_threaded_pool(count) if count > 1 else None
        # seconds of the latest batch with threads (True) and without (False)
        self._batches, self._seconds = 0, {True: math.inf, False: 0.0}

    def map(self, make: Callable[[int], T], places: Sequence[int]) -> list[T]:
        """Return ``make(place)`` for each place, in order: the result does not depend on the threads."""
        # of every TRIED_EVERY batches, the first is made without threads and the second with them
        turn, self._batches = self._batches % TRIED_EVERY, self._batches + 1
        pool = self._pool if turn == 1 or (turn != 0 and self._seconds[True] < self._seconds[False]) else None
        began = time.perf_counter()
        results = list((pool.map if pool else map)(make, places))
        self._seconds[pool is not None] = time.perf_counter() - began
        return results


def _single_threaded_pool(count: int) -> ThreadPoolExecutor:
    """Return a pool of ``count`` threads, in each of which torch uses that one thread only.

    Otherwise the first resampling in each of them starts a team of OpenMP threads that is kept. With more threads than
    cores, GNU OpenMP stops spinning at barriers, and every step of an LSTM took 1.9 times as long (docs/RESULTS.md).
    """
    pool, threads = ThreadPoolExecutor(count, "readers"), torch.get_num_threads()
    everyone = Barrier(count)

    def limit(_: int) -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # the first call in a thread sets its number to the latest one, as an operation would
        everyone.wait()  # so that each thread of the pool runs this once

    list(pool.map(limit, range(count)))
    torch.set_num_threads(threads)  # of this thread, and of MKL, whose setting all threads share
    return pool


class WaveCache:
    """Keeps loaded waves up to a number of bytes; the others are loaded each time. Safe to use from threads.

    With ``shared`` above 0, at most so many waves are kept in memory that is shared with all processes forked later.
    """

    def __init__(self, load: Callable[[int], PcmWaves], most_bytes: float, shared: int = 0):
        self._load = load
        self._memory = _SharedMemory(most_bytes, shared) if shared else _ProcessMemory(most_bytes)
        self._waves: dict[int, PcmWaves] = {}  # those this process has read so far
        self._loading = [Lock() for _ in range(_LOCKS)]

    def has_room(self, index: int, samples: int) -> bool:
        """Tell whether a wave of ``samples`` samples over all axes is kept, or would be."""
        return self._find(index) is not None or _MOST_BYTES * samples <= self._memory.room

    def __getitem__(self, index: int) -> PcmWaves:
        wave = self._find(index)
        if wave is None:
            # one lock for each index modulo _LOCKS: other threads wait instead of loading the same wave
            with self._loading[index % _LOCKS]:
                wave = self._find(index)  # another thread may have loaded it meanwhile
                if wave is None:
                    wave = self._load(index)
                    stored = self._memory.store(index, wave)
                    if stored is not None:
                        self._waves[index] = stored
        return wave

    def _find(self, index: int) -> PcmWaves | None:
        wave = self._waves.get(index)
        if wave is None:
            wave = self._memory.find(index)
            if wave is not None:
                self._waves[index] = wave
        return wave


class _ProcessMemory:
    """The memory of this process: waves stay where they are, and only their bytes are counted."""

    def __init__(self, most_bytes: float):
        self.room, self._counting = most_bytes, Lock()

    def find(self, index: int) -> PcmWaves | None:
        """Return the wave if another process has stored it: never."""
        return None

    def store(self, index: int, wave: PcmWaves) -> PcmWaves | None:
        """Return the wave as it is stored, or None if there is no room for it."""
        with self._counting:
            if wave.nbytes > self.room:
                return None
            self.room -= wave.nbytes
        return wave


class _SharedMemory:
    """Memory shared by this process and those forked later: a table of where each wave is, then the waves."""

    def __init__(self, most_bytes: float, count: int):
        fields = [("start", np.int64), ("type", "S3"), ("axes", np.int64), ("shape", np.int64, _MOST_AXES)]
        row = np.dtype(fields, align=True)
        table = (1 + count) * row.itemsize  # the last row has only a start: that of the next wave
        # never more than the machine has: the setting may be generous, and pages cost nothing until they are written
        size = table + int(min(most_bytes, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
        try:
            memory = mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
            self._lock = multiprocessing.get_context("fork").Lock()
        except OSError as error:
            raise UserError(
                f"the processes that make batches cannot share {size / 2**30:.1f} GiB of memory: {error.strerror}; "
                f"lower data.memory_gib, or make batches without them by --set data.workers=0"
            ) from error
        self._bytes = np.frombuffer(memory, np.uint8)
        self._rows = self._bytes[:table].view(row)
        self._rows["start"][-1] = table

    @property
    def room(self) -> int:
        return len(self._bytes) - int(self._rows["start"][-1])

    def find(self, index: int) -> PcmWaves | None:
        row = self._rows[index]
        start = int(row["start"])  # written last, so 0 until the wave is complete
        if not start:
            return None
        return np.ndarray(tuple(row["shape"][: row["axes"]]), row["type"].decode(), self._bytes, start)

    def store(self, index: int, wave: PcmWaves) -> PcmWaves | None:
        # hold the lock only briefly: a process that is killed while it has the lock never releases it
        with self._lock:
            stored = self.find(index)  # by another process meanwhile
            if stored is not None or wave.nbytes > self.room:
                return stored
            start = int(self._rows["start"][-1])
            self._rows["start"][-1] = start + -(-wave.nbytes // _ALIGNED) * _ALIGNED
        # copy without the lock: nobody else writes to the bytes just reserved
        stored = np.ndarray(wave.shape, wave.dtype, self._bytes, start)
        stored[...] = wave
        # the lock also keeps other processors from seeing the row before the wave
        with self._lock:
            row = self._rows[index]
            row["type"], row["axes"] = wave.dtype.str, wave.ndim
            row["shape"][: wave.ndim] = wave.shape
            row["start"] = start
        return stored
