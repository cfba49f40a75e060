"""Masks and mask targets on spectrograms: mixture (B, N, F), sources (B, S, N, F), both complex."""

from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from sepclip.audio.stft import magnitude, power

MaskTarget = Literal["tpsa", "psa", "msa"]


def ideal_binary_mask(sources: Tensor) -> Tensor:
    """Return the mask (B, S, N, F) that gives each bin to its loudest source; ties (silence) go to none."""
    powers = power(sources)  # (B, S, N, F)
    mask = torch.empty_like(powers)
    for source, own in enumerate(powers.unbind(1)):
        others = [other for place, other in enumerate(powers.unbind(1)) if place != source]
        torch.gt(own, reduce(torch.maximum, others) if others else 0, out=mask[:, source])
    return mask


def mask_target(
    mixture: Tensor, sources: Tensor, kind: MaskTarget = "tpsa", magnitudes: Tensor | None = None
) -> Tensor:
    """Return the real magnitudes (B, S, N, F) that the masked mixture magnitude should equal.

    ``tpsa``, the truncated phase-sensitive approximation of eq. (4) of the AutoClip paper: |S| cos(angle X - angle S)
    clamped to [0, |X|]. The paper prints the estimate's phase; masking keeps the mixture's, so both are the same.
    ``psa`` leaves out the clamp, ``msa`` is |S|. ``magnitudes``: |X| where it is known.
    """
    if kind == "msa":
        return magnitude(sources)
    whole = (magnitude(mixture) if magnitudes is None else magnitudes).unsqueeze(1)  # (B, 1, N, F)
    # Re(S conj(X)) / |X| = |S| cos(angle X - angle S); without a mixture there is nothing to mask
    projection = (sources * mixture.conj().unsqueeze(1)).real / whole.clamp_min(1e-20)  # (B, S, N, F)
    return projection if kind == "psa" else torch.minimum(projection.clamp_min_(0), whole)
