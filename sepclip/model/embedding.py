"""What deep clustering does to the embeddings of all bins, as functions with gradients of their own.

An excerpt of 3 s has a million numbers here. Activation, unit norm, weights and products, written one operation after
another, go through all of them some twenty times a step, forward and backward: a quarter of the whole step. These
functions do it piece by piece on a CPU, so that a piece stays in the cache. What a loss takes comes from what the layer
gave in one function, which stores no vectors: the backward pass makes them anew. Figures in docs/RESULTS.md.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

EmbeddingActivation = Literal["sigmoid", "tanh", "none"]

# in place, and in the place of a gradient that to what was given, by what they gave
_ACTIVATIONS: dict[EmbeddingActivation, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "sigmoid": (torch.sigmoid_, lambda g, y: torch.ops.aten.sigmoid_backward(g, y, grad_input=g)),
    "tanh": (torch.tanh_, lambda g, y: torch.ops.aten.tanh_backward(g, y, grad_input=g)),
    "none": (lambda x: x, lambda gradient, _: gradient),
}
_SHORTEST = 1e-12  # a vector of zeros stays one, as in torch.nn.functional.normalize
_ROWS = 65536  # of 20 numbers: 5.2 MB; of shorter pieces there are more, and each is begun and ended by all threads


def unit_embedding(raw: Tensor, activation: EmbeddingActivation) -> Tensor:
    """Return vectors (B, N, F, E) of unit norm from what a layer gave (B, N, F, E), through ``activation``.

    In float32 whatever the precision of ``raw`` (float64 stays).
    """
    return _UnitEmbedding.apply(raw, activation)  # type: ignore[no-any-return, no-untyped-call]


def weighted_products(
    raw: Tensor, labels: Tensor, weights: Tensor, activation: EmbeddingActivation
) -> tuple[Tensor, Tensor]:
    """Return V^T W V (B, E, E) and Y^T W V (B, S, E) for V the unit vectors of ``raw`` (B, K, E), K bins.

    Y^T is ``labels`` (B, S, K), W is diagonal with ``weights`` (B, K), none of them negative; what is returned is of
    their type. Differentiable with respect to ``raw`` alone.
    """
    return _UnitProducts.apply(raw, labels, weights, activation)  # type: ignore[no-any-return, no-untyped-call]


@dataclass(frozen=True)
class RawEmbedding:
    """The embeddings of all bins as a layer gave them (B, N, F, E), before ``activation`` and unit norm."""

    raw: Tensor
    activation: EmbeddingActivation = "none"

    def unit(self) -> Tensor:
        """Return the vectors of unit norm (B, N, F, E)."""
        return unit_embedding(self.raw, self.activation)

    def products(self, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return what :func:`weighted_products` does of all bins."""
        return weighted_products(self.raw.flatten(1, 2), labels, weights, self.activation)


def _pieces(rows: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield pieces of ``rows`` rows of all tensors on a CPU, everything at once on a GPU."""
    size = rows if tensors[0].device.type == "cpu" else max(1, len(tensors[0]))
    return zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)


class _UnitEmbedding(Function):
    @staticmethod
    def forward(ctx: Any, raw: Tensor, activation: EmbeddingActivation) -> Tensor:
        kind = torch.promote_types(raw.dtype, torch.float32)
        vectors = torch.empty(raw.shape, dtype=kind, device=raw.device)
        norms = vectors.new_empty(*raw.shape[:-1], 1)
        for given, norm, unit in _pieces(_ROWS, *(x.flatten(0, -2) for x in (raw, norms, vectors))):
            active = _ACTIVATIONS[activation][0](given.to(kind, copy=True))  # a copy, for it works in place
            torch.linalg.vector_norm(active, dim=-1, keepdim=True, out=norm).clamp_min_(_SHORTEST)
            torch.div(active, norm, out=unit)
        ctx.save_for_backward(vectors, norms)
        ctx.activation, ctx.kind = activation, raw.dtype
        return vectors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        vectors, norms = ctx.saved_tensors
        to_raw = torch.empty(vectors.shape, dtype=ctx.kind, device=vectors.device)
        tensors = (x.flatten(0, -2) for x in (*gradients, vectors, norms, to_raw))
        for gradient, unit, norm, result in _pieces(_ROWS, *tensors):
            along = torch.linalg.vecdot(gradient, unit).unsqueeze(-1)
            across = torch.addcmul(gradient, along, unit, value=-1).div_(norm)  # what turns the vector
            result.copy_(_ACTIVATIONS[ctx.activation][1](across, unit * norm))
        return to_raw, None


class _UnitProducts(Function):
    """The products of unit vectors, from what a layer gave; the vectors themselves are never stored.

    With s the activated vector of a bin and u = w^1/2 s / |s|, V^T W V sums up u u^T, and Y^T W V w^1/2 y u^T.
    """

    @staticmethod
    def forward(
        ctx: Any, raw: Tensor, labels: Tensor, weights: Tensor, activation: EmbeddingActivation
    ) -> tuple[Tensor, Tensor]:
        batch, bins, size = raw.shape
        roots = weights.sqrt()  # (B, K)
        marks = labels * roots.unsqueeze(1)  # (B, S, K)
        gram = weights.new_zeros(batch, size, size)
        cross = weights.new_zeros(batch, labels.shape[1], size)
        norms = weights.new_empty(batch, bins, 1)
        for first, (scaled,) in _buffers(1, weights, raw):
            part = slice(first, first + scaled.shape[1])
            _ACTIVATIONS[activation][0](scaled.copy_(raw[:, part]))
            norms[:, part] = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True).clamp_min_(_SHORTEST)
            scaled.mul_(roots[:, part].unsqueeze(-1) / norms[:, part])
            gram.baddbmm_(scaled.mT, scaled)
            cross.baddbmm_(marks[:, :, part], scaled)
        ctx.save_for_backward(raw, labels, roots, norms)
        ctx.activation = activation
        return gram, cross

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        raw, labels, roots, norms = ctx.saved_tensors
        to_gram, to_cross = gradients
        to_gram = to_gram + to_gram.mT
        factors = roots.unsqueeze(-1) / norms  # (B, K, 1), of s to u
        marks = labels.mT * (factors * roots.unsqueeze(-1))  # (B, K, S)
        to_raw = torch.empty_like(raw)
        for first, (active, scratch, result) in _buffers(3, roots, raw):
            part = slice(first, first + active.shape[1])
            _ACTIVATIONS[ctx.activation][0](active.copy_(raw[:, part]))
            torch.mul(active, factors[:, part].square(), out=scratch)
            torch.bmm(scratch, to_gram, out=result).baddbmm_(marks[:, part], to_cross)
            along = torch.mul(result, active, out=scratch).sum(-1, keepdim=True).div_(norms[:, part].square())
            result.addcmul_(along, active, value=-1)  # what turns the vector
            to_raw[:, part] = _ACTIVATIONS[ctx.activation][1](result, active)
        return to_raw, None, None, None


def _buffers(count: int, like: Tensor, raw: Tensor) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Yield the first bin of each piece of ``raw`` (B, K, E), and ``count`` buffers of its shape, the same for all."""
    batch, bins, size = raw.shape
    most = max(1, _ROWS // max(1, batch)) if raw.device.type == "cpu" else bins
    whole = [like.new_empty(batch * min(most, bins) * size) for _ in range(count)]
    for first in range(0, bins, max(1, most)):
        length = min(most, bins - first)
        yield first, tuple(one[: batch * length * size].view(batch, length, size) for one in whole)
