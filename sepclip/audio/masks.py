"""Masks and mask targets for spectrograms: mixture (B, N, F), sources (B, S, N, F), both complex."""

from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from sepclip.audio.stft import magnitude, power

MaskTarget = Literal["tpsa", "psa", "msa"]


def ideal_binary_mask(sources: Tensor) -> Tensor:
    """Return the mask (B, S, N, F) that assigns each bin to its loudest source, and ties (silence) to no source."""
    powers = power(sources)  # (B, S, N, F)
    mask = torch.empty_like(powers)
    # Compare each source with the loudest of the rest. An argmax would assign ties to the first source.
    for source, power_of_source in enumerate(powers.unbind(1)):  # (B, N, F)
        rest = [powers[:, index] for index in range(powers.shape[1]) if index != source]
        torch.gt(power_of_source, reduce(torch.maximum, rest) if rest else 0, out=mask[:, source])
    return mask


def mask_target(
    mixture: Tensor, sources: Tensor, kind: MaskTarget = "tpsa", magnitudes: Tensor | None = None
) -> Tensor:
    """Return the real magnitudes (B, S, N, F) that the masked mixture magnitude should equal.

    - ``tpsa``: the truncated phase-sensitive approximation, eq. (4) of the AutoClip paper: |S| cos(angle X - angle S)
      clamped to [0, |X|]. The paper prints the phase of the estimate, which is that of the mixture: a mask keeps it.
    - ``psa``: the same without the clamp.
    - ``msa``: |S|.

    ``magnitudes`` is |X| (B, N, F), if the caller already has it.
    """
    if kind == "msa":
        return magnitude(sources)
    whole = (magnitude(mixture) if magnitudes is None else magnitudes).unsqueeze(1)  # (B, 1, N, F)
    # Re(S conj(X)) / |X| = |S| cos(angle X - angle S), without computing an angle. Where X is 0 the target is 0 too.
    projection = (sources * mixture.conj().unsqueeze(1)).real / whole.clamp_min(1e-20)  # (B, S, N, F)
    if kind == "psa":
        return projection
    return torch.minimum(projection.clamp_min_(0), whole)  # in place: it is as large as all sources together
