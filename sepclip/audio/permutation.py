"""The best assignment of estimates to references, differentiable for training.

Stitching, validation (``audio/si_sdr.py``) and the examples of the report use it too; scoring has its own in
``scoring/pairing.py``.

Compute the loss of every pair once, reduced over time and frequency, and only then permute. A minimum taken before the
reduction would permute every bin separately, which is a different and meaningless loss.
"""

from functools import lru_cache
from itertools import permutations

import torch
from torch import Tensor

MOST_SOURCES = 8  # 8! = 40,320 sums an item; more sources would need a Hungarian solver


@lru_cache(maxsize=32)
def _permutations(sources: int, device: torch.device) -> Tensor:
    # the table is cached: made in inference mode, it could not take part in a later backward pass
    with torch.inference_mode(False):
        return torch.tensor(list(permutations(range(sources))), device=device)  # (P, S)


def best_permutation(pairwise: Tensor, *, maximise: bool, fixed_order: bool = False) -> tuple[Tensor, Tensor]:
    """Assign an estimate to each reference so that the mean over the sources is best.

    ``pairwise`` (B, est, ref) contains a loss (``maximise=False``) or a score for every pair. Returns the mean of the
    chosen pairs (B,), whose gradient reaches these pairs only, and ``order`` (B, ref): the estimate of each reference.
    Ties go to the first permutation, of which the identity is the very first. With ``fixed_order`` only the identity is
    considered. Raises ValueError for unequal numbers of estimates and references, or more than ``MOST_SOURCES``.
    """
    batch, estimates, references = pairwise.shape
    if estimates != references:
        raise ValueError(f"as many estimates as references are needed, got {estimates} and {references}")
    if fixed_order:
        order = torch.arange(references, device=pairwise.device).expand(batch, -1)  # (B, ref)
        return pairwise.diagonal(dim1=1, dim2=2).mean(-1), order
    if references > MOST_SOURCES:
        raise ValueError(f"at most {MOST_SOURCES} sources can be permuted, got {references}")
    # all permutations at once: row p of the table lists the estimate for each reference
    table = _permutations(references, pairwise.device)  # (P, ref)
    means = pairwise[:, table, torch.arange(references, device=pairwise.device)].mean(-1)  # (B, P)
    best = means.argmax(1) if maximise else means.argmin(1)  # (B,)
    return means.gather(1, best.unsqueeze(1)).squeeze(1), table[best]
