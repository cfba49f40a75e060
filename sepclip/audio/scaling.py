"""The scale of waves that a loss left open."""

import torch
from torch import Tensor


def factors(gram: Tensor, dots: Tensor) -> Tensor:
    """Return what to multiply each of some waves by, (G, S), so that their sum comes nearest to a mixture.

    By least squares, from the products of the waves with one another (G, S, S) and with the mixture (G, S).
    """
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()  # (G, S)
    inverse = torch.where(norms > 0, 1 / norms, torch.ones_like(norms))
    # estimates that are all alike share the mixture; a silent one stays silent
    ridge = 1e-6 * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    unit = gram * inverse.unsqueeze(-1) * inverse.unsqueeze(-2) + ridge
    amounts = torch.cholesky_solve((dots * inverse).unsqueeze(-1), torch.linalg.cholesky(unit))  # (G, S, 1)
    return amounts.squeeze(-1) * inverse
