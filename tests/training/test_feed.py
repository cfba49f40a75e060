import sys
import threading

import pytest
import torch

from sepclip.errors import UserError
from sepclip.mixing.batches import Batch
from sepclip.training.feed import Feed

CPU = torch.device("cpu")
COUNTS = [0, 1, 3] if sys.platform == "linux" else [0]


def make(step):
    waves = torch.full((3, 2, 5), float(step))
    return Batch(waves.sum(1), waves)


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("processes", COUNTS)
def test_feed_returns_the_batch_of_any_step(ahead, dtype, processes):
    with Feed(make, 12, CPU, dtype, processes=processes, ahead=ahead) as feed:
        for step in (0, 1, 2, 3, 7, 8, 2, 3, 4, 10, 11):  # on from the start, from a checkpoint, and up to the end
            batch = feed.batch(step)
            assert batch.mixture.dtype == batch.sources.dtype == dtype
            assert torch.equal(batch.sources, make(step).sources.to(dtype))
            assert torch.equal(batch.mixture, make(step).mixture.to(dtype))


def test_feed_makes_the_next_batches_ahead_but_none_after_the_last_step():
    calls, two_more = [], threading.Event()

    def slow(step):
        calls.append((step, threading.current_thread()))
        if step == 2:
            two_more.set()
        return make(step)

    with Feed(slow, 4, CPU, torch.float32, ahead=True) as feed:
        feed.batch(0)
        assert two_more.wait(30)  # though nobody has asked for them
        for step in (1, 2, 3):
            feed.batch(step)
    assert [step for step, _ in calls] == [0, 1, 2, 3]
    assert threading.main_thread() not in {thread for _, thread in calls}


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("processes", COUNTS)
def test_kept_batches_are_not_overwritten(ahead, first, processes):
    dtype = torch.float32 if ahead else torch.float64  # without the thread a batch of its own type is but lent
    with Feed(make, 12, CPU, dtype, first=first, processes=processes, ahead=ahead) as feed:
        kept = [feed.batch(step) for step in range(first, 12)]
    assert all(torch.equal(batch.sources, make(step).sources.to(dtype)) for step, batch in enumerate(kept, first))


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("processes", COUNTS)
def test_an_unreadable_file_is_reported_at_its_step(ahead, processes):
    def broken(step):
        if step == 2:
            raise UserError("x.wav is truncated")
        return make(step)

    with Feed(broken, 9, CPU, torch.float32, processes=processes, ahead=ahead) as feed:
        feed.batch(0)
        feed.batch(1)
        with pytest.raises(UserError, match=r"x\.wav is truncated"):
            feed.batch(2)
    assert threading.active_count() == 1 or not [t for t in threading.enumerate() if t.name.startswith("batches")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("processes", COUNTS)
def test_batches_arrive_whole_on_a_gpu(processes):
    device = torch.device("cuda")
    with Feed(make, 50, device, torch.float32, processes=processes) as feed:
        for step in range(50):
            batch = feed.batch(step)
            busy = torch.randn(2000, 2000, device=device)
            (busy @ busy).sum()
            assert torch.equal(batch.sources.cpu(), make(step).sources)
