"""What deep clustering does to the embeddings of all bins, as functions with gradients of their own.

An excerpt of 3 s has a million numbers here. Activation, unit norm, weights and products, written one operation after
another, go through all of them some twenty times a step, forward and backward: a quarter of the whole step. These
functions do it piece by piece on a CPU, so that a piece stays in the cache, and keep no more than the backward pass
needs. Figures in docs/RESULTS.md.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

EmbeddingActivation = Literal["sigmoid", "tanh", "none"]

# in place, and the derivative by what they gave
_ACTIVATIONS: dict[EmbeddingActivation, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "sigmoid": (torch.sigmoid_, torch.ops.aten.sigmoid_backward),
    "tanh": (torch.tanh_, torch.ops.aten.tanh_backward),
    "none": (lambda x: x, lambda gradient, _: gradient),
}
_SHORTEST = 1e-12  # a vector of zeros stays one, as in torch.nn.functional.normalize
_ROWS = 16384  # of 20 numbers: 1.3 MB


def unit_embedding(raw: Tensor, activation: EmbeddingActivation) -> Tensor:
    """Return vectors (B, N, F, E) of unit norm from what a layer gave (B, N, F, E), through ``activation``.

    In float32 whatever the precision of ``raw`` (float64 stays).
    """
    return _UnitEmbedding.apply(raw, activation)  # type: ignore[no-any-return, no-untyped-call]


def weighted_products(vectors: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return V^T W V (B, E, E) and Y^T W V (B, S, E) for V ``vectors`` (B, N F, E), Y^T ``labels`` (B, S, N F).

    W is diagonal with ``weights`` (B, N F). Differentiable with respect to the vectors alone.
    """
    return _WeightedProducts.apply(vectors, labels, weights)  # type: ignore[no-any-return, no-untyped-call]


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


class _WeightedProducts(Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        grams, crosses = [], []
        for v, y, w in _pieces(1, vectors, labels, weights):  # excerpt by excerpt
            weighted = v * w.unsqueeze(-1)  # (1, N F, E)
            grams.append(v.mT @ weighted)
            crosses.append(y @ weighted)
        ctx.save_for_backward(vectors, labels, weights)
        return torch.cat(grams), torch.cat(crosses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        vectors, labels, weights = ctx.saved_tensors
        to_vectors = torch.empty_like(vectors)
        for gram, cross, v, y, w, result in _pieces(1, *gradients, vectors, labels, weights, to_vectors):
            torch.bmm(v, gram + gram.mT, out=result).baddbmm_(y.mT, cross).mul_(w.unsqueeze(-1))
        return to_vectors, None, None
