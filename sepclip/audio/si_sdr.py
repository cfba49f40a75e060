"""Scores in dB, for training and evaluation: scale-invariant SDR (Le Roux et al. 2019)."""

import torch
from torch import Tensor

from sepclip.audio.permutation import best_permutation

LEAST_DB, MOST_DB = -100.0, 100.0  # what a mean of scores takes a silent and a perfect estimate for


def pairwise_si_sdr(*, est: Tensor, ref: Tensor) -> Tensor:
    """Return the SI-SDR (B, est, ref) in dB of every estimate (B, est, T) against every reference (B, ref, T).

    Means are removed first, and all is computed in float64. With rho the correlation of the pair it is
    10 log10(rho^2 / (1 - rho^2)): blind to gain and sign. A perfect estimate gives inf (beyond 250 dB float64 tells
    nothing), one that is orthogonal to its reference -inf; a silent one (all of one value) on either side NaN.
    """
    silent = _constant(est).unsqueeze(2) | _constant(ref).unsqueeze(1)  # (B, est, ref)
    est, ref = (wave.double() - wave.double().mean(-1, keepdim=True) for wave in (est, ref))
    dot = est @ ref.mT  # (B, est, ref)
    ref_energy = ref.square().sum(-1).unsqueeze(1)  # (B, 1, ref)
    scale = dot / ref_energy  # (B, est, ref)
    # the residual is formed from the samples: est_energy - target_energy would cancel near a perfect estimate
    target = (scale.unsqueeze(-1) * ref.unsqueeze(1)).square().sum(-1)
    residual = (est.unsqueeze(2) - scale.unsqueeze(-1) * ref.unsqueeze(1)).square().sum(-1)
    residual = residual.masked_fill(residual < target * 1e-25, 0)
    return (10 * (target / residual).log10()).masked_fill(silent, float("nan"))


def _constant(wave: Tensor) -> Tensor:
    """Tell which waves (..., T) have one value only: without their mean, nothing but rounding is left of them."""
    return (wave == wave[..., :1]).all(-1)


def si_sdr(*, est: Tensor, ref: Tensor) -> Tensor:
    """Return the SI-SDR (B, S) in dB of each estimate (B, S, T) against the reference of the same index."""
    return pairwise_si_sdr(est=est.flatten(0, 1).unsqueeze(1), ref=ref.flatten(0, 1).unsqueeze(1)).reshape(
        est.shape[:2]
    )


def si_sdr_improvement(*, est: Tensor, ref: Tensor, mixture: Tensor, fixed_order: bool = False) -> Tensor:
    """Return the SI-SDR (K,) in dB of estimates (B, S, T) beyond that of the ``mixture`` (B, T), mean over the sources.

    Paired by the best permutation, where every source sounds; in a ``fixed_order`` by their index, over the sources
    that sound. Items where that leaves nothing are left out, so K may be less than B. A silent estimate counts as -100.
    """
    sounds = ~_constant(ref)  # (B, S)
    before = si_sdr(est=mixture.unsqueeze(1).expand_as(ref), ref=ref)  # (B, S)
    if fixed_order:
        gains = _bounded(si_sdr(est=est, ref=ref)) - _bounded(before)  # (B, S)
        usable = sounds.any(-1)  # (B,)
        return ((gains * sounds).sum(-1) / sounds.sum(-1).clamp_min(1))[usable]
    usable = sounds.all(-1)  # (B,)
    best, _ = best_permutation(_bounded(pairwise_si_sdr(est=est, ref=ref)[usable]), maximise=True)
    return best - before[usable].clamp(LEAST_DB, MOST_DB).mean(-1)


def _bounded(scores: Tensor) -> Tensor:
    return scores.nan_to_num(LEAST_DB).clamp(LEAST_DB, MOST_DB)


def like_the_first(waves: Tensor, chosen: Tensor) -> Tensor:
    """Return ``chosen`` (I, S, ...) without the first item, with sources in that item's order.

    It is the order that makes the ``waves`` (I, S, T) most like those of the first item, by their mean SI-SDR.
    """
    reference = waves[:1].expand(len(waves) - 1, -1, -1)  # (I - 1, S, T)
    alike = pairwise_si_sdr(est=waves[1:], ref=reference).nan_to_num(-300, 300, -300)  # (I - 1, est, ref)
    _, order = best_permutation(alike, maximise=True)  # (I - 1, S)
    return torch.stack([item[places] for item, places in zip(chosen[1:], order, strict=True)])
