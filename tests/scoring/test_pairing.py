import numpy as np
import pytest
import torch

from sepclip.audio.permutation import best_permutation
from sepclip.scoring.pairing import best_order


@pytest.mark.parametrize("sources", [1, 2, 3, 6])
def test_the_order_is_that_of_training(sources):
    scores = np.random.default_rng(sources).normal(0, 10, (20, sources, sources))
    _, want = best_permutation(torch.from_numpy(scores), maximise=True)
    assert [best_order(one).tolist() for one in scores] == want.tolist()


def test_forty_sources_are_paired():
    order = np.random.default_rng(0).permutation(40)
    scores = np.random.default_rng(1).uniform(-10, 0, (40, 40))
    scores[order, np.arange(40)] = 10
    assert best_order(scores).tolist() == order.tolist()


def test_a_perfect_pair_is_best_and_nan_is_worst():
    assert best_order(np.array([[5.0, np.inf], [4, 60]])).tolist() == [1, 0]
    assert best_order(np.array([[np.nan, 5.0], [np.nan, 6]])).tolist() == [0, 1]
    assert best_order(np.array([[-90.0, np.nan], [-90, -200]])).tolist() == [0, 1]


@pytest.mark.parametrize("sources", [2, 3, 4])
def test_ties_leave_the_order_alone(sources):
    assert best_order(np.full((sources, sources), 3.0)).tolist() == list(range(sources))
