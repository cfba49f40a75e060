"""Pairing of estimates with references for scores. ``score_file.py`` calls it once per file.

The pairing maximises the mean SI-SDR over the sources (``Ratios.pairwise_si_sdr``). Training pairs by the same rule in
``audio/permutation.py``, which tries all permutations on the device; this one needs no torch, and solves the assignment
in polynomial time for any number of sources.
"""

import numpy as np
from numpy.typing import NDArray


def best_order(pairwise: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each reference the index (ref,) of its estimate, by the best mean of ``pairwise`` (est, ref) in dB.

    NaN counts as the worst score, and scores are limited to +-300 dB. The mean is over all references.
    """
    from scipy.optimize import linear_sum_assignment  # importing scipy.optimize is slow

    # the solver accepts neither NaN nor infinity
    bounded = np.nan_to_num(pairwise, nan=-300, posinf=300, neginf=-300)
    order: NDArray[np.int64] = linear_sum_assignment(bounded.T, maximize=True)[1]
    return order
