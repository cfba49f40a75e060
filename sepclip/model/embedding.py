"""The embedding layer of deep clustering and the matrix products of its losses, with hand-written gradients.

A 3 s excerpt has a million embedding values. Written operation by operation, activation, normalisation, weighting and
matrix products pass over all of them some twenty times per step, forward and backward: a quarter of the whole step. On
a CPU these functions process a piece at a time, so that it stays in the cache. The matrix products are computed from
the raw output of the layer in one function that stores no unit vectors: the backward pass computes them again.
docs/RESULTS.md has the measurements.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

EmbeddingActivation = Literal["sigmoid", "tanh", "none"]

# Each activation with its derivative. Both work in place: the activation on its input, the derivative on the gradient,
# which it turns into the gradient of the input from the value y of the activation.
_ACTIVATIONS: dict[EmbeddingActivation, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "sigmoid": (torch.sigmoid_, lambda g, y: torch.ops.aten.sigmoid_backward(g, y, grad_input=g)),
    "tanh": (torch.tanh_, lambda g, y: torch.ops.aten.tanh_backward(g, y, grad_input=g)),
    "none": (lambda x: x, lambda gradient, _: gradient),
}
_SHORTEST = 1e-12  # least norm to divide by: a zero vector remains zero, as in torch.nn.functional.normalize
_ROWS = 65536  # rows of a piece; with 20 numbers each 5.2 MB. Smaller pieces cost more in starting and joining threads


def unit_embedding(raw: Tensor, activation: EmbeddingActivation) -> Tensor:
    """Return vectors (B, N, F, E) of unit norm from the output ``raw`` (B, N, F, E) of a layer, after ``activation``.

    The result is in float32 whatever the precision of ``raw`` (float64 stays float64).
    """
    return _UnitEmbedding.apply(raw, activation)  # type: ignore[no-any-return, no-untyped-call]


def weighted_products(
    raw: Tensor, labels: Tensor, weights: Tensor, activation: EmbeddingActivation
) -> tuple[Tensor, Tensor]:
    """Return V^T W V (B, E, E) and Y^T W V (B, S, E) for V, the unit vectors of ``raw`` (B, K, E) for K bins.

    Y^T is ``labels`` (B, S, K); W is diagonal with ``weights`` (B, K), which must not be negative. The results have the
    dtype of the weights and are differentiable with respect to ``raw`` only.
    """
    return _UnitProducts.apply(raw, labels, weights, activation)  # type: ignore[no-any-return, no-untyped-call]


@dataclass(frozen=True)
class RawEmbedding:
    """The output of an embedding layer for all bins (B, N, F, E), before ``activation`` and normalisation."""

    raw: Tensor
    activation: EmbeddingActivation = "none"

    def unit(self) -> Tensor:
        """Return the vectors of unit norm (B, N, F, E)."""
        return unit_embedding(self.raw, self.activation)

    def products(self, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the :func:`weighted_products` of all bins."""
        return weighted_products(self.raw.flatten(1, 2), labels, weights, self.activation)


def _pieces(rows: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield pieces of ``rows`` rows of all tensors on a CPU, and whole tensors on a GPU, which has no such cache."""
    size = rows if tensors[0].device.type == "cpu" else max(1, len(tensors[0]))
    return zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)


class _UnitEmbedding(Function):
    """Normalisation of the activated vectors s: u = s / |s|."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, activation: EmbeddingActivation) -> Tensor:
        dtype = torch.promote_types(raw.dtype, torch.float32)
        vectors = torch.empty(raw.shape, dtype=dtype, device=raw.device)
        norms = vectors.new_empty(*raw.shape[:-1], 1)
        # write norms and unit vectors of a piece while its activations are in the cache
        for values, norm, unit in _pieces(_ROWS, *(x.flatten(0, -2) for x in (raw, norms, vectors))):
            active = _ACTIVATIONS[activation][0](values.to(dtype, copy=True))  # a copy, since it works in place
            torch.linalg.vector_norm(active, dim=-1, keepdim=True, out=norm).clamp_min_(_SHORTEST)
            torch.div(active, norm, out=unit)
        # s itself is not stored: it is u |s|, and the derivatives of all activations follow from it
        ctx.save_for_backward(vectors, norms)
        ctx.activation, ctx.raw_dtype = activation, raw.dtype
        return vectors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        vectors, norms = ctx.saved_tensors
        raw_gradient = torch.empty(vectors.shape, dtype=ctx.raw_dtype, device=vectors.device)
        tensors = (x.flatten(0, -2) for x in (*gradients, vectors, norms, raw_gradient))
        for gradient, unit, norm, result in _pieces(_ROWS, *tensors):
            # dL/ds = (g - (g . u) u) / |s|: the part along u changes only the length, which was divided out
            radial = torch.linalg.vecdot(gradient, unit).unsqueeze(-1)
            tangential = torch.addcmul(gradient, radial, unit, value=-1).div_(norm)
            result.copy_(_ACTIVATIONS[ctx.activation][1](tangential, unit * norm))
        return raw_gradient, None


class _UnitProducts(Function):
    """The matrix products of unit vectors, computed from the raw output of a layer; unit vectors are never stored.

    With s the activated vector of a bin and u = w^1/2 s / |s|, V^T W V is the sum of u u^T over all bins, and Y^T W V
    is the sum of w^1/2 y u^T.
    """

    @staticmethod
    def forward(
        ctx: Any, raw: Tensor, labels: Tensor, weights: Tensor, activation: EmbeddingActivation
    ) -> tuple[Tensor, Tensor]:
        # weights are split into two roots, one for each side of a product
        batch, bins, size = raw.shape
        roots = weights.sqrt()  # (B, K)
        root_labels = labels * roots.unsqueeze(1)  # (B, S, K): w^1/2 y
        gram = weights.new_zeros(batch, size, size)
        cross = weights.new_zeros(batch, labels.shape[1], size)
        norms = weights.new_empty(batch, bins, 1)
        # add each piece of bins to both sums while its vectors are in the cache
        for first, (scaled,) in _buffers(1, weights, raw):
            piece = slice(first, first + scaled.shape[1])
            _ACTIVATIONS[activation][0](scaled.copy_(raw[:, piece]))
            norms[:, piece] = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True).clamp_min_(_SHORTEST)
            scaled.mul_(roots[:, piece].unsqueeze(-1) / norms[:, piece])
            gram.baddbmm_(scaled.mT, scaled)
            cross.baddbmm_(root_labels[:, :, piece], scaled)
        ctx.save_for_backward(raw, labels, roots, norms)
        ctx.activation = activation
        return gram, cross

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        raw, labels, roots, norms = ctx.saved_tensors
        gram_gradient, cross_gradient = gradients
        # dL/du = (G + G^T) u + w^1/2 H^T y for the gradients G of V^T W V and H of Y^T W V
        gram_gradient = gram_gradient + gram_gradient.mT
        factors = roots.unsqueeze(-1) / norms  # (B, K, 1): u = factor s
        scaled_labels = labels.mT * (factors * roots.unsqueeze(-1))  # (B, K, S)
        raw_gradient = torch.empty_like(raw)
        for first, (active, scratch, result) in _buffers(3, roots, raw):
            piece = slice(first, first + active.shape[1])
            # one more pass through the activation costs less than a million stored values
            _ACTIVATIONS[ctx.activation][0](active.copy_(raw[:, piece]))
            torch.mul(active, factors[:, piece].square(), out=scratch)
            torch.bmm(scratch, gram_gradient, out=result).baddbmm_(scaled_labels[:, piece], cross_gradient)
            # take away the part along s, which changes only the length
            radial = torch.mul(result, active, out=scratch).sum(-1, keepdim=True).div_(norms[:, piece].square())
            result.addcmul_(radial, active, value=-1)
            raw_gradient[:, piece] = _ACTIVATIONS[ctx.activation][1](result, active)
        return raw_gradient, None, None, None


def _buffers(count: int, like: Tensor, raw: Tensor) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Yield the first bin of each piece of ``raw`` (B, K, E) with ``count`` buffers of the piece's shape.

    All pieces share the memory of the buffers, which have the dtype and device of ``like``.
    """
    # a piece has about _ROWS bins over the whole batch; the last one may be shorter
    batch, bins, size = raw.shape
    most = max(1, _ROWS // max(1, batch)) if raw.device.type == "cpu" else bins
    memory = [like.new_empty(batch * min(most, bins) * size) for _ in range(count)]
    for first in range(0, bins, max(1, most)):
        length = min(most, bins - first)
        yield first, tuple(buffer[: batch * length * size].view(batch, length, size) for buffer in memory)
