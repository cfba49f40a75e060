"""How a training comes by its waves: remembered as far as memory goes, and read by several threads where that helps."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from sepclip.mixing.mixture import Waves

TRIED_EVERY = 32  # batches after which threads and none are compared again
_MOST_BYTES = 4  # of a sample in memory
_LOCKS = 64

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
    """Remember loaded waves up to a number of bytes; what exceeds it is loaded again when needed. For any threads."""

    def __init__(self, load: Callable[[int], Waves], most_bytes: float):
        self._load, self._room = load, most_bytes
        self._waves: dict[int, Waves] = {}
        self._counting, self._loading = Lock(), [Lock() for _ in range(_LOCKS)]

    def has_room(self, index: int, samples: int) -> bool:
        """Tell whether a wave of so many ``samples`` in all is kept, or would be."""
        return index in self._waves or _MOST_BYTES * samples <= self._room

    def __getitem__(self, index: int) -> Waves:
        wave = self._waves.get(index)
        if wave is not None:
            return wave
        with self._loading[index % _LOCKS]:  # who else wants it waits for it
            if index in self._waves:
                return self._waves[index]
            wave = self._load(index)
            with self._counting:
                if wave.nbytes <= self._room:
                    self._room -= wave.nbytes
                    self._waves[index] = wave
        return wave
