"""The scale of estimates that were trained with a scale-invariant loss."""

import torch
from torch import Tensor


def factors(gram: Tensor, dots: Tensor) -> Tensor:
    """Return the factors (G, S) of S waves, in G groups, that bring their sum nearest to the mixture by least squares.

    ``gram`` (G, S, S) contains the dot products of the waves with each other, ``dots`` (G, S) with the mixture.
    """
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()  # (G, S)
    # Normalise the waves first: their scales may differ by orders of magnitude, and the ridge must suit all of them.
    inverse = torch.where(norms > 0, 1 / norms, torch.ones_like(norms))
    # The ridge makes the matrix invertible if estimates are alike (they then share the mixture) or silent (factor 0).
    ridge = 1e-6 * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    unit = gram * inverse.unsqueeze(-1) * inverse.unsqueeze(-2) + ridge
    # Cholesky, because a batched solve or LU fails on the CPU in torch 2.13 (torch.set_num_threads above 1)
    amounts = torch.cholesky_solve((dots * inverse).unsqueeze(-1), torch.linalg.cholesky(unit))  # (G, S, 1)
    return amounts.squeeze(-1) * inverse
