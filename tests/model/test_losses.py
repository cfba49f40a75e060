import math
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
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(batch, sources, N, F, dtype=torch.float64, generator=generator)
    vectors = torch.rand(batch, N, F, E, dtype=torch.float64, generator=generator)
    waves = torch.randn(batch, sources, T, dtype=torch.float64, generator=generator)
    unit = vectors / vectors.norm(dim=-1, keepdim=True)
    return {"mask": masks.requires_grad_(), "embedding": unit.requires_grad_(), "wave": waves.requires_grad_()}


def perfect_outputs(truth):
    """Return outputs than which nothing is better: the ideal mask, the dominant source as embedding, the waves."""
    binary = ideal_binary_mask(truth.sources)
    return {
        "mask": mask_target(truth.mixture, truth.sources) / truth.mixture.abs().unsqueeze(1),
        "embedding": torch.cat([binary, torch.zeros_like(binary)], 1)[:, :E].permute(0, 2, 3, 1),
        "wave": truth.source_waves,
    }


def blind_outputs(truth):
    """Return outputs of a network that treats all sources alike."""
    sources = truth.sources.shape[1]
    return {
        "mask": torch.full_like(truth.sources.real, 1 / sources),
        "embedding": torch.full((*truth.mixture.shape, E), E**-0.5, dtype=torch.float64),
        "wave": (truth.mixture_wave / sources).unsqueeze(1).expand_as(truth.source_waves) + 1e-9,
    }


_TENSORS = ("mixture", "sources", "mixture_wave", "source_waves")


def transform_signals(truth, change):
    """Return the signals with every tensor changed."""
    return replace(truth, **{name: change(getattr(truth, name)) for name in _TENSORS})


def loss(name, prediction, truth, **settings):
    return LOSSES[name](prediction, truth, loss_settings(**settings))


def loss_of(case, prediction, truth):
    name, settings = CASES[case]
    return LOSSES[name](prediction, truth, settings)


def heads(case):
    return LOSSES[CASES[case][0]].heads


def permute_outputs(prediction, order):
    """Return outputs with the sources of every head in another order."""
    vectors = prediction["embedding"].clone()
    vectors[..., : len(order)] = vectors[..., order]
    return {"mask": prediction["mask"][:, order], "embedding": vectors, "wave": prediction["wave"][:, order]}


# laws of all losses


@every_loss
def test_loss_is_finite_per_item_and_has_a_gradient(case):
    prediction, truth = outputs(), signals()
    result = loss_of(case, prediction, truth)
    assert result.shape == (2,)
    assert result.isfinite().all()
    alone = loss_of(case, {k: v[1:] for k, v in prediction.items()}, transform_signals(truth, lambda x: x[1:]))
    torch.testing.assert_close(result[1:], alone)
    result.sum().backward()
    for head in heads(case):
        assert prediction[head].grad.abs().sum() > 0
    assert LOSSES[CASES[case][0]].separates_by in heads(case)


@every_loss
@every_count
def test_loss_does_not_depend_on_the_order_of_the_sources(case, sources):
    prediction, truth = outputs(sources=sources), signals(sources=sources)
    expected = loss_of(case, prediction, truth)
    for order in permutations(range(sources)):
        other = replace(truth, sources=truth.sources[:, order], source_waves=truth.source_waves[:, order])
        torch.testing.assert_close(loss_of(case, prediction, other), expected)
        torch.testing.assert_close(loss_of(case, permute_outputs(prediction, order), truth), expected)


@every_loss
@every_count
def test_loss_is_permuted_by_utterance_and_not_by_bin(case, sources):
    truth = signals(batch=1, sources=sources)
    best = perfect_outputs(truth)
    least, blind = loss_of(case, best, truth).item(), loss_of(case, blind_outputs(truth), truth).item()
    assert least < blind
    for order in permutations(range(sources)):
        assert loss_of(case, permute_outputs(best, order), truth).item() == pytest.approx(least, abs=1e-12)
    generator = torch.Generator().manual_seed(0)
    bins = torch.rand(1, sources, N, F, generator=generator).argsort(1)  # every bin has an order of its own
    samples = torch.rand(1, sources, T, generator=generator).argsort(1)
    shuffled = {
        "mask": best["mask"].take_along_dim(bins, 1),
        "embedding": best["embedding"].clone(),
        "wave": best["wave"].take_along_dim(samples, 1),
    }
    shuffled["embedding"][..., :sources] = best["embedding"][..., :sources].take_along_dim(bins.permute(0, 2, 3, 1), -1)
    assert loss_of(case, shuffled, truth).item() > (least + blind) / 2


@every_loss
def test_gradient_equals_the_numerical_derivative(case):
    prediction, truth = outputs(batch=1), signals(batch=1)
    few = {
        "mask": prediction["mask"][..., :3, :4],
        "embedding": prediction["embedding"][:, :3, :4],
        "wave": prediction["wave"],
    }
    truth = replace(truth, mixture=truth.mixture[:, :3, :4], sources=truth.sources[..., :3, :4])
    names = heads(case)

    def function(*values):
        return loss_of(case, dict(zip(names, values, strict=True)), truth)

    assert torch.autograd.gradcheck(function, tuple(few[name].detach().requires_grad_() for name in names))


def test_snr_has_a_gradient_through_the_inverse_transform():
    truth = signals()
    masks = outputs()["mask"]

    def function(mask):
        return loss("snr", {"wave": TRANSFORM.inverse(mask * truth.mixture.unsqueeze(1), T)}, truth)

    assert torch.autograd.gradcheck(function, (masks,))


@every_loss
@pytest.mark.parametrize("weights", ["ratio", "vad"])
def test_silence_has_a_finite_loss_and_no_gradient(case, weights):
    name, settings = CASES[case]
    prediction, silent = outputs(), of_waves(torch.zeros(2, 2, T, dtype=torch.float64))
    result = LOSSES[name](prediction, silent, replace(settings, weights=weights))
    nothing_explained = {"wkm": E, "chimera": (1 - settings.alpha) * E if settings.clustering == "wkm" else 0}
    assert result.tolist() == [nothing_explained.get(name, 0)] * 2
    result.sum().backward()
    for head in heads(case):
        assert prediction[head].grad.abs().max() < 1e-12


@every_loss
@every_count
@pytest.mark.parametrize("amplitude", [0.0, 1e-30, 1e-9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_absent_source_leaves_loss_and_gradient_finite(case, sources, amplitude, dtype):
    waves = signals(sources=sources).source_waves.to(dtype)
    waves[:, 1] *= amplitude
    prediction = {name: x.detach().to(dtype).requires_grad_() for name, x in outputs(sources=sources).items()}
    result = loss_of(case, prediction, of_waves(waves))
    assert result.isfinite().all()
    result.sum().backward()
    for head in heads(case):
        assert prediction[head].grad.isfinite().all()
        assert prediction[head].grad.abs().sum() > 0


@every_loss
def test_perfect_outputs_and_silent_ones_have_finite_gradients(case):
    truth = signals()
    for values in (perfect_outputs(truth), {name: torch.zeros_like(x) for name, x in perfect_outputs(truth).items()}):
        prediction = {name: x.float().requires_grad_() for name, x in values.items()}
        result = loss_of(case, prediction, to_dtype(truth, torch.float32))
        assert result.isfinite().all()
        result.sum().backward()
        assert all(prediction[head].grad.isfinite().all() for head in heads(case))


@every_loss
def test_losses_are_computed_in_float32_within_autocast(case):
    generator = torch.Generator().manual_seed(0)
    transform, waves = STFT(), 0.1 * torch.randn(2, 2, 99 * 64, generator=generator)
    mixture = waves.sum(1)
    truth = Signals(transform.forward(mixture), transform.forward(waves), mixture, waves)
    vectors = torch.rand(2, 100, 129, 20, generator=generator) + 3  # much alike, as at the start of training
    prediction = {
        "mask": torch.rand(2, 2, 100, 129, generator=generator),
        "embedding": vectors / vectors.norm(dim=-1, keepdim=True),
        "wave": waves + 0.01 * torch.randn(waves.shape, generator=generator),
    }
    with torch.autocast("cpu", torch.bfloat16):
        half = loss_of(case, prediction, truth)
        rounded = loss_of(case, {name: x.bfloat16() for name, x in prediction.items()}, truth)
    assert half.dtype == rounded.dtype == torch.float32
    assert torch.equal(half, loss_of(case, prediction, truth))
    exact = loss_of(case, {name: x.double() for name, x in prediction.items()}, to_dtype(truth, torch.float64))
    torch.testing.assert_close(half.double(), exact, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(rounded.double(), exact, rtol=0.03, atol=1e-4)


def to_dtype(truth, dtype):
    return transform_signals(truth, lambda x: x.to(dtype.to_complex() if x.is_complex() else dtype))


# mask inference


def test_mask_inference_equals_an_example_by_hand():
    # |X| = 2, 1; targets 1, 0 and 1, 1: errors |1 - 1|, |0.5 - 0| and |0.5 - 1|, |1 - 1|; their mean is 0.25
    truth = of_spectra(torch.tensor([[[2.0, 1]]]), torch.tensor([[1.0, -3], [1, 4]]).reshape(1, 2, 1, 2))
    masks = torch.tensor([[0.5, 0.5], [0.25, 1]]).reshape(1, 2, 1, 2)
    assert loss("mi", {"mask": masks}, truth).tolist() == [0.25]
    assert loss("mi", {"mask": masks.flip(1)}, truth).tolist() == [0.25]
    # psa: targets 1, -3 and 1, 4: errors 0, 3.5 and 0.5, 3; msa: 1, 3 and 1, 4: 0, 2.5 and 0.5, 3
    assert loss("mi", {"mask": masks}, truth, target="psa").tolist() == [7 / 4]
    assert loss("mi", {"mask": masks}, truth, target="msa").tolist() == [6 / 4]


@every_count
@pytest.mark.parametrize("target", ["tpsa", "psa", "msa"])
def test_mask_inference_equals_its_definition(sources, target):
    prediction, truth = outputs(sources=sources), signals(sources=sources)
    expected = []
    for item in range(2):
        x, several = truth.mixture[item], truth.sources[item]
        magnitudes = several.abs() * {"msa": 1}.get(target, torch.cos(x.angle() - several.angle()))
        if target == "tpsa":
            magnitudes = torch.minimum(magnitudes.clamp_min(0), x.abs())
        masked = prediction["mask"][item] * x.abs()
        errors = [(masked - magnitudes[list(order)]).abs().mean() for order in permutations(range(sources))]
        expected.append(min(errors))
    torch.testing.assert_close(loss("mi", prediction, truth, target=target), torch.stack(expected))


# clustering


def dense_clustering(vectors, truth, weights):
    """Return L_DC of one item from all pairs of its bins, as eq. (5) stands."""
    v, y, w = matrices(vectors, truth, weights)
    return ((v @ v.mT - y @ y.mT).square() * w.outer(w)).sum() / w.sum() ** 2


def dense_whitened(vectors, truth, weights):
    """Return L_WKM of one item by the second form of eq. (6), || V (V'V)^-1/2 - Y (Y'Y)^-1 Y'V (V'V)^-1/2 ||^2."""
    v, y, w = matrices(vectors, truth, weights)
    v, y = v * w.sqrt().unsqueeze(1), y * w.sqrt().unsqueeze(1)
    values, rotation = torch.linalg.eigh(v.mT @ v)
    whitening = rotation @ values.rsqrt().diag() @ rotation.mT
    return (v @ whitening - y @ (y.mT @ y).inverse() @ y.mT @ v @ whitening).square().sum()


def matrices(vectors, truth, weights):
    labels = torch.nn.functional.one_hot(truth.sources[0].abs().flatten(1).argmax(0), truth.sources.shape[1]).double()
    return vectors.flatten(0, 1), labels, bin_weights(truth, weights)[0]


def take_item(truth, index):
    return transform_signals(truth, lambda x: x[index : index + 1])


DENSE = {"dc": dense_clustering, "wkm": dense_whitened}


@pytest.mark.parametrize("case", [case for case in CASES if "embedding" in LOSSES[CASES[case][0]].heads])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "none"])
def test_raw_embedding_has_the_loss_and_gradient_of_its_unit_vectors(case, activation):
    prediction, truth = outputs(sources=3), signals(sources=3)
    raw = torch.randn(2, N, F, E, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()
    plain = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "none": lambda x: x}[activation](raw)
    vectors = plain / plain.norm(dim=-1, keepdim=True)
    expected = loss_of(case, prediction | {"embedding": vectors}, truth)
    result = loss_of(case, prediction | {"embedding": RawEmbedding(raw, activation)}, truth)
    torch.testing.assert_close(result, expected)
    gradients = [torch.autograd.grad(x.sum(), raw)[0] for x in (result, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 1e-6


@every_clustering
@every_weighting
@every_count
def test_low_rank_form_equals_the_dense_form(name, weights, sources):
    prediction, truth = outputs(sources=sources), signals(sources=sources)
    expected = [DENSE[name](vectors, take_item(truth, i), weights) for i, vectors in enumerate(prediction["embedding"])]
    result = loss(name, prediction, truth, weights=weights, ridge=0.0)
    torch.testing.assert_close(result, torch.stack(expected), rtol=0, atol=1e-11)
    low, high = {"dc": (0, 1), "wkm": (E - sources, E)}[name]
    assert low <= result.min() <= result.max() <= high


def worked_example(vectors, labels, weights):
    """Return the embedding and the signals of METHOD's worked examples: the ratio weights are as the mixture."""
    bins, size = len(labels), len(vectors[0])
    truth = of_spectra(
        torch.tensor(weights, dtype=torch.float64).reshape(1, 1, bins),
        torch.tensor(labels, dtype=torch.float64).mT.reshape(1, 2, 1, bins),
    )
    return {"embedding": torch.tensor(vectors, dtype=torch.float64).reshape(1, 1, bins, size)}, truth


def test_deep_clustering_equals_the_worked_example():
    prediction, truth = worked_example(
        [[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6]], [[1, 0], [0, 1], [0, 1], [1, 0]], [1, 2, 1, 4]
    )
    assert loss("dc", prediction, truth).item() == pytest.approx(14.3328 / 64, abs=1e-12)
    assert loss("dc", prediction, truth).item() == pytest.approx(0.22395, abs=1e-12)


WKM_EXAMPLE = (
    [[1, 0, 0], [0, 1, 0], [0.6, 0.8, 0], [0.48, 0.6, 0.64], [0, 0.6, 0.8]],
    [[1, 0], [0, 1], [0, 1], [1, 0], [1, 0]],
    [1, 2, 1, 4, 1],
)


def test_whitened_k_means_equals_the_worked_example(monkeypatch):
    prediction, truth = worked_example(*WKM_EXAMPLE)
    assert loss("wkm", prediction, truth, ridge=0.0).item() == pytest.approx(1.0557217103, abs=1e-9)
    # the ridge of 1 is meant for weights that sum up to 9, which is not the number of bins
    monkeypatch.setattr(losses, "bin_weights", lambda *_: torch.tensor([WKM_EXAMPLE[2]], dtype=torch.float64))
    unit = loss("wkm", prediction, truth, ridge="unit").item()
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
    prediction, truth = outputs(sources=sources), signals(sources=sources)
    result = loss("wkm", prediction, truth, ridge=ridge)
    for index in range(2):
        v, y, w = matrices(prediction["embedding"][index], take_item(truth, index), "ratio")
        a, b = (x.mT @ (x * w.unsqueeze(1)) for x in (v, y))
        a, b = (m + ridge * m.trace() / len(m) * torch.eye(len(m)) for m in (a, b))
        m = v.mT @ (y * w.unsqueeze(1))
        torch.testing.assert_close(result[index], E - (a.inverse() @ m @ b.inverse() @ m.mT).trace())


@every_count
def test_unit_ridge_is_half_of_the_loss_of_nussl(sources):
    prediction, truth = outputs(sources=sources), signals(sources=sources)
    result = loss("wkm", prediction, truth, ridge="unit")
    for index in range(2):
        expected = nussl_form(*matrices(prediction["embedding"][index], take_item(truth, index), "ratio"))
        torch.testing.assert_close(2 * result[index] + sources - E, expected)


@every_clustering
@every_weighting
@pytest.mark.parametrize("ridge", [0.0, 1e-4])
def test_clustering_does_not_depend_on_the_scale_of_the_weights(name, weights, ridge, monkeypatch):
    prediction, truth = outputs(), signals()
    expected = loss(name, prediction, truth, weights=weights, ridge=ridge)
    louder = transform_signals(truth, lambda x: 10 * x)
    torch.testing.assert_close(loss(name, prediction, louder, weights=weights, ridge=ridge), expected)
    unit = loss("wkm", prediction, truth, weights=weights, ridge="unit")
    monkeypatch.setattr(losses, "bin_weights", lambda *arguments: 10 * bin_weights(*arguments))
    torch.testing.assert_close(loss(name, prediction, truth, weights=weights, ridge=ridge), expected)
    assert (loss("wkm", prediction, truth, weights=weights, ridge="unit") - unit).abs().max() > 1e-3


@every_clustering
@every_weighting
def test_clustering_does_not_depend_on_the_order_of_the_bins(name, weights):
    prediction, truth = outputs(), signals()
    order = torch.randperm(N * F, generator=torch.Generator().manual_seed(0))
    shuffled = of_spectra(*(x.flatten(-2)[..., order].unflatten(-1, (N, F)) for x in (truth.mixture, truth.sources)))
    moved = prediction["embedding"].flatten(1, 2)[:, order].unflatten(1, (N, F))
    expected = loss(name, prediction, truth, weights=weights)
    torch.testing.assert_close(loss(name, {"embedding": moved}, shuffled, weights=weights), expected)
    assert (loss(name, {"embedding": moved}, truth, weights=weights) - expected).abs().max() > 1e-3


@every_clustering
@every_count
def test_perfect_embeddings_have_the_least_loss(name, sources):
    truth = signals(sources=sources)
    result = loss(name, perfect_outputs(truth), truth, ridge=0.0 if sources == E else 1e-12)
    expected = {"dc": 0, "wkm": E - sources}[name]
    torch.testing.assert_close(result, torch.full_like(result, expected), rtol=0, atol=1e-9)


def test_whitened_k_means_depends_only_on_the_space_of_the_embeddings():
    prediction, truth = outputs(), signals()
    turn = torch.randn(E, E, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = loss("wkm", prediction, truth, ridge=0.0)
    torch.testing.assert_close(loss("wkm", {"embedding": prediction["embedding"] @ turn}, truth, ridge=0.0), expected)


def test_source_that_is_never_the_loudest_adds_one():
    waves = signals().source_waves
    waves[:, 1] = 0
    truth = of_waves(waves)
    result = loss("wkm", perfect_outputs(truth), truth)
    torch.testing.assert_close(result, torch.full_like(result, E - 1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("ridge", [LEAST_RIDGE, 1e-4, "unit"])
@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-4, 1e-2])
def test_identical_embeddings_have_a_finite_loss_in_float32(ridge, spread):
    generator = torch.Generator().manual_seed(0)
    spectra = torch.randn(2, 2, 100, 129, dtype=torch.complex64, generator=generator)
    truth = Signals(spectra.sum(1), spectra, spectra.real[:, 0, 0], spectra.real[:, :, 0])
    vectors = torch.full((2, 100, 129, 20), 20**-0.5) + spread * torch.randn(2, 100, 129, 20, generator=generator)
    vectors.requires_grad_()
    result = loss("wkm", {"embedding": vectors}, truth, ridge=ridge)
    exact = loss("wkm", {"embedding": vectors.detach().double()}, to_dtype(truth, torch.float64), ridge=ridge)
    torch.testing.assert_close(result.double(), exact, rtol=0, atol=0.05)
    result.sum().backward()
    assert vectors.grad.isfinite().all()


@pytest.mark.parametrize("name", ["dc", "wkm", "chimera"])
def test_bins_without_weight_have_no_gradient(name):
    prediction, truth = outputs(), signals()
    quiet = torch.rand(N, F, generator=torch.Generator().manual_seed(0)) < 0.5
    truth = replace(truth, sources=torch.where(quiet, truth.sources * 1e-4, truth.sources))
    loss(name, prediction, truth, weights="vad").sum().backward()
    assert prediction["embedding"].grad[:, quiet].eq(0).all()
    assert prediction["embedding"].grad[:, ~quiet].ne(0).all()


def test_ratio_weights_have_mean_one():
    truth = signals()
    weights = bin_weights(truth, "ratio")
    assert weights.mean(1).tolist() == pytest.approx([1, 1], abs=1e-5)
    x = truth.mixture.abs()
    torch.testing.assert_close(weights[:, 0] / weights[:, 1], x[:, 0, 0] / x[:, 0, 1])


def test_vad_weights_select_bins_within_40_db_of_the_loudest_source():
    # each bin by its louder source, against the loudest bin of either: 0, -39, -41 dB, silence
    sources = torch.tensor([[1.0, 1e-3, 10 ** (-41 / 20), 0], [0.5, 10 ** (-39 / 20), 0, 0]]).reshape(1, 2, 1, 4) + 0j
    mixture = torch.full((1, 1, 4), 100.0) + 0j  # what the mixture holds beside them does not count
    assert bin_weights(of_spectra(mixture, sources), "vad").tolist() == [[1, 1, 0, 0]]
    assert bin_weights(of_spectra(mixture, sources), "none").tolist() == [[1, 1, 1, 1]]


@every_clustering
@pytest.mark.parametrize("alpha", [0.0, 0.025, 0.75, 1.0])
def test_chimera_weights_masks_by_alpha_and_clusters_by_the_rest(name, alpha):
    prediction, truth = outputs(), signals()
    result = loss("chimera", prediction, truth, clustering=name, alpha=alpha)
    expected = alpha * loss("mi", prediction, truth) + (1 - alpha) * loss(name, prediction, truth)
    torch.testing.assert_close(result, expected)


# waves


def wave_loss(name, est, ref):
    ref = torch.tensor(ref, dtype=torch.float64)
    truth = replace(
        of_waves(torch.zeros(1, 2, T)), source_waves=ref.unsqueeze(0), mixture_wave=ref.sum(0, keepdim=True)
    )
    return loss(name, {"wave": torch.tensor(est, dtype=torch.float64).unsqueeze(0)}, truth).item()


@pytest.mark.parametrize(("name", "expected"), [("snr", 13.010300), ("si-sdr", 24.608978)])
def test_wave_losses_equal_the_worked_example(name, expected):
    s, e = [1, -1, 2, -2], [1, -0.5, 2, -1.5]
    other = [2, 0, -3, 1]
    perfect_pair = 80.0  # the most that a loss of waves tells
    assert wave_loss(name, [e, other], [s, other]) == pytest.approx(-(expected + perfect_pair) / 2, abs=1e-5)
    assert wave_loss(name, [other, e], [s, other]) == pytest.approx(-(expected + perfect_pair) / 2, abs=1e-5)


@every_count
def test_wave_losses_equal_their_definitions(sources):
    prediction, truth = outputs(sources=sources), signals(sources=sources)
    orders = list(permutations(range(sources)))
    by_snr = []
    for est, ref in zip(prediction["wave"], truth.source_waves, strict=True):
        means = [
            (10 * ((r := ref[list(o)]).square().sum(-1) / (r - est).square().sum(-1)).log10()).mean() for o in orders
        ]
        by_snr.append(-max(means))
    torch.testing.assert_close(loss("snr", prediction, truth), torch.stack(by_snr), rtol=0, atol=1e-4)
    pairwise = pairwise_si_sdr(est=prediction["wave"], ref=truth.source_waves)  # (B, est, ref)
    by_si_sdr = torch.stack([pairwise[:, o, range(sources)].mean(-1) for o in orders]).amax(0)
    torch.testing.assert_close(loss("si-sdr", prediction, truth), -by_si_sdr, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["snr", "si-sdr"])
def test_silent_reference_does_not_count(name):
    prediction, truth = outputs(sources=3), signals(sources=3)
    truth.source_waves[:, 1] = 0
    result = loss(name, prediction, truth)
    kept = replace(truth, source_waves=truth.source_waves[:, [0, 2]])
    several = [loss(name, {"wave": prediction["wave"][:, list(pair)]}, kept) for pair in ([0, 1], [0, 2], [1, 2])]
    torch.testing.assert_close(result, torch.stack(several).amin(0))  # the best pair for the two that sound
    # 79 dB below the other still counts, 81 dB do not
    truth = signals()
    truth.source_waves[:, 1] = truth.source_waves[:, 0].flip(-1) * 10 ** (-79 / 20)
    heard = loss(name, outputs(), truth)
    truth.source_waves[:, 1] *= 10 ** (-2 / 20)
    assert (loss(name, outputs(), truth) - heard).abs().min() > 0.1


def test_snr_ignores_a_common_level_and_si_sdr_that_of_the_estimates():
    prediction, truth = outputs(), signals()
    for gain in (1e-6, 1e6):
        louder = replace(truth, source_waves=gain * truth.source_waves)
        same = {"wave": gain * prediction["wave"]}
        torch.testing.assert_close(loss("snr", same, louder), loss("snr", prediction, truth))
        torch.testing.assert_close(loss("si-sdr", same, truth), loss("si-sdr", prediction, truth))
    assert (loss("snr", {"wave": 2 * prediction["wave"]}, truth) - loss("snr", prediction, truth)).abs().max() > 0.1
    torch.testing.assert_close(loss("si-sdr", {"wave": -prediction["wave"]}, truth), loss("si-sdr", prediction, truth))
    assert [name for name in LOSSES if LOSSES[name].scale_free] == ["si-sdr"]


def test_thresholded_snr_is_its_definition():
    prediction, truth = outputs(), signals()
    truth.source_waves[0, 1] = 0  # absent in the first mixture
    truth = replace(truth, mixture_wave=truth.source_waves.sum(1))
    floor = 1e-3 * truth.mixture_wave.square().sum(-1)
    wanted = []
    for est, ref, least in zip(prediction["wave"], truth.source_waves, floor, strict=True):
        losses = []
        for order in permutations(range(2)):
            error = (est[list(order)] - ref).square().sum(-1)
            losses.append((10 * ((error + least) / (ref.square().sum(-1) + least)).log10()).mean())
        wanted.append(min(losses))
    torch.testing.assert_close(loss("tsnr", prediction, truth), torch.stack(wanted))


def noise_like(waves):
    return torch.randn(waves.shape, generator=torch.Generator().manual_seed(1), dtype=waves.dtype)


def test_thresholded_snr_is_the_negative_snr_far_from_its_limits():
    truth = signals()
    error = noise_like(truth.source_waves)
    scale = (truth.source_waves.square().sum(-1) / error.square().sum(-1)).sqrt().unsqueeze(-1)
    for snr_db, tolerance in ((0, 0.05), (10, 0.1), (20, 1.0)):
        est = truth.source_waves + error * scale * 10 ** (-snr_db / 20)
        wanted = torch.full((2,), -float(snr_db), dtype=est.dtype)
        torch.testing.assert_close(loss("tsnr", {"wave": est}, truth), wanted, rtol=0, atol=tolerance)
    perfect = loss("tsnr", {"wave": truth.source_waves}, truth)
    assert ((perfect > -31) & (perfect < -26)).all()  # 30 dB if one source were all of the mixture


def test_thresholded_snr_teaches_silence_for_an_absent_source():
    truth = signals()
    truth.source_waves[:, 1] = 0
    truth = replace(truth, mixture_wave=truth.source_waves.sum(1))
    silent = loss("tsnr", {"wave": truth.source_waves}, truth)
    for share in (0.5, 0.1, 0.01):
        est = truth.source_waves.clone()
        est[:, 1] = share * truth.mixture_wave
        louder = loss("tsnr", {"wave": est}, truth)
        # half of 10 log10(1 + share^2 / tau): the other half of the mean is the voice, which is perfect
        torch.testing.assert_close(louder - silent, torch.full_like(silent, 5 * math.log10(1 + share**2 / 1e-3)))
    est = truth.source_waves + 0.01 * noise_like(truth.source_waves)
    est.requires_grad_()
    loss("tsnr", {"wave": est}, truth).sum().backward()
    assert (est.grad[:, 1].abs().sum(-1) > 0).all()


def test_thresholded_snr_has_a_bounded_gradient_and_none_without_sound():
    truth = signals()
    est = truth.source_waves.clone()
    for size in (0.0, 1e-6, 1e-3, 1.0, 1e3):
        near = (est + size * noise_like(est)).requires_grad_()
        loss("tsnr", {"wave": near}, truth).sum().backward()
        # |gradient| <= 10 / ln 10 / (sqrt(tau) |x|), averaged over the sources
        most = 10 / math.log(10) / (1e-3**0.5 * truth.mixture_wave.norm(dim=-1)) / 2
        assert (near.grad.norm(dim=-1) <= most.unsqueeze(1) * (1 + 1e-6)).all()
    silent = replace(truth, mixture_wave=torch.zeros_like(truth.mixture_wave), source_waves=torch.zeros_like(est))
    near = est.clone().requires_grad_()
    result = loss("tsnr", {"wave": near}, silent)
    result.sum().backward()
    assert result.eq(0).all()
    assert near.grad.eq(0).all()


def test_thresholded_snr_pairs_whole_utterances():
    truth = signals(sources=3)
    for order in permutations(range(3)):
        torch.testing.assert_close(
            loss("tsnr", {"wave": truth.source_waves[:, list(order)]}, truth),
            loss("tsnr", {"wave": truth.source_waves}, truth),
        )
