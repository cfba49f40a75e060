from itertools import permutations

import pytest
import torch

from sepclip.audio.permutation import MOST_SOURCES, best_permutation


@pytest.mark.parametrize("maximise", [True, False])
@pytest.mark.parametrize("sources", [1, 2, 3, 5])
def test_best_permutation_equals_brute_force(sources, maximise):
    pairwise = torch.randn(20, sources, sources, dtype=torch.float64, generator=torch.Generator().manual_seed(sources))
    best, order = best_permutation(pairwise, maximise=maximise)
    for scores, value, chosen in zip(pairwise.tolist(), best.tolist(), order.tolist(), strict=True):
        means = {p: sum(scores[est][ref] for ref, est in enumerate(p)) / sources for p in permutations(range(sources))}
        want = (max if maximise else min)(means, key=means.__getitem__)
        assert tuple(chosen) == want
        assert value == pytest.approx(means[want], abs=1e-12)


def test_order_names_the_estimate_of_each_reference():
    # three sources moved round: estimate 0 is reference 2, and so on; its inverse is another order
    estimates = torch.arange(3.0).reshape(1, 3, 1).expand(1, 3, 4)
    references = estimates[:, [1, 2, 0]]
    distance = (estimates.unsqueeze(2) - references.unsqueeze(1)).abs().mean(-1)
    best, order = best_permutation(distance, maximise=False)
    assert best.item() == 0
    assert order.tolist() == [[1, 2, 0]]
    assert torch.equal(estimates[torch.arange(len(order)).unsqueeze(1), order], references)


@pytest.mark.parametrize("maximise", [True, False])
@pytest.mark.parametrize("sources", [2, 3, 4])
def test_ties_give_the_identity(sources, maximise):
    _, order = best_permutation(torch.ones(3, sources, sources), maximise=maximise)
    assert order.tolist() == [list(range(sources))] * 3


def test_gradient_reaches_only_the_chosen_pairs():
    pairwise = torch.tensor([[[5.0, 1], [2, 5]]], requires_grad=True)
    best_permutation(pairwise, maximise=False)[0].sum().backward()
    assert pairwise.grad.tolist() == [[[0, 0.5], [0.5, 0]]]


def test_unequal_numbers_of_estimates_and_references_are_refused():
    with pytest.raises(ValueError, match="got 3 and 2"):
        best_permutation(torch.zeros(1, 3, 2), maximise=True)


def test_too_many_sources_are_refused():
    with pytest.raises(ValueError, match=f"at most {MOST_SOURCES} "):
        best_permutation(torch.zeros(1, MOST_SOURCES + 1, MOST_SOURCES + 1), maximise=True)


def test_first_use_in_inference_mode_does_not_spoil_training():
    with torch.inference_mode():
        best_permutation(torch.ones(1, 6, 6), maximise=True)  # no other test caches this size
    pairwise = torch.ones(1, 6, 6, requires_grad=True)
    best_permutation(pairwise, maximise=True)[0].sum().backward()
    assert pairwise.grad.sum() == pytest.approx(1)
