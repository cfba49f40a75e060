"""The best assignment of estimates to references for scores: without torch, and for any number of sources."""

import numpy as np
from numpy.typing import NDArray


def best_order(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the estimate (ref,) of each reference by the best mean of ``scores`` (est, ref) in dB; NaN is worst."""
    from scipy.optimize import linear_sum_assignment

    bounded = np.nan_to_num(scores, nan=-300, posinf=300, neginf=-300)
    order: NDArray[np.int64] = linear_sum_assignment(bounded.T, maximize=True)[1]
    return order
