import pytest
import torch

from sepclip.audio.masks import mask_target
from sepclip.model.losses import LOSSES, bin_weights

every_loss = pytest.mark.parametrize("name", LOSSES)
every_weighting = pytest.mark.parametrize("weights", ["ratio", "vad", "none"])
N, F, E = 5, 10, 4  # 50 bins


def spectra(batch=2, sources=2, seed=0):
    shape = (batch, sources, N, F)
    several = torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))
    return several.sum(1), several


def outputs(batch=2, sources=2, seed=1):
    chance = torch.Generator().manual_seed(seed)
    masks = torch.rand(batch, sources, N, F, dtype=torch.float64, generator=chance)
    vectors = torch.rand(batch, N, F, E, dtype=torch.float64, generator=chance)
    return {
        "mask": masks.requires_grad_(),
        "embedding": (vectors / vectors.norm(dim=-1, keepdim=True)).requires_grad_(),
    }


def loss(name, given, mixture, sources, target="tpsa", weights="ratio"):
    return LOSSES[name].function(given, mixture, sources, target=target, weights=weights)


def dense_clustering(vectors, mixture, sources, weights):
    """Return the loss of one item from all pairs of its bins, as eq. (5) stands."""
    loudest = sources.abs().flatten(1).argmax(0)
    labels = torch.nn.functional.one_hot(loudest, len(sources)).double()
    w = bin_weights(mixture.unsqueeze(0), sources.unsqueeze(0), weights)[0]
    v = vectors.flatten(0, 1)
    return ((v @ v.mT - labels @ labels.mT).square() * w.outer(w)).sum() / w.sum() ** 2


@every_loss
def test_a_loss_is_one_finite_number_an_item_and_has_a_gradient(name):
    given, (mixture, sources) = outputs(), spectra()
    got = loss(name, given, mixture, sources)
    assert got.shape == (2,)
    assert got.isfinite().all()
    alone = loss(name, {k: v[1:] for k, v in given.items()}, mixture[1:], sources[1:])
    torch.testing.assert_close(got[1:], alone)
    got.sum().backward()
    for head in LOSSES[name].heads:
        assert given[head].grad.abs().sum() > 0
    assert LOSSES[name].separates_by in LOSSES[name].heads


@every_loss
def test_the_order_of_the_sources_does_not_matter(name):
    given, (mixture, sources) = outputs(sources=3), spectra(sources=3)
    got = loss(name, given, mixture, sources)
    torch.testing.assert_close(loss(name, given, mixture, sources[:, [2, 0, 1]]), got)


@every_loss
def test_gradient_is_the_derivative(name):
    given, (mixture, sources) = outputs(), spectra()
    head = LOSSES[name].separates_by
    assert torch.autograd.gradcheck(lambda x: loss(name, {head: x}, mixture, sources), given[head])


@every_loss
def test_silence_gives_a_finite_loss_and_no_gradient(name):
    given = outputs()
    silent = torch.zeros(2, N, F, dtype=torch.complex128), torch.zeros(2, 2, N, F, dtype=torch.complex128)
    for weights in ("ratio", "vad"):
        got = loss(name, given, *silent, weights=weights)
        assert got.tolist() == [0, 0]
        got.sum().backward()
        assert all(given[head].grad.eq(0).all() for head in LOSSES[name].heads)


def test_mask_inference_by_hand():
    # |X| = 2, 1; targets 1, 0 and 1, 1: errors |1 - 1|, |0.5 - 0| and |0.5 - 1|, |1 - 1|; their mean is 0.25
    mixture = torch.tensor([2.0, 1]).reshape(1, 1, 2) + 0j
    sources = torch.tensor([[1, -3], [1, 4]]).reshape(1, 2, 1, 2) + 0j
    masks = torch.tensor([[0.5, 0.5], [0.25, 1]]).reshape(1, 2, 1, 2)
    assert loss("mi", {"mask": masks}, mixture, sources).tolist() == [0.25]
    assert loss("mi", {"mask": masks.flip(1)}, mixture, sources).tolist() == [0.25]


def test_whole_swap_costs_nothing_and_a_swap_within_the_utterance_does():
    mixture, sources = spectra(batch=1)
    wanted = mask_target(mixture, sources)
    masks = wanted / mixture.abs().unsqueeze(1)
    assert loss("mi", {"mask": masks}, mixture, sources).item() < 1e-15
    assert loss("mi", {"mask": masks.flip(1)}, mixture, sources).item() < 1e-15
    shuffled = torch.rand(N, F, generator=torch.Generator().manual_seed(0)) < 0.5
    per_bin = torch.where(shuffled, masks.flip(1), masks)
    # half of the bins are wrong whichever permutation is taken
    far = (wanted[:, 0] - wanted[:, 1]).abs().mean()
    assert loss("mi", {"mask": per_bin}, mixture, sources).item() > 0.25 * far


def test_worked_example_of_deep_clustering():
    vectors = torch.tensor([[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6]], dtype=torch.float64)
    labels = torch.tensor([[1, 0], [0, 1], [0, 1], [1, 0]])
    mixture = torch.tensor([1, 2, 1, 4]).reshape(1, 2, 2) + 0j  # the ratio weights are in proportion to it
    sources = labels.mT.reshape(1, 2, 2, 2) + 0j
    got = loss("dc", {"embedding": vectors.reshape(1, 2, 2, 2)}, mixture.to(torch.complex128), sources)
    assert got.item() == pytest.approx(14.3328 / 64, abs=1e-12)
    assert got.item() == pytest.approx(0.22395, abs=1e-12)


@every_weighting
@pytest.mark.parametrize("sources", [2, 3])
def test_low_rank_deep_clustering_is_the_dense_one(weights, sources):
    given, (mixture, several) = outputs(sources=sources), spectra(sources=sources)
    want = [dense_clustering(*item, weights) for item in zip(given["embedding"], mixture, several, strict=True)]
    got = loss("dc", given, mixture, several, weights=weights)
    torch.testing.assert_close(got, torch.stack(want), rtol=0, atol=1e-12)
    assert 0 <= got.min() <= got.max() <= 1


@every_weighting
def test_deep_clustering_does_not_depend_on_the_size_of_the_weights(weights):
    given, (mixture, sources) = outputs(), spectra()
    want = loss("dc", given, mixture, sources, weights=weights)
    torch.testing.assert_close(loss("dc", given, 10 * mixture, 10 * sources, weights=weights), want)


@every_weighting
def test_deep_clustering_does_not_depend_on_the_order_of_the_bins(weights):
    given, (mixture, sources) = outputs(), spectra()
    order = torch.randperm(N * F, generator=torch.Generator().manual_seed(0))
    shuffled = [x.flatten(-2)[..., order].unflatten(-1, (N, F)) for x in (mixture, sources)]
    moved = given["embedding"].flatten(1, 2)[:, order].unflatten(1, (N, F))
    want = loss("dc", given, mixture, sources, weights=weights)
    torch.testing.assert_close(loss("dc", {"embedding": moved}, *shuffled, weights=weights), want)
    assert (loss("dc", {"embedding": moved}, mixture, sources, weights=weights) - want).abs().max() > 1e-3


def test_bins_without_weight_have_no_gradient():
    given, (mixture, sources) = outputs(), spectra()
    quiet = torch.rand(N, F, generator=torch.Generator().manual_seed(0)) < 0.5
    sources = torch.where(quiet, sources * 1e-3, sources)
    loss("dc", given, mixture, sources, weights="vad").sum().backward()
    assert given["embedding"].grad[:, quiet].eq(0).all()
    assert given["embedding"].grad[:, ~quiet].ne(0).all()


def test_ratio_weights_are_one_on_average():
    mixture, sources = spectra()
    weights = bin_weights(mixture, sources, "ratio")
    assert weights.mean(1).tolist() == pytest.approx([1, 1], abs=1e-6)
    torch.testing.assert_close(weights[:, 0] / weights[:, 1], mixture[:, 0, 0].abs() / mixture[:, 0, 1].abs())


def test_vad_weights_hold_what_is_within_40_db_of_the_loudest_source():
    # each bin by its louder source, against the loudest bin of either: 0, -39, -41 dB, silence
    sources = torch.tensor([[1.0, 1e-3, 10 ** (-41 / 20), 0], [0.5, 10 ** (-39 / 20), 0, 0]]).reshape(1, 2, 1, 4) + 0j
    mixture = torch.full((1, 1, 4), 100.0) + 0j  # what the mixture holds beside them does not count
    assert bin_weights(mixture, sources, "vad").tolist() == [[1, 1, 0, 0]]
    assert bin_weights(mixture, sources, "none").tolist() == [[1, 1, 1, 1]]
