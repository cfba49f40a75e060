"""The best assignment of estimates to references, as training wants it (for scoring: pairing.py).

Compute every pair once, reduce over time and frequency, and only then permute: a minimum taken before the reduction
permutes every bin on its own and is a different, meaningless loss.
"""

from functools import lru_cache
from itertools import permutations

import torch
from torch import Tensor

MOST_SOURCES = 8  # 8! = 40,320 sums an item; beyond that a Hungarian solver would be due


@lru_cache(maxsize=32)
def _permutations(sources: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it is kept, and may be needed by a backward pass later
        return torch.tensor(list(permutations(range(sources))), device=device)  # (P, S)


def best_permutation(pairwise: Tensor, *, maximise: bool, fixed_order: bool = False) -> tuple[Tensor, Tensor]:
    """Choose for each reference the estimate that makes the mean over sources best.

    ``pairwise`` (B, est, ref) holds a loss (``maximise=False``) or a score for every pair. Returns the mean of the
    chosen pairs (B,), differentiable through them alone, and ``order`` (B, ref): the estimate of each reference.
    Ties go to the first permutation, the identity before all others. In a ``fixed_order`` there is but the identity.
    """
    batch, estimates, references = pairwise.shape
    if estimates != references:
        raise ValueError(f"as many estimates as references are needed, got {estimates} and {references}")
    if fixed_order:
        order = torch.arange(references, device=pairwise.device).expand(batch, -1)  # (B, ref)
        return pairwise.diagonal(dim1=1, dim2=2).mean(-1), order
    if references > MOST_SOURCES:
        raise ValueError(f"at most {MOST_SOURCES} sources can be permuted, got {references}")
    table = _permutations(references, pairwise.device)
    means = pairwise[:, table, torch.arange(references, device=pairwise.device)].mean(-1)  # (B, P)
    best = means.argmax(1) if maximise else means.argmin(1)  # (B,)
    return means.gather(1, best.unsqueeze(1)).squeeze(1), table[best]
