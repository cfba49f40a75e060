import pytest
import torch
from torch.nn import functional as F

from sepclip.model import embedding
from sepclip.model.embedding import RawEmbedding, unit_embedding, weighted_products

PLAIN = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "none": lambda x: x}
every_activation = pytest.mark.parametrize("activation", PLAIN)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True, params=[7, 16384])
def rows(request, monkeypatch):
    """Many pieces, the last one shorter, or a single one."""
    monkeypatch.setattr(embedding, "_ROWS", request.param)


@every_activation
def test_unit_embedding_is_activation_and_normalisation_with_their_gradient(activation):
    raw = (3 * random(2, 3, 5, 4)).requires_grad_()
    towards = random(2, 3, 5, 4, seed=1)
    expected = F.normalize(PLAIN[activation](raw), dim=-1)
    result = unit_embedding(raw, activation)
    torch.testing.assert_close(result, expected)
    gradients = [torch.autograd.grad((x * towards).sum(), raw)[0] for x in (result, expected)]
    torch.testing.assert_close(*gradients)
    assert torch.autograd.gradcheck(lambda x: unit_embedding(x, activation), (raw,))


@every_activation
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_vectors_are_float32_whatever_the_precision_of_the_layer(activation, kind):
    raw = random(1, 3, 5, 20).to(kind).requires_grad_()
    result = unit_embedding(raw, activation)
    assert result.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
    torch.testing.assert_close(result, F.normalize(PLAIN[activation](raw.detach().to(result.dtype)), dim=-1))
    result.square().sum().backward()
    assert raw.grad.dtype == kind
    assert raw.grad.abs().max() < 1e-6  # the norm is one whatever the layer gives


@every_activation
def test_zeros_and_extremes_have_finite_gradients(activation):
    raw = torch.tensor([[[[0.0, 0, 0], [1e4, -1e4, 0], [-200, -200, -200]]]], requires_grad=True)
    result = unit_embedding(raw, activation)
    assert result.isfinite().all()
    result.sum().backward()
    assert raw.grad.isfinite().all()


def products_by_definition(raw, labels, weights, activation):
    """Return V^T W V and Y^T W V by torch's own operations."""
    vectors = F.normalize(PLAIN[activation](raw), dim=-1)
    weighted = weights.diag_embed() @ vectors
    return vectors.mT @ weighted, labels @ weighted


@every_activation
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_products_and_gradient_equal_their_definition(activation, kind):
    raw, labels = (2 * random(3, 15, 4)).to(kind).requires_grad_(), random(3, 2, 15, seed=1).to(kind)
    weights = random(3, 15, seed=2).square().to(kind)
    weights[:, ::4] = 0
    towards = random(3, 4, 4, seed=3).to(kind), random(3, 2, 4, seed=4).to(kind)
    result = weighted_products(raw, labels, weights, activation)
    expected = products_by_definition(raw, labels, weights, activation)
    torch.testing.assert_close(result, expected)
    gradients = [torch.autograd.grad(one, raw, towards)[0] for one in (result, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().amax((0, 2))[::4].eq(0).all()  # bins without weight
    if kind == torch.float64:
        for part in (slice(None), slice(1), slice(1, 2)):  # both products, and each alone
            assert torch.autograd.gradcheck(lambda x, p=part: weighted_products(x, labels, weights, activation)[p], raw)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_products_are_float32_whatever_the_precision_of_the_layer(kind):
    raw, labels = random(2, 300, 20).to(kind).requires_grad_(), (random(2, 2, 300, seed=1) > 0).float()
    weights = random(2, 300, seed=2).square().float()
    result = weighted_products(raw, labels, weights, "sigmoid")
    exact = raw.detach().double().requires_grad_()
    expected = products_by_definition(exact, labels.double(), weights.double(), "sigmoid")
    towards = random(2, 20, 20, seed=3), random(2, 2, 20, seed=4)
    torch.testing.assert_close([x.double() for x in result], list(expected), rtol=1e-5, atol=1e-4)
    assert {x.dtype for x in result} == {torch.float32}
    torch.autograd.backward(result, [x.float() for x in towards])
    torch.autograd.backward(expected, towards)
    assert raw.grad.dtype == kind
    torch.testing.assert_close(raw.grad.double(), exact.grad, rtol=2 * torch.finfo(kind).eps, atol=1e-4)


def test_products_of_zeros_and_extremes_have_finite_gradients():
    raw = torch.tensor([[[0.0, 0, 0], [1e4, -1e4, 0], [-200, -200, -200]]])
    for activation in PLAIN:
        values = raw.clone().requires_grad_()
        result = weighted_products(values, torch.ones(1, 2, 3), torch.ones(1, 3), activation)
        assert all(x.isfinite().all() for x in result)
        sum(x.sum() for x in result).backward()
        assert values.grad.isfinite().all()


def test_raw_embedding_returns_vectors_and_products():
    layer_output = RawEmbedding(random(2, 3, 5, 4), "tanh")
    labels, weights = random(2, 2, 15, seed=1), random(2, 15, seed=2).square()
    torch.testing.assert_close(layer_output.unit(), F.normalize(layer_output.raw.tanh(), dim=-1))
    expected = products_by_definition(layer_output.raw.flatten(1, 2), labels, weights, "tanh")
    torch.testing.assert_close(layer_output.products(labels, weights), expected)


def test_second_derivatives_raise():
    raw = random(1, 2, 3, 4).requires_grad_()
    (first,) = torch.autograd.grad(unit_embedding(raw, "tanh").pow(3).sum(), raw, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
    gram, _ = weighted_products(raw.flatten(1, 2), torch.ones(1, 1, 6), torch.ones(1, 6), "tanh")
    (first,) = torch.autograd.grad(gram.pow(3).sum(), raw, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
