import errno
import mmap
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event, current_thread, main_thread

import numpy as np
import pytest
import torch

from sepclip.errors import UserError
from sepclip.mixing.cache import TRIED_EVERY, ReaderPool, WaveCache


@pytest.mark.parametrize("faster", [False, True])
def test_readers_keep_to_what_is_faster_and_try_again(monkeypatch, faster):
    now, readers, where = [0.0], ReaderPool(2), []
    monkeypatch.setattr("sepclip.mixing.cache.time.perf_counter", lambda: now[0])

    def make(place):
        threaded = current_thread() is not main_thread()
        if place == 0:
            now[0] += 1.0 if threaded == faster else 2.0
        where[-1].add(threaded)
        return place

    for _ in range(2 * TRIED_EVERY):
        where.append(set())
        assert readers.map(make, range(4)) == [0, 1, 2, 3]
    assert where == 2 * [{False}, {True}, *[{faster}] * (TRIED_EVERY - 2)]


def test_torch_uses_one_thread_in_each_reader_and_as_many_as_before_elsewhere():
    # a team of OpenMP threads for each reader would slow the steps of the training
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        readers = ReaderPool(3)
        readers.map(str, range(6))  # the first batch is made without threads
        with ThreadPoolExecutor(1) as other:
            assert other.submit(torch.get_num_threads).result() == 2
        assert torch.get_num_threads() == 2
        assert set(readers.map(lambda _: (current_thread() is main_thread(), torch.get_num_threads()), range(6))) == {
            (False, 1)
        }
    finally:
        torch.set_num_threads(before)


def test_a_wave_that_two_readers_want_is_read_once():
    begun, loads = Event(), []

    def load(index):
        loads.append(index)
        begun.wait(timeout=10)
        return np.full(4, index, np.int16)

    kept = WaveCache(load, 16)
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(kept.__getitem__, index) for index in (3, 3, 3, 5)]
        begun.set()
        assert [one.result(timeout=10)[0] for one in found] == [3, 3, 3, 5]
    assert sorted(loads) == [3, 5]
    assert kept.has_room(3, 100)
    assert not kept.has_room(7, 1)  # both fill it up


WAVES = [
    np.arange(7, dtype=np.int16),
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.arange(24, dtype=np.int16).reshape(2, 3, 4),
    np.zeros((2, 0), np.int16),
]


@pytest.mark.parametrize("shared", [0, len(WAVES)] if sys.platform == "linux" else [0])
def test_waves_of_any_shape_are_kept_as_they_are_up_to_the_limit(shared):
    loads = []

    def load(index):
        loads.append(index)
        return WAVES[index]

    kept = WaveCache(load, sum(wave.nbytes for wave in WAVES) + 2, shared=shared)
    for _ in range(2):
        for index, wave in enumerate(WAVES):
            assert kept.has_room(index, wave.size) or index not in loads
            assert np.array_equal(kept[index], wave)
            assert (kept[index].dtype, kept[index].shape) == (wave.dtype, wave.shape)
            assert kept[index].flags.aligned
    assert loads == [0, 1, 2, 3]
    tight = WaveCache(load, 14 + 24, shared=shared)
    loads.clear()
    assert all(np.array_equal(tight[index], WAVES[index]) for _ in range(3) for index in (0, 2, 1, 2))
    assert loads.count(0) == 1
    assert loads.count(2) == 6  # 48 bytes, for which there is no room
    assert tight.has_room(0, 7)
    assert not tight.has_room(2, 24)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_memory_that_cannot_be_shared_is_told_and_all_there_is_can_be_asked_for(monkeypatch):
    assert np.array_equal(WaveCache(lambda _: WAVES[0], float("inf"), shared=1)[0], WAVES[0])

    def refused(*_, **__):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refused)
    told = r"cannot share 2\.0 GiB of memory: Cannot allocate memory; lower data\.memory_gib.* data\.workers=0"
    with pytest.raises(UserError, match=told):
        WaveCache(lambda _: WAVES[0], 2 * 2**30, shared=1)
