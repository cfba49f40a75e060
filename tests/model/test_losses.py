from dataclasses import replace
from itertools import permutations

import pytest
import torch

from sepclip.audio.masks import ideal_binary_mask, mask_target
from sepclip.audio.si_sdr import pairwise_si_sdr
from sepclip.audio.stft import STFT
from sepclip.model import losses
from sepclip.model.embedding import RawEmbedding
from sepclip.model.losses import LEAST_RIDGE, LOSSES, Signals, bin_weights
from tests.model.build import loss_settings

# every loss, and every one that a setting makes of it
CASES = {name: (name, loss_settings()) for name in LOSSES} | {
    "chimera of dc": ("chimera", loss_settings(clustering="dc", alpha=0.025)),
    "wkm, unit ridge": ("wkm", loss_settings(ridge="unit")),
}
CLUSTERINGS = ["dc", "wkm"]
every_loss = pytest.mark.parametrize("case", CASES)
every_clustering = pytest.mark.parametrize("name", CLUSTERINGS)
every_weighting = pytest.mark.parametrize("weights", ["ratio", "vad", "none"])
every_count = pytest.mark.parametrize("sources", [2, 3])
TRANSFORM = STFT(16, 4)
N, F, E, T = 6, 9, 4, 20  # 54 bins


def signals(batch=2, sources=2, seed=0):
    waves = torch.randn(batch, sources, T, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return of_waves(waves)


def of_waves(waves):
    mixture = waves.sum(1)
    return Signals(TRANSFORM.forward(mixture), TRANSFORM.forward(waves), mixture, waves)


def of_spectra(mixture, sources):
    nothing = torch.zeros(*sources.shape[:2], 0, dtype=torch.float64)
    return Signals(mixture.to(torch.complex128), sources.to(torch.complex128), nothing[:, 0], nothing)


def outputs(batch=2, sources=2, seed=1):
    chance = torch.Generator().manual_seed(seed)
    masks = torch.rand(batch, sources, N, F, dtype=torch.float64, generator=chance)
    vectors = torch.rand(batch, N, F, E, dtype=torch.float64, generator=chance)
    waves = torch.randn(batch, sources, T, dtype=torch.float64, generator=chance)
    unit = vectors / vectors.norm(dim=-1, keepdim=True)
    return {"mask": masks.requires_grad_(), "embedding": unit.requires_grad_(), "wave": waves.requires_grad_()}


def perfect(true):
    """Return outputs than which nothing is better: the ideal mask, the dominant source as embedding, the waves."""
    binary = ideal_binary_mask(true.sources)
    return {
        "mask": mask_target(true.mixture, true.sources) / true.mixture.abs().unsqueeze(1),
        "embedding": torch.cat([binary, torch.zeros_like(binary)], 1)[:, :E].permute(0, 2, 3, 1),
        "wave": true.source_waves,
    }


def ignorant(true):
    """Return outputs of a network that treats all sources alike."""
    sources = true.sources.shape[1]
    return {
        "mask": torch.full_like(true.sources.real, 1 / sources),
        "embedding": torch.full((*true.mixture.shape, E), E**-0.5, dtype=torch.float64),
        "wave": (true.mixture_wave / sources).unsqueeze(1).expand_as(true.source_waves) + 1e-9,
    }


_TENSORS = ("mixture", "sources", "mixture_wave", "source_waves")


def changed(true, change):
    """Return the signals with every tensor changed."""
    return replace(true, **{name: change(getattr(true, name)) for name in _TENSORS})


def loss(name, given, true, **settings):
    return LOSSES[name](given, true, loss_settings(**settings))


def loss_of(case, given, true):
    name, settings = CASES[case]
    return LOSSES[name](given, true, settings)


def heads(case):
    return LOSSES[CASES[case][0]].heads


def permuted(given, order):
    """Return outputs with the sources of every head in another order."""
    vectors = given["embedding"].clone()
    vectors[..., : len(order)] = vectors[..., order]
    return {"mask": given["mask"][:, order], "embedding": vectors, "wave": given["wave"][:, order]}


# laws of all losses


@every_loss
def test_a_loss_is_one_finite_number_an_item_and_has_a_gradient(case):
    given, true = outputs(), signals()
    got = loss_of(case, given, true)
    assert got.shape == (2,)
    assert got.isfinite().all()
    alone = loss_of(case, {k: v[1:] for k, v in given.items()}, changed(true, lambda x: x[1:]))
    torch.testing.assert_close(got[1:], alone)
    got.sum().backward()
    for head in heads(case):
        assert given[head].grad.abs().sum() > 0
    assert LOSSES[CASES[case][0]].separates_by in heads(case)


@every_loss
@every_count
def test_the_order_of_the_sources_does_not_matter(case, sources):
    given, true = outputs(sources=sources), signals(sources=sources)
    want = loss_of(case, given, true)
    for order in permutations(range(sources)):
        other = replace(true, sources=true.sources[:, order], source_waves=true.source_waves[:, order])
        torch.testing.assert_close(loss_of(case, given, other), want)
        torch.testing.assert_close(loss_of(case, permuted(given, order), true), want)


@every_loss
@every_count
def test_whole_swap_costs_nothing_and_a_swap_within_the_utterance_does(case, sources):
    true = signals(batch=1, sources=sources)
    best = perfect(true)
    least, blind = loss_of(case, best, true).item(), loss_of(case, ignorant(true), true).item()
    assert least < blind
    for order in permutations(range(sources)):
        assert loss_of(case, permuted(best, order), true).item() == pytest.approx(least, abs=1e-12)
    chance = torch.Generator().manual_seed(0)
    bins = torch.rand(1, sources, N, F, generator=chance).argsort(1)  # every bin has an order of its own
    samples = torch.rand(1, sources, T, generator=chance).argsort(1)
    shuffled = {
        "mask": best["mask"].take_along_dim(bins, 1),
        "embedding": best["embedding"].clone(),
        "wave": best["wave"].take_along_dim(samples, 1),
    }
    shuffled["embedding"][..., :sources] = best["embedding"][..., :sources].take_along_dim(bins.permute(0, 2, 3, 1), -1)
    assert loss_of(case, shuffled, true).item() > (least + blind) / 2


@every_loss
def test_gradient_is_the_derivative(case):
    given, true = outputs(batch=1), signals(batch=1)
    few = {"mask": given["mask"][..., :3, :4], "embedding": given["embedding"][:, :3, :4], "wave": given["wave"]}
    true = replace(true, mixture=true.mixture[:, :3, :4], sources=true.sources[..., :3, :4])
    names = heads(case)

    def function(*values):
        return loss_of(case, dict(zip(names, values, strict=True)), true)

    assert torch.autograd.gradcheck(function, tuple(few[name].detach().requires_grad_() for name in names))


def test_gradient_of_the_snr_goes_through_the_inverse_transform():
    true = signals()
    masks = outputs()["mask"]

    def function(mask):
        return loss("snr", {"wave": TRANSFORM.inverse(mask * true.mixture.unsqueeze(1), T)}, true)

    assert torch.autograd.gradcheck(function, (masks,))


@every_loss
@pytest.mark.parametrize("weights", ["ratio", "vad"])
def test_silence_gives_a_finite_loss_and_no_gradient(case, weights):
    name, settings = CASES[case]
    given, silent = outputs(), of_waves(torch.zeros(2, 2, T, dtype=torch.float64))
    got = LOSSES[name](given, silent, replace(settings, weights=weights))
    nothing_explained = {"wkm": E, "chimera": (1 - settings.alpha) * E if settings.clustering == "wkm" else 0}
    assert got.tolist() == [nothing_explained.get(name, 0)] * 2
    got.sum().backward()
    for head in heads(case):
        assert given[head].grad.abs().max() < 1e-12


@every_loss
@every_count
@pytest.mark.parametrize("amplitude", [0.0, 1e-30, 1e-9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_absent_source_does_no_harm(case, sources, amplitude, dtype):
    waves = signals(sources=sources).source_waves.to(dtype)
    waves[:, 1] *= amplitude
    given = {name: x.detach().to(dtype).requires_grad_() for name, x in outputs(sources=sources).items()}
    got = loss_of(case, given, of_waves(waves))
    assert got.isfinite().all()
    got.sum().backward()
    for head in heads(case):
        assert given[head].grad.isfinite().all()
        assert given[head].grad.abs().sum() > 0


@every_loss
def test_perfect_outputs_and_silent_ones_have_finite_gradients(case):
    true = signals()
    for values in (perfect(true), {name: torch.zeros_like(x) for name, x in perfect(true).items()}):
        given = {name: x.float().requires_grad_() for name, x in values.items()}
        got = loss_of(case, given, _to(true, torch.float32))
        assert got.isfinite().all()
        got.sum().backward()
        assert all(given[head].grad.isfinite().all() for head in heads(case))


@every_loss
def test_losses_are_computed_in_float32_within_autocast(case):
    chance = torch.Generator().manual_seed(0)
    transform, waves = STFT(), 0.1 * torch.randn(2, 2, 99 * 64, generator=chance)
    mixture = waves.sum(1)
    true = Signals(transform.forward(mixture), transform.forward(waves), mixture, waves)
    vectors = torch.rand(2, 100, 129, 20, generator=chance) + 3  # much alike, as at the start of training
    given = {
        "mask": torch.rand(2, 2, 100, 129, generator=chance),
        "embedding": vectors / vectors.norm(dim=-1, keepdim=True),
        "wave": waves + 0.01 * torch.randn(waves.shape, generator=chance),
    }
    with torch.autocast("cpu", torch.bfloat16):
        half = loss_of(case, given, true)
        rounded = loss_of(case, {name: x.bfloat16() for name, x in given.items()}, true)
    assert half.dtype == rounded.dtype == torch.float32
    assert torch.equal(half, loss_of(case, given, true))
    exact = loss_of(case, {name: x.double() for name, x in given.items()}, _to(true, torch.float64))
    torch.testing.assert_close(half.double(), exact, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(rounded.double(), exact, rtol=0.03, atol=1e-4)


def _to(true, dtype):
    return changed(true, lambda x: x.to(dtype.to_complex() if x.is_complex() else dtype))


# mask inference


def test_mask_inference_by_hand():
    # |X| = 2, 1; targets 1, 0 and 1, 1: errors |1 - 1|, |0.5 - 0| and |0.5 - 1|, |1 - 1|; their mean is 0.25
    true = of_spectra(torch.tensor([[[2.0, 1]]]), torch.tensor([[1.0, -3], [1, 4]]).reshape(1, 2, 1, 2))
    masks = torch.tensor([[0.5, 0.5], [0.25, 1]]).reshape(1, 2, 1, 2)
    assert loss("mi", {"mask": masks}, true).tolist() == [0.25]
    assert loss("mi", {"mask": masks.flip(1)}, true).tolist() == [0.25]
    # psa: targets 1, -3 and 1, 4: errors 0, 3.5 and 0.5, 3; msa: 1, 3 and 1, 4: 0, 2.5 and 0.5, 3
    assert loss("mi", {"mask": masks}, true, target="psa").tolist() == [7 / 4]
    assert loss("mi", {"mask": masks}, true, target="msa").tolist() == [6 / 4]


@every_count
@pytest.mark.parametrize("target", ["tpsa", "psa", "msa"])
def test_mask_inference_is_its_definition(sources, target):
    given, true = outputs(sources=sources), signals(sources=sources)
    want = []
    for item in range(2):
        x, several = true.mixture[item], true.sources[item]
        wanted = several.abs() * {"msa": 1}.get(target, torch.cos(x.angle() - several.angle()))
        if target == "tpsa":
            wanted = torch.minimum(wanted.clamp_min(0), x.abs())
        masked = given["mask"][item] * x.abs()
        errors = [(masked - wanted[list(order)]).abs().mean() for order in permutations(range(sources))]
        want.append(min(errors))
    torch.testing.assert_close(loss("mi", given, true, target=target), torch.stack(want))


# clustering


def dense_clustering(vectors, true, weights):
    """Return L_DC of one item from all pairs of its bins, as eq. (5) stands."""
    v, y, w = matrices(vectors, true, weights)
    return ((v @ v.mT - y @ y.mT).square() * w.outer(w)).sum() / w.sum() ** 2


def dense_whitened(vectors, true, weights):
    """Return L_WKM of one item by the second form of eq. (6), || V (V'V)^-1/2 - Y (Y'Y)^-1 Y'V (V'V)^-1/2 ||^2."""
    v, y, w = matrices(vectors, true, weights)
    v, y = v * w.sqrt().unsqueeze(1), y * w.sqrt().unsqueeze(1)
    values, rotation = torch.linalg.eigh(v.mT @ v)
    whitening = rotation @ values.rsqrt().diag() @ rotation.mT
    return (v @ whitening - y @ (y.mT @ y).inverse() @ y.mT @ v @ whitening).square().sum()


def matrices(vectors, true, weights):
    labels = torch.nn.functional.one_hot(true.sources[0].abs().flatten(1).argmax(0), true.sources.shape[1]).double()
    return vectors.flatten(0, 1), labels, bin_weights(true, weights)[0]


def item(true, index):
    return changed(true, lambda x: x[index : index + 1])


DENSE = {"dc": dense_clustering, "wkm": dense_whitened}


@pytest.mark.parametrize("case", [case for case in CASES if "embedding" in LOSSES[CASES[case][0]].heads])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "none"])
def test_a_layer_s_embeddings_have_the_loss_and_gradient_of_their_unit_vectors(case, activation):
    given, true = outputs(sources=3), signals(sources=3)
    raw = torch.randn(2, N, F, E, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()
    plain = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "none": lambda x: x}[activation](raw)
    vectors = plain / plain.norm(dim=-1, keepdim=True)
    want = loss_of(case, given | {"embedding": vectors}, true)
    got = loss_of(case, given | {"embedding": RawEmbedding(raw, activation)}, true)
    torch.testing.assert_close(got, want)
    gradients = [torch.autograd.grad(x.sum(), raw)[0] for x in (got, want)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 1e-6


@every_clustering
@every_weighting
@every_count
def test_low_rank_form_is_the_dense_one(name, weights, sources):
    given, true = outputs(sources=sources), signals(sources=sources)
    want = [DENSE[name](vectors, item(true, i), weights) for i, vectors in enumerate(given["embedding"])]
    got = loss(name, given, true, weights=weights, ridge=0.0)
    torch.testing.assert_close(got, torch.stack(want), rtol=0, atol=1e-11)
    low, high = {"dc": (0, 1), "wkm": (E - sources, E)}[name]
    assert low <= got.min() <= got.max() <= high


def worked(vectors, labels, weights):
    """Return the embedding and the signals of METHOD's worked examples: the ratio weights are as the mixture."""
    bins, size = len(labels), len(vectors[0])
    true = of_spectra(
        torch.tensor(weights, dtype=torch.float64).reshape(1, 1, bins),
        torch.tensor(labels, dtype=torch.float64).mT.reshape(1, 2, 1, bins),
    )
    return {"embedding": torch.tensor(vectors, dtype=torch.float64).reshape(1, 1, bins, size)}, true


def test_worked_example_of_deep_clustering():
    given, true = worked([[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6]], [[1, 0], [0, 1], [0, 1], [1, 0]], [1, 2, 1, 4])
    assert loss("dc", given, true).item() == pytest.approx(14.3328 / 64, abs=1e-12)
    assert loss("dc", given, true).item() == pytest.approx(0.22395, abs=1e-12)


WKM_EXAMPLE = (
    [[1, 0, 0], [0, 1, 0], [0.6, 0.8, 0], [0.48, 0.6, 0.64], [0, 0.6, 0.8]],
    [[1, 0], [0, 1], [0, 1], [1, 0], [1, 0]],
    [1, 2, 1, 4, 1],
)


def test_worked_example_of_whitened_k_means(monkeypatch):
    given, true = worked(*WKM_EXAMPLE)
    assert loss("wkm", given, true, ridge=0.0).item() == pytest.approx(1.0557217103, abs=1e-9)
    # the ridge of 1 is meant for weights that sum up to 9, which is not the number of bins
    monkeypatch.setattr(losses, "bin_weights", lambda *_: torch.tensor([WKM_EXAMPLE[2]], dtype=torch.float64))
    unit = loss("wkm", given, true, ridge="unit").item()
    assert unit == pytest.approx(1.8953948534, abs=1e-9)
    # nussl: (D + C) - 2 tr(...) with ones added to both diagonals
    assert 2 * unit + 2 - 3 == pytest.approx(2.7907897067, abs=1e-9)
    assert unit == pytest.approx(((3 + 2) - 2 * (3 - unit) - 2 + 3) / 2)


def nussl_form(vectors, labels, weights):
    """Return (D + C) - 2 tr((V'V + I)^-1 V'Y (Y'Y + I)^-1 Y'V)."""
    v, y = vectors * weights.sqrt().unsqueeze(1), labels * weights.sqrt().unsqueeze(1)
    size, sources = v.shape[1], y.shape[1]
    whitened = (v.mT @ v + torch.eye(size)).inverse() @ v.mT @ y @ (y.mT @ y + torch.eye(sources)).inverse() @ y.mT @ v
    return size + sources - 2 * whitened.trace()


@every_count
@pytest.mark.parametrize("ridge", [1e-4, 0.1, 1.0])
def test_ridge_is_a_share_of_the_mean_of_the_diagonal(sources, ridge):
    given, true = outputs(sources=sources), signals(sources=sources)
    got = loss("wkm", given, true, ridge=ridge)
    for index in range(2):
        v, y, w = matrices(given["embedding"][index], item(true, index), "ratio")
        a, b = (x.mT @ (x * w.unsqueeze(1)) for x in (v, y))
        a, b = (m + ridge * m.trace() / len(m) * torch.eye(len(m)) for m in (a, b))
        m = v.mT @ (y * w.unsqueeze(1))
        torch.testing.assert_close(got[index], E - (a.inverse() @ m @ b.inverse() @ m.mT).trace())


@every_count
def test_unit_ridge_is_half_of_nussls_form(sources):
    given, true = outputs(sources=sources), signals(sources=sources)
    got = loss("wkm", given, true, ridge="unit")
    for index in range(2):
        want = nussl_form(*matrices(given["embedding"][index], item(true, index), "ratio"))
        torch.testing.assert_close(2 * got[index] + sources - E, want)


@every_clustering
@every_weighting
@pytest.mark.parametrize("ridge", [0.0, 1e-4])
def test_clustering_does_not_depend_on_the_size_of_the_weights(name, weights, ridge, monkeypatch):
    given, true = outputs(), signals()
    want = loss(name, given, true, weights=weights, ridge=ridge)
    louder = changed(true, lambda x: 10 * x)
    torch.testing.assert_close(loss(name, given, louder, weights=weights, ridge=ridge), want)
    unit = loss("wkm", given, true, weights=weights, ridge="unit")
    monkeypatch.setattr(losses, "bin_weights", lambda *arguments: 10 * bin_weights(*arguments))
    torch.testing.assert_close(loss(name, given, true, weights=weights, ridge=ridge), want)
    assert (loss("wkm", given, true, weights=weights, ridge="unit") - unit).abs().max() > 1e-3


@every_clustering
@every_weighting
def test_clustering_does_not_depend_on_the_order_of_the_bins(name, weights):
    given, true = outputs(), signals()
    order = torch.randperm(N * F, generator=torch.Generator().manual_seed(0))
    shuffled = of_spectra(*(x.flatten(-2)[..., order].unflatten(-1, (N, F)) for x in (true.mixture, true.sources)))
    moved = given["embedding"].flatten(1, 2)[:, order].unflatten(1, (N, F))
    want = loss(name, given, true, weights=weights)
    torch.testing.assert_close(loss(name, {"embedding": moved}, shuffled, weights=weights), want)
    assert (loss(name, {"embedding": moved}, true, weights=weights) - want).abs().max() > 1e-3


@every_clustering
@every_count
def test_perfect_embeddings(name, sources):
    true = signals(sources=sources)
    got = loss(name, perfect(true), true, ridge=0.0 if sources == E else 1e-12)
    want = {"dc": 0, "wkm": E - sources}[name]
    torch.testing.assert_close(got, torch.full_like(got, want), rtol=0, atol=1e-9)


def test_whitened_k_means_sees_the_space_of_the_embeddings_alone():
    given, true = outputs(), signals()
    turn = torch.randn(E, E, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    want = loss("wkm", given, true, ridge=0.0)
    torch.testing.assert_close(loss("wkm", {"embedding": given["embedding"] @ turn}, true, ridge=0.0), want)


def test_a_source_that_never_is_the_loudest_adds_one():
    waves = signals().source_waves
    waves[:, 1] = 0
    true = of_waves(waves)
    got = loss("wkm", perfect(true), true)
    torch.testing.assert_close(got, torch.full_like(got, E - 1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("ridge", [LEAST_RIDGE, 1e-4, "unit"])
@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-4, 1e-2])
def test_embeddings_all_alike_have_a_finite_loss_in_float32(ridge, spread):
    chance = torch.Generator().manual_seed(0)
    spectra = torch.randn(2, 2, 100, 129, dtype=torch.complex64, generator=chance)
    true = Signals(spectra.sum(1), spectra, spectra.real[:, 0, 0], spectra.real[:, :, 0])
    vectors = torch.full((2, 100, 129, 20), 20**-0.5) + spread * torch.randn(2, 100, 129, 20, generator=chance)
    vectors.requires_grad_()
    got = loss("wkm", {"embedding": vectors}, true, ridge=ridge)
    exact = loss("wkm", {"embedding": vectors.detach().double()}, _to(true, torch.float64), ridge=ridge)
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=0.05)
    got.sum().backward()
    assert vectors.grad.isfinite().all()


@pytest.mark.parametrize("name", ["dc", "wkm", "chimera"])
def test_bins_without_weight_have_no_gradient(name):
    given, true = outputs(), signals()
    quiet = torch.rand(N, F, generator=torch.Generator().manual_seed(0)) < 0.5
    true = replace(true, sources=torch.where(quiet, true.sources * 1e-4, true.sources))
    loss(name, given, true, weights="vad").sum().backward()
    assert given["embedding"].grad[:, quiet].eq(0).all()
    assert given["embedding"].grad[:, ~quiet].ne(0).all()


def test_ratio_weights_are_one_on_average():
    true = signals()
    weights = bin_weights(true, "ratio")
    assert weights.mean(1).tolist() == pytest.approx([1, 1], abs=1e-5)
    x = true.mixture.abs()
    torch.testing.assert_close(weights[:, 0] / weights[:, 1], x[:, 0, 0] / x[:, 0, 1])


def test_vad_weights_hold_what_is_within_40_db_of_the_loudest_source():
    # each bin by its louder source, against the loudest bin of either: 0, -39, -41 dB, silence
    sources = torch.tensor([[1.0, 1e-3, 10 ** (-41 / 20), 0], [0.5, 10 ** (-39 / 20), 0, 0]]).reshape(1, 2, 1, 4) + 0j
    mixture = torch.full((1, 1, 4), 100.0) + 0j  # what the mixture holds beside them does not count
    assert bin_weights(of_spectra(mixture, sources), "vad").tolist() == [[1, 1, 0, 0]]
    assert bin_weights(of_spectra(mixture, sources), "none").tolist() == [[1, 1, 1, 1]]


@every_clustering
@pytest.mark.parametrize("alpha", [0.0, 0.025, 0.75, 1.0])
def test_chimera_weighs_masks_by_alpha_and_clusters_by_the_rest(name, alpha):
    given, true = outputs(), signals()
    got = loss("chimera", given, true, clustering=name, alpha=alpha)
    want = alpha * loss("mi", given, true) + (1 - alpha) * loss(name, given, true)
    torch.testing.assert_close(got, want)


# waves


def wave_loss(name, est, ref):
    ref = torch.tensor(ref, dtype=torch.float64)
    true = replace(of_waves(torch.zeros(1, 2, T)), source_waves=ref.unsqueeze(0), mixture_wave=ref.sum(0, keepdim=True))
    return loss(name, {"wave": torch.tensor(est, dtype=torch.float64).unsqueeze(0)}, true).item()


@pytest.mark.parametrize(("name", "want"), [("snr", 13.010300), ("si-sdr", 24.608978)])
def test_worked_example_of_the_losses_of_waves(name, want):
    s, e = [1, -1, 2, -2], [1, -0.5, 2, -1.5]
    other = [2, 0, -3, 1]
    perfect_pair = 80.0  # the most that a loss of waves tells
    assert wave_loss(name, [e, other], [s, other]) == pytest.approx(-(want + perfect_pair) / 2, abs=1e-5)
    assert wave_loss(name, [other, e], [s, other]) == pytest.approx(-(want + perfect_pair) / 2, abs=1e-5)


@every_count
def test_losses_of_waves_are_their_definitions(sources):
    given, true = outputs(sources=sources), signals(sources=sources)
    orders = list(permutations(range(sources)))
    by_snr = []
    for est, ref in zip(given["wave"], true.source_waves, strict=True):
        means = [
            (10 * ((r := ref[list(o)]).square().sum(-1) / (r - est).square().sum(-1)).log10()).mean() for o in orders
        ]
        by_snr.append(-max(means))
    torch.testing.assert_close(loss("snr", given, true), torch.stack(by_snr), rtol=0, atol=1e-4)
    pairwise = pairwise_si_sdr(est=given["wave"], ref=true.source_waves)  # (B, est, ref)
    by_si_sdr = torch.stack([pairwise[:, o, range(sources)].mean(-1) for o in orders]).amax(0)
    torch.testing.assert_close(loss("si-sdr", given, true), -by_si_sdr, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["snr", "si-sdr"])
def test_a_silent_reference_does_not_count(name):
    given, true = outputs(sources=3), signals(sources=3)
    true.source_waves[:, 1] = 0
    got = loss(name, given, true)
    kept = replace(true, source_waves=true.source_waves[:, [0, 2]])
    several = [loss(name, {"wave": given["wave"][:, list(pair)]}, kept) for pair in ([0, 1], [0, 2], [1, 2])]
    torch.testing.assert_close(got, torch.stack(several).amin(0))  # the best pair for the two that sound
    # 79 dB below the other still counts, 81 dB do not
    true = signals()
    true.source_waves[:, 1] = true.source_waves[:, 0].flip(-1) * 10 ** (-79 / 20)
    heard = loss(name, outputs(), true)
    true.source_waves[:, 1] *= 10 ** (-2 / 20)
    assert (loss(name, outputs(), true) - heard).abs().min() > 0.1


def test_levels_do_not_matter_to_the_snr_and_the_estimates_alone_not_to_the_si_sdr():
    given, true = outputs(), signals()
    for gain in (1e-6, 1e6):
        louder = replace(true, source_waves=gain * true.source_waves)
        same = {"wave": gain * given["wave"]}
        torch.testing.assert_close(loss("snr", same, louder), loss("snr", given, true))
        torch.testing.assert_close(loss("si-sdr", same, true), loss("si-sdr", given, true))
    assert (loss("snr", {"wave": 2 * given["wave"]}, true) - loss("snr", given, true)).abs().max() > 0.1
    torch.testing.assert_close(loss("si-sdr", {"wave": -given["wave"]}, true), loss("si-sdr", given, true))
    assert [name for name in LOSSES if LOSSES[name].scale_free] == ["si-sdr"]
