"""Training losses, each (B,) and to be minimised.

Every loss takes what the network gave, the complex spectrograms of the mixture (B, N, F) and of its sources
(B, S, N, F), and the settings of the ``loss`` section. To add one: a function and its line in ``LOSSES``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sepclip.audio.masks import MaskTarget, ideal_binary_mask, mask_target
from sepclip.audio.permutation import best_permutation

Weights = Literal["ratio", "vad", "none"]
VAD_DB = -40.0  # bins so far below the loudest hold no speech (METHOD: the AutoClip author's version)
_RATIO_FLOOR = 1e-6


def mask_inference(
    outputs: dict[str, Tensor], mixture: Tensor, sources: Tensor, *, target: MaskTarget, weights: Weights
) -> Tensor:
    """L_MI, eq. (4) of the AutoClip paper: L1 between the masked mixture and the truncated phase-sensitive target.

    Averaged over frames, bins and sources, and permuted once for the whole utterance.
    """
    masked = outputs["mask"] * mixture.abs().unsqueeze(1)  # (B, S, N, F)
    wanted = mask_target(mixture, sources, target)  # (B, S, N, F)
    pairwise = torch.stack(
        [torch.stack([(est - ref).abs().mean((-2, -1)) for ref in wanted.unbind(1)], -1) for est in masked.unbind(1)],
        1,
    )  # (B, est, ref)
    loss, _ = best_permutation(pairwise, maximise=False)
    return loss


def bin_weights(mixture: Tensor, sources: Tensor, kind: Weights) -> Tensor:
    """Return the weight of every bin (B, N F) for the clustering losses.

    ``ratio``: the share of the mixture's magnitude, times N F, so that they average 1 (Wang et al. 2018). ``vad``: 1
    where any source is within 40 dB of the loudest bin of all sources, else 0. ``none``: 1.
    """
    magnitude = mixture.abs().flatten(1)  # (B, N F)
    if kind == "ratio":
        return magnitude.shape[1] * magnitude / (magnitude.sum(1, keepdim=True) + _RATIO_FLOOR)
    if kind == "none":
        return torch.ones_like(magnitude)
    loudest = sources.abs().flatten(2).amax(1)  # (B, N F)
    return (loudest > loudest.amax(1, keepdim=True) * 10 ** (VAD_DB / 20)).to(loudest.dtype)


def deep_clustering(
    outputs: dict[str, Tensor], mixture: Tensor, sources: Tensor, *, target: MaskTarget, weights: Weights
) -> Tensor:
    """L_DC, eq. (5): || W^1/2 (V V^T - Y Y^T) W^1/2 ||^2 / (sum w)^2 in its low-rank form.

    Y is one-hot of the loudest source by raw magnitude; silent bins belong to none. A silent excerpt gives 0.
    """
    root = bin_weights(mixture, sources, weights).sqrt().unsqueeze(-1)  # (B, N F, 1)
    vectors = outputs["embedding"].flatten(1, 2) * root  # (B, N F, E)
    labels = ideal_binary_mask(sources).flatten(2).mT * root  # (B, N F, S)
    energy = [(a.mT @ b).square().sum((1, 2)) for a, b in ((vectors, vectors), (vectors, labels), (labels, labels))]
    total = root.square().sum((1, 2))
    return (energy[0] - 2 * energy[1] + energy[2]) / total.square().clamp_min(torch.finfo(total.dtype).tiny)


@dataclass(frozen=True)
class Loss:
    """A loss, the heads that it trains, and which of them separates."""

    function: Callable[..., Tensor]
    heads: tuple[str, ...]
    separates_by: Literal["mask", "embedding"]


LOSSES = {
    "mi": Loss(mask_inference, ("mask",), "mask"),
    "dc": Loss(deep_clustering, ("embedding",), "embedding"),
}
