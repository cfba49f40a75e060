from concurrent.futures import ThreadPoolExecutor
from threading import Event, current_thread, main_thread

import numpy as np
import pytest

from sepclip.mixing.loading import TRIED_EVERY, Readers, Remembered


@pytest.mark.parametrize("faster", [False, True])
def test_readers_keep_to_what_is_faster_and_try_again(monkeypatch, faster):
    now, readers, where = [0.0], Readers(2), []
    monkeypatch.setattr("sepclip.mixing.loading.time.perf_counter", lambda: now[0])

    def make(place):
        threaded = current_thread() is not main_thread()
        if place == 0:
            now[0] += 1.0 if threaded == faster else 2.0
        where[-1].add(threaded)
        return place

    for _ in range(2 * TRIED_EVERY):
        where.append(set())
        assert readers.each(make, range(4)) == [0, 1, 2, 3]
    assert where == 2 * [{False}, {True}, *[{faster}] * (TRIED_EVERY - 2)]


def test_a_wave_that_two_readers_want_is_read_once():
    begun, loads = Event(), []

    def load(index):
        loads.append(index)
        begun.wait(timeout=10)
        return np.full(4, index, np.int16)

    kept = Remembered(load, 16)
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(kept.__getitem__, index) for index in (3, 3, 3, 5)]
        begun.set()
        assert [one.result(timeout=10)[0] for one in found] == [3, 3, 3, 5]
    assert sorted(loads) == [3, 5]
    assert kept.has_room(3, 100)
    assert not kept.has_room(7, 1)  # both fill it up
