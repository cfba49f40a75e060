"""Scale-invariant SDR in dB, for training and evaluation (Le Roux et al. 2019)."""

import torch
from torch import Tensor

from sepclip.audio.permutation import best_permutation

LEAST_DB, MOST_DB = -100.0, 100.0  # in means of scores, a silent and a perfect estimate count as these


def pairwise_si_sdr(*, est: Tensor, ref: Tensor) -> Tensor:
    """Return the SI-SDR (B, est, ref) in dB of every estimate (B, est, T) against every reference (B, ref, T).

    Means are removed first, and everything is computed in float64. With rho the correlation of the pair, SI-SDR is
    10 log10(rho^2 / (1 - rho^2)), which ignores gain and sign. A perfect estimate gives inf (above 250 dB float64 has
    no precision left), one that is orthogonal to its reference -inf, and a constant (silent) wave on either side NaN.
    """
    silent = _constant(est).unsqueeze(2) | _constant(ref).unsqueeze(1)  # (B, est, ref)
    est, ref = (wave.double() - wave.double().mean(-1, keepdim=True) for wave in (est, ref))
    dot = est @ ref.mT  # (B, est, ref)
    ref_energy = ref.square().sum(-1).unsqueeze(1)  # (B, 1, ref)
    scale = dot / ref_energy  # (B, est, ref)
    # Form the residual from the samples: est_energy - target_energy would cancel near a perfect estimate. This needs
    # (B, est, ref, T) in memory, for a moment.
    target = (scale.unsqueeze(-1) * ref.unsqueeze(1)).square().sum(-1)  # (B, est, ref)
    residual = (est.unsqueeze(2) - scale.unsqueeze(-1) * ref.unsqueeze(1)).square().sum(-1)
    residual = residual.masked_fill(residual < target * 1e-25, 0)
    return (10 * (target / residual).log10()).masked_fill(silent, float("nan"))


def _constant(wave: Tensor) -> Tensor:
    """Return which waves (..., T) are constant (...): without their mean, only rounding errors are left of them."""
    return (wave == wave[..., :1]).all(-1)


def si_sdr(*, est: Tensor, ref: Tensor) -> Tensor:
    """Return the SI-SDR (B, S) in dB of each estimate (B, S, T) against the reference of the same index."""
    return pairwise_si_sdr(est=est.flatten(0, 1).unsqueeze(1), ref=ref.flatten(0, 1).unsqueeze(1)).reshape(
        est.shape[:2]
    )


def si_sdr_improvement(*, est: Tensor, ref: Tensor, mixture: Tensor, fixed_order: bool = False) -> Tensor:
    """Return the mean SI-SDR improvement (K,) in dB of estimates (B, S, T) over the ``mixture`` (B, T).

    The mean is over the sources. Estimates are paired by the best permutation, and items with a silent source are left
    out. With ``fixed_order`` they are paired by index, silent sources are excluded from the mean, and only items in
    which all sources are silent are left out. So K may be less than B. A silent estimate counts as -100 dB.
    """
    sounds = ~_constant(ref)  # (B, S)
    before = si_sdr(est=mixture.unsqueeze(1).expand_as(ref), ref=ref)  # (B, S)
    if fixed_order:
        gains = _bounded(si_sdr(est=est, ref=ref)) - _bounded(before)  # (B, S)
        usable = sounds.any(-1)  # (B,)
        # mean over the sources that sound
        return ((gains * sounds).sum(-1) / sounds.sum(-1).clamp_min(1))[usable]
    usable = sounds.all(-1)  # (B,)
    best, _ = best_permutation(_bounded(pairwise_si_sdr(est=est, ref=ref)[usable]), maximise=True)
    return best - before[usable].clamp(LEAST_DB, MOST_DB).mean(-1)


def _bounded(scores: Tensor) -> Tensor:
    return scores.nan_to_num(LEAST_DB).clamp(LEAST_DB, MOST_DB)


def align_to_first(waves: Tensor, values: Tensor) -> Tensor:
    """Return ``values`` (I, S, ...) without the first item, with the sources of each item in the first item's order.

    The order is the one in which the ``waves`` (I, S, T) of an item have the best mean SI-SDR against the first item's.
    """
    reference = waves[:1].expand(len(waves) - 1, -1, -1)  # (I - 1, S, T)
    similarity = pairwise_si_sdr(est=waves[1:], ref=reference).nan_to_num(-300, 300, -300)  # (I - 1, est, ref)
    _, order = best_permutation(similarity, maximise=True)  # (I - 1, S)
    return torch.stack([item[indices] for item, indices in zip(values[1:], order, strict=True)])
