"""Training losses, each (B,) and to be minimised.

Every loss takes the outputs of the network (its heads by name), the true :class:`Signals` and the settings of the
``loss`` section. To add a loss, write a function and add its line to ``LOSSES``. Equation numbers are those of the
AutoClip paper (Seetharaman et al. 2020).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sepclip.audio.masks import MaskTarget, ideal_binary_mask, mask_target
from sepclip.audio.permutation import best_permutation
from sepclip.audio.stft import magnitude
from sepclip.model.embedding import RawEmbedding
from sepclip.model.network_base import STRICT, Head, NetworkOutputs

Weights = Literal["ratio", "vad", "none"]
Clustering = Literal["wkm", "dc"]
VAD_DB = -40.0  # bins this far below the loudest do not contain speech (METHOD: the version of AutoClip's author)
SILENT_DB = -80.0  # references this far below the loudest of their mixture have no SNR; also, no SNR exceeds 80 dB
ABSENT_SHARE = 1e-3  # of the mixture's energy (tau): SNRs are limited near 30 dB, and silence at -30 dB is silent
LEAST_RIDGE = 1e-5  # in float32 the Gram matrix of identical embeddings is accurate to about 1e-6 of its trace
_RATIO_FLOOR = 1e-6  # added to the sum of magnitudes, so that silence does not divide by zero
_TINY = 1e-20  # least ridge, and least energy in a ratio of energies: silence must not give 0 / 0


@dataclass(frozen=True)
class Signals:
    """Mixtures and their sources at the level that the network sees, as complex spectra and as waves.

    Several channels follow one another along T and F. With a ``fixed_order``, no loss permutes the sources.
    """

    mixture: Tensor  # (B, N, F)
    sources: Tensor  # (B, S, N, F), or empty for a loss that does not compare spectra
    mixture_wave: Tensor  # (B, T)
    source_waves: Tensor  # (B, S, T)
    fixed_order: bool = False

    @cached_property
    def magnitude(self) -> Tensor:
        """The magnitude of the mixture's bins (B, N, F), computed once for all losses."""
        return magnitude(self.mixture)


@settings_dataclass(frozen=True, config=STRICT)
class LossSettings:
    """The settings of the ``loss`` section; each loss uses those that concern it.

    ``alpha`` is the weight of the mask inference loss in the chimera loss; its clustering loss has the weight
    1 - alpha. ``ridge``: see :func:`whitened_k_means`.
    """

    target: MaskTarget
    weights: Weights
    ridge: float | Literal["unit"]
    clustering: Clustering
    alpha: Annotated[float, Field(ge=0, le=1)]

    @field_validator("ridge", mode="before")
    @classmethod
    def _check_ridge(cls, ridge: Any) -> Any:
        # before pydantic's own check, whose message would not give the range
        try:
            stable = ridge == "unit" or LEAST_RIDGE <= float(ridge) <= 1
        except (TypeError, ValueError):
            stable = False
        if not stable:
            raise ValueError(
                f"choose unit, or a number from {LEAST_RIDGE:g} to 1: float32 is not precise enough for less"
            )
        return ridge if ridge == "unit" else float(ridge)


def mask_inference(outputs: NetworkOutputs, signals: Signals, settings: LossSettings) -> Tensor:
    """Return the mask inference loss L_MI, eq. (4): L1 between the masked mixture and the target magnitudes.

    By default the target is the truncated phase-sensitive one. The loss is averaged over frames, bins and sources, and
    permuted once for the whole utterance.
    """
    target = mask_target(signals.mixture, signals.sources, settings.target, signals.magnitude)  # (B, S, N, F)
    masks, magnitudes = outputs["mask"], signals.magnitude.unsqueeze(1)
    if not signals.fixed_order:
        # all S^2 pairs are compared without a gradient, since only the pairs of the best permutation need one
        with torch.no_grad():
            pairwise = torch.cdist((masks * magnitudes).flatten(2), target.flatten(2), p=1)  # (B, est, ref)
        target = _permute_references(target, pairwise)
    # L_MI = mean |M |X| - A| over S, N and F, for masks M, mixture X and target magnitudes A
    return _MeanDistance.apply(masks, magnitudes, target)  # type: ignore[no-any-return, no-untyped-call]


class _MeanDistance(Function):
    """The mean (B,) of | masks x magnitudes - target |, differentiable with respect to the masks only.

    The gradient is prepared in the memory of a single tensor, while autograd allocates one for each operation. This
    takes about half the time.
    """

    @staticmethod
    def forward(ctx: Any, masks: Tensor, magnitudes: Tensor, target: Tensor) -> Tensor:
        difference = torch.addcmul(target, masks, magnitudes, value=-1)  # A - M |X|
        distance = difference.abs().mean((1, 2, 3))
        # d |A - M |X|| / dM = -|X| sign(A - M |X|); the minus and the mean follow in backward
        ctx.save_for_backward(difference.sign_().mul_(magnitudes))
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        factors = gradients[0] / -slopes[0].numel()
        return slopes * factors.view(-1, 1, 1, 1), None, None


def _permute_references(references: Tensor, pairwise: Tensor) -> Tensor:
    """Return ``references`` (B, ref, ...) in the order of their estimates, for the losses ``pairwise`` (B, est, ref).

    The loss is then computed for the chosen pairs only, so no other pair contributes to the gradient.
    """
    _, estimate_of_reference = best_permutation(pairwise, maximise=False)  # (B, ref)
    reference_of_estimate = estimate_of_reference.argsort(1)  # (B, est)
    items = torch.arange(len(references), device=reference_of_estimate.device).unsqueeze(1)
    return references[items, reference_of_estimate]


def bin_weights(signals: Signals, kind: Weights) -> Tensor:
    """Return the weight of every bin (B, N F) for the clustering losses.

    ``ratio``: the share of the mixture's magnitude, times N F, so that the mean is 1 (Wang et al. 2018). ``vad``: 1 if
    any source is within 40 dB of the loudest bin of all sources, else 0. ``none``: 1.
    """
    magnitudes = signals.magnitude.flatten(1)  # (B, N F)
    # w = |x| N F / sum |x|
    if kind == "ratio":
        return magnitudes * (magnitudes.shape[1] / (magnitudes.sum(1, keepdim=True) + _RATIO_FLOOR))
    if kind == "none":
        return torch.ones_like(magnitudes)
    # the sources are compared, not the mixture, in which loud sources may cancel
    loudest = magnitude(signals.sources).flatten(2).amax(1)  # (B, N F)
    return (loudest > loudest.amax(1, keepdim=True) * 10 ** (VAD_DB / 20)).to(loudest.dtype)


def _clustering_products(
    outputs: NetworkOutputs, signals: Signals, kind: Weights
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return V^T W V (B, E, E), Y^T W V (B, S, E), the diagonal of Y^T W Y (B, S) and the sum of the weights (B,).

    A row of Y is the one-hot vector of the source with the largest magnitude, or zero if no single source is the
    loudest (silence, ties). The other elements of Y^T W Y are therefore zero.
    """
    weights = bin_weights(signals, kind)  # (B, N F)
    # Y^T, in which a bin where sources are equally loud has no 1 at all
    labels = ideal_binary_mask(signals.sources).flatten(2)  # (B, S, N F)
    embedding = outputs["embedding"]
    # a raw embedding has its own products, which store no unit vectors; any other is a tensor of unit vectors
    if isinstance(embedding, RawEmbedding):
        gram, cross = embedding.products(labels, weights)
    else:
        weighted = embedding.flatten(1, 2) * weights.unsqueeze(2)  # (B, N F, E)
        gram, cross = embedding.flatten(1, 2).mT @ weighted, labels @ weighted
    # Y^T W Y is diagonal because the rows of Y are one-hot: the sum of the weights of each source's bins
    return gram, cross, (labels @ weights.unsqueeze(2)).squeeze(2), weights.sum(1)


def deep_clustering(outputs: NetworkOutputs, signals: Signals, settings: LossSettings) -> Tensor:
    """Return the deep clustering loss L_DC, eq. (5), between 0 and 1 for embeddings without negative values.

    A silent excerpt has the loss 0.
    """
    gram, cross, source_weights, total = _clustering_products(outputs, signals, settings.weights)
    # L_DC = |W^1/2 (V V^T - Y Y^T) W^1/2|^2 / (sum w)^2. The affinities V V^T have (N F)^2 elements, so the norm is
    # computed in its low-rank form (Hershey et al. 2016): |V^T W V|^2 - 2 |Y^T W V|^2 + |Y^T W Y|^2
    energy = gram.square().sum((1, 2)) - 2 * cross.square().sum((1, 2)) + source_weights.square().sum(1)  # (B,)
    # without any weight, as in silence under `vad`, the energy is 0, and so is the loss
    return energy / total.square().clamp_min(torch.finfo(total.dtype).tiny)


def whitened_k_means(outputs: NetworkOutputs, signals: Signals, settings: LossSettings) -> Tensor:
    """Return the whitened k-means loss L_WKM, eq. (6).

    The loss is between E - S and E. A source that is not the loudest in any bin adds 1; a silent excerpt gives E and no
    gradient. Each Gram matrix (V^T W V and Y^T W Y) gets ``ridge`` times its mean diagonal added to its diagonal, so
    that neither the length of an excerpt nor the scale of the weights changes the loss. ``unit`` adds 1, as nussl does.
    """
    gram, cross, source_weights, _ = _clustering_products(outputs, signals, settings.weights)
    diagonal = gram.diagonal(dim1=1, dim2=2)  # (B, E)
    # L_WKM = E - tr((V^T W V)^-1 V^T W Y (Y^T W Y)^-1 Y^T W V). The trace is the sum of the squared cosines between
    # the spaces spanned by W^1/2 V and W^1/2 Y. V^T W V is nearly singular while the embeddings are much alike, as they
    # are at the start of a training: hence the ridge
    gram = gram + torch.diag_embed(_ridge(diagonal, settings.ridge).unsqueeze(1).expand_as(diagonal))
    # the trace is |R^-1 V^T W Y (Y^T W Y)^-1/2|^2 with R R^T = V^T W V: no inverse of an ill-conditioned matrix
    # torch.linalg.cholesky raises for a matrix that is not finite, and waits for the GPU to know it. With NaN in place
    # of such a factor the loss of its excerpt is NaN, and the step is skipped as with any other loss
    factor, failures = torch.linalg.cholesky_ex(gram)  # (B, E, E), (B,)
    factor = torch.where((failures == 0).view(-1, 1, 1), factor, math.nan)
    whitened = torch.linalg.solve_triangular(factor, cross.mT, upper=False)  # (B, E, S)
    divisor = source_weights + _ridge(source_weights, settings.ridge).unsqueeze(1)  # (B, S)
    trace = (whitened.square().sum(1) / divisor).sum(1)  # (B,)
    loss: Tensor = diagonal.shape[1] - trace
    return loss


def _ridge(diagonal: Tensor, ridge: float | Literal["unit"]) -> Tensor:
    """Return the number (B,) to add to a ``diagonal`` (B, K): a share of its mean, and never zero."""
    if ridge == "unit":
        return torch.ones_like(diagonal[:, 0])
    return (ridge * diagonal.mean(1)).clamp_min(_TINY)


def chimera(outputs: NetworkOutputs, signals: Signals, settings: LossSettings) -> Tensor:
    """Return the chimera loss, eq. (7), with L_DC in place of L_WKM for ``clustering: dc``.

    The masks are permuted on their own; the clustering loss does not depend on the order of the sources. Wang et al.
    2018 (chimera++) weight the clustering term instead: their 0.975 is alpha = 0.025 here.
    """
    clustering_loss = whitened_k_means if settings.clustering == "wkm" else deep_clustering
    # L_CHI = alpha L_MI + (1 - alpha) L_WKM
    mask_loss = mask_inference(outputs, signals, settings)
    return settings.alpha * mask_loss + (1 - settings.alpha) * clustering_loss(outputs, signals, settings)


def snr(outputs: NetworkOutputs, signals: Signals, settings: LossSettings) -> Tensor:
    """Return the negative SNR L_SNR, eq. (8), in dB, averaged over the sources and permuted by utterance.

    References that are silent, or 80 dB below the loudest, do not count, because they have no SNR; a silent excerpt has
    the loss 0.
    """
    return _permuted_decibels(_error_ratio, outputs["wave"], signals)


def _error_ratio(est: Tensor, ref: Tensor) -> Tensor:
    """Return the energy of the error relative to that of the reference."""
    # |s - s_est|^2 / |s|^2 + 10^-8, so that 10 log10 of it is L_SNR; without the floor of -80 dB, a perfect estimate
    # would have an infinite loss and gradient
    energy = ref.square().sum(-1)
    return (est - ref).square().sum(-1) / energy.clamp_min(torch.finfo(energy.dtype).tiny) + _power(SILENT_DB)


def si_sdr(outputs: NetworkOutputs, signals: Signals, settings: LossSettings) -> Tensor:
    """Return the negative SI-SDR in dB (Le Roux et al. 2019), averaged over the sources and permuted by utterance.

    Means are removed. Silent references and excerpts are treated as in :func:`snr`. The scale and the sign of the
    estimates remain undetermined.
    """
    return _permuted_decibels(_residual_ratio, outputs["wave"], signals)


def _residual_ratio(est: Tensor, ref: Tensor) -> Tensor:
    """Return the energy of the estimate's component orthogonal to the reference, relative to that along it."""
    est = est - est.mean(-1, keepdim=True)
    ref = ref - ref.mean(-1, keepdim=True)
    energy = ref.square().sum(-1, keepdim=True)
    # t = s <e, s> / |s|^2, and then (|e - t|^2 + d) / (|t|^2 + d) with d = 10^-8 |e|^2: -80 dB of the estimate keeps
    # the logarithm finite for a perfect estimate, and for one that is orthogonal to its reference
    target = (est * ref).sum(-1, keepdim=True) / energy.clamp_min(torch.finfo(energy.dtype).tiny) * ref
    floor = (est.square().sum(-1) * _power(SILENT_DB)).clamp_min(_TINY)
    return ((est - target).square().sum(-1) + floor) / (target.square().sum(-1) + floor)


def thresholded_snr(outputs: NetworkOutputs, signals: Signals, settings: LossSettings) -> Tensor:
    """Return the thresholded SNR in dB of every source, absent ones included, averaged and permuted by utterance.

    With the mixture x, a source s, its estimate e and tau = 0.001, the loss of a pair is
    10 log10((|e - s|^2 + tau |x|^2) / (|s|^2 + tau |x|^2)). For a source that is present, this is the negative SNR,
    limited near 30 dB; for one that is absent (s = 0), it is the term of Wisdom et al. 2021 (FUSS) plus a constant, and
    the network learns to give silence. An excerpt without any sound has the loss 0 and no gradient.
    """
    est, ref = outputs["wave"], signals.source_waves  # (B, S, T)
    mixture = signals.mixture_wave.square().sum(-1)[:, None]  # (B, 1)
    # of an excerpt without sound all energies would be 0: any floor does, since its loss is replaced by 0 below
    floor = torch.where(mixture > 0, ABSENT_SHARE * mixture, torch.ones_like(mixture))
    if not signals.fixed_order:
        with torch.no_grad():
            errors = torch.cdist(est, ref).square()  # (B, est, ref)
            # the denominator does not depend on the estimate, so the numerator alone decides the permutation
            pairwise = (errors + floor.unsqueeze(2)).log10()
        ref = _permute_references(ref, pairwise)
    error = (est - ref).square().sum(-1)  # (B, S)
    ratio = (error + floor) / (ref.square().sum(-1) + floor)
    return 10 * torch.where(mixture > 0, ratio, torch.ones_like(ratio)).log10().mean(1)


def _power(decibels: float) -> float:
    """Convert decibels to a power ratio."""
    return float(10 ** (decibels / 10))


def _permuted_decibels(ratio: Callable[[Tensor, Tensor], Tensor], est: Tensor, signals: Signals) -> Tensor:
    """Return the mean (B,) of 10 log10(``ratio``) over the audible references, at the best permutation.

    The estimates are (B, S, T). An estimate that is paired with a silent reference does not change the loss.
    """
    ref = signals.source_waves  # (B, S, T)
    if not signals.fixed_order:
        with torch.no_grad():  # as in mask_inference
            pairwise, _ = _decibels(ratio(est.unsqueeze(2), ref.unsqueeze(1)), ref)  # (B, est, ref)
        ref = _permute_references(ref, pairwise)
    # only the chosen pairs again, now with a gradient; a silent excerpt has no audible reference and the loss 0
    decibels, audible = _decibels(ratio(est, ref), ref)  # (B, S)
    return decibels.sum(1) / audible.sum(1).clamp_min(1)


def _decibels(ratio: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``ratio`` (B, ref) or (B, est, ref) in dB, 0 for silent references, and which are audible (B, ref)."""
    energy = ref.square().sum(-1)  # (B, ref)
    audible = (energy > 0) & (energy >= energy.amax(1, keepdim=True) * _power(SILENT_DB))
    used = audible if ratio.dim() == 2 else audible.unsqueeze(1)
    # replaced before the logarithm, whose gradient would not be finite for a silent reference
    return 10 * torch.where(used, ratio, torch.ones_like(ratio)).log10(), audible


@dataclass(frozen=True)
class Loss:
    """A loss, the heads of the network that it needs, and the head that separates.

    ``heads``: ``mask``, ``embedding`` or ``wave``; a mask network also gives waves, by the inverse transform.
    ``scale_free``: the loss does not depend on the scale of the waves, which must be determined in separation.
    """

    function: Callable[[NetworkOutputs, Signals, LossSettings], Tensor]
    heads: tuple[Head, ...]
    separates_by: Head
    scale_free: bool = False

    @property
    def compares_spectra(self) -> bool:
        """Whether the loss needs the spectra of the sources."""
        return self.heads != ("wave",)

    def __call__(self, outputs: NetworkOutputs, signals: Signals, settings: LossSettings) -> Tensor:
        """Return the loss (B,), in float32 (or float64) whatever the precision of the network."""
        # 16 bits are not enough for sums over some 50,000 bins and their squares; a raw embedding converts itself
        with torch.autocast(signals.mixture.device.type, enabled=False):
            float32_outputs = {name: _as_float32(x) if isinstance(x, Tensor) else x for name, x in outputs.items()}
            return self.function(cast(NetworkOutputs, float32_outputs), signals, settings)


def _as_float32(values: Tensor) -> Tensor:
    """Return ``values`` in float32, or in float64 if they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


# name in the configuration: function, heads that it needs, head that separates
LOSSES = {
    "mi": Loss(mask_inference, ("mask",), "mask"),
    "dc": Loss(deep_clustering, ("embedding",), "embedding"),
    "wkm": Loss(whitened_k_means, ("embedding",), "embedding"),
    "chimera": Loss(chimera, ("mask", "embedding"), "mask"),
    "snr": Loss(snr, ("wave",), "wave"),
    "tsnr": Loss(thresholded_snr, ("wave",), "wave"),
    "si-sdr": Loss(si_sdr, ("wave",), "wave", scale_free=True),
}
