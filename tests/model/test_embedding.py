import pytest
import torch
from torch.nn import functional as F

from sepclip.model import embedding
from sepclip.model.embedding import unit_embedding, weighted_products

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
    want = F.normalize(PLAIN[activation](raw), dim=-1)
    got = unit_embedding(raw, activation)
    torch.testing.assert_close(got, want)
    gradients = [torch.autograd.grad((x * towards).sum(), raw)[0] for x in (got, want)]
    torch.testing.assert_close(*gradients)
    assert torch.autograd.gradcheck(lambda x: unit_embedding(x, activation), (raw,))


@every_activation
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_vectors_are_exact_whatever_the_layer_computes_in(activation, kind):
    raw = random(1, 3, 5, 20).to(kind).requires_grad_()
    got = unit_embedding(raw, activation)
    assert got.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
    torch.testing.assert_close(got, F.normalize(PLAIN[activation](raw.detach().to(got.dtype)), dim=-1))
    got.square().sum().backward()
    assert raw.grad.dtype == kind
    assert raw.grad.abs().max() < 1e-6  # the norm is one whatever the layer gives


@every_activation
def test_zeros_and_extremes_have_finite_gradients(activation):
    raw = torch.tensor([[[[0.0, 0, 0], [1e4, -1e4, 0], [-200, -200, -200]]]], requires_grad=True)
    got = unit_embedding(raw, activation)
    assert got.isfinite().all()
    got.sum().backward()
    assert raw.grad.isfinite().all()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_weighted_products_are_their_definition(kind):
    vectors, labels = random(3, 15, 4).to(kind).requires_grad_(), random(3, 2, 15, seed=1).to(kind)
    weights = random(3, 15, seed=2).square().to(kind)
    gram, cross = weighted_products(vectors, labels, weights)
    for item in range(3):
        v, y, w = vectors[item], labels[item], weights[item].diag()
        torch.testing.assert_close(gram[item], v.mT @ w @ v)
        torch.testing.assert_close(cross[item], y @ w @ v)
    if kind == torch.float64:
        assert torch.autograd.gradcheck(lambda v: weighted_products(v, labels, weights), (vectors,))
        assert torch.autograd.gradcheck(lambda v: weighted_products(v, labels, weights)[0], (vectors,))
        assert torch.autograd.gradcheck(lambda v: weighted_products(v, labels, weights)[1], (vectors,))


def test_second_derivatives_are_refused_and_not_wrong():
    raw = random(1, 2, 3, 4).requires_grad_()
    (first,) = torch.autograd.grad(unit_embedding(raw, "tanh").pow(3).sum(), raw, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
