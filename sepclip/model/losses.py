"""Training losses, each (B,) and to be minimised.

Every loss takes what the network gave (its heads by name), the true :class:`Signals` and the settings of the ``loss``
section. To add one: a function and its line in ``LOSSES``. Equations are those of the AutoClip paper.
"""

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
VAD_DB = -40.0  # bins so far below the loudest hold no speech (METHOD: the AutoClip author's version)
SILENT_DB = -80.0  # references so far below the loudest of their mixture have no SNR; nor does any SNR go beyond 80 dB
LEAST_RIDGE = 1e-5  # the Gram matrix of embeddings all alike is right to about 1e-6 of its trace in float32
_RATIO_FLOOR = 1e-6


@dataclass(frozen=True)
class Signals:
    """Mixtures and their sources at the level that the network sees, as complex spectra and as waves.

    Where there are several channels, T and F hold them one after the other. In a ``fixed_order`` no loss permutes.
    """

    mixture: Tensor  # (B, N, F)
    sources: Tensor  # (B, S, N, F), or empty for a loss that does not compare spectra
    mixture_wave: Tensor  # (B, T)
    source_waves: Tensor  # (B, S, T)
    fixed_order: bool = False

    @cached_property
    def magnitude(self) -> Tensor:
        """Those of the mixture's bins (B, N, F)."""
        return magnitude(self.mixture)


@settings_dataclass(frozen=True, config=STRICT)
class LossSettings:
    """The settings of the ``loss`` section; a loss takes those that concern it.

    ``alpha`` is the share of the mask inference loss in the chimera loss, that of its clustering loss is 1 - alpha.
    ``ridge``: see :func:`whitened_k_means`.
    """

    target: MaskTarget
    weights: Weights
    ridge: float | Literal["unit"]
    clustering: Clustering
    alpha: Annotated[float, Field(ge=0, le=1)]

    @field_validator("ridge", mode="before")
    @classmethod
    def _check_ridge(cls, ridge: Any) -> Any:
        try:
            stable = ridge == "unit" or LEAST_RIDGE <= float(ridge) <= 1
        except (TypeError, ValueError):
            stable = False
        if not stable:
            raise ValueError(f"choose unit, or a number from {LEAST_RIDGE:g} to 1: float32 can do with no less")
        return ridge if ridge == "unit" else float(ridge)


def mask_inference(outputs: NetworkOutputs, signals: Signals, settings: LossSettings) -> Tensor:
    """L_MI, eq. (4): L1 between the masked mixture and the truncated phase-sensitive target.

    Averaged over frames, bins and sources, and permuted once for the whole utterance.
    """
    wanted = mask_target(signals.mixture, signals.sources, settings.target, signals.magnitude)  # (B, S, N, F)
    masks, magnitudes = outputs["mask"], signals.magnitude.unsqueeze(1)
    if not signals.fixed_order:
        with torch.no_grad():
            pairwise = torch.cdist((masks * magnitudes).flatten(2), wanted.flatten(2), p=1)  # (B, est, ref)
        wanted = _reordered(wanted, pairwise)
    return _MeanDistance.apply(masks, magnitudes, wanted)  # type: ignore[no-any-return, no-untyped-call]


class _MeanDistance(Function):
    """The mean (B,) of | masks x magnitudes - wanted |, differentiable with respect to the masks alone.

    Everything on the way to the gradient is done in the place of one tensor, where autograd makes one for each
    operation: about half the time.
    """

    @staticmethod
    def forward(ctx: Any, masks: Tensor, magnitudes: Tensor, wanted: Tensor) -> Tensor:
        difference = torch.addcmul(wanted, masks, magnitudes, value=-1)  # of what is wanted to what there is
        distance = difference.abs().mean((1, 2, 3))
        ctx.save_for_backward(difference.sign_().mul_(magnitudes))
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        factors = gradients[0] / -slopes[0].numel()
        return slopes * factors.view(-1, 1, 1, 1), None, None


def _reordered(references: Tensor, pairwise: Tensor) -> Tensor:
    """Return ``references`` (B, ref, ...) in the order of the estimates, as ``pairwise`` (B, est, ref) pairs them best.

    All pairs are looked at without a gradient, and the loss is that of the chosen ones: the others have none.
    """
    _, order = best_permutation(pairwise, maximise=False)  # (B, ref), the estimate of each
    places = order.argsort(1)  # (B, est), the reference of each
    return references[torch.arange(len(places), device=places.device).unsqueeze(1), places]


def bin_weights(signals: Signals, kind: Weights) -> Tensor:
    """Return the weight of every bin (B, N F) for the clustering losses.

    ``ratio``: the share of the mixture's magnitude, times N F, so that they average 1 (Wang et al. 2018). ``vad``: 1
    where any source is within 40 dB of the loudest bin of all sources, else 0. ``none``: 1.
    """
    loudness = signals.magnitude.flatten(1)  # (B, N F)
    if kind == "ratio":
        return loudness * (loudness.shape[1] / (loudness.sum(1, keepdim=True) + _RATIO_FLOOR))
    if kind == "none":
        return torch.ones_like(loudness)
    loudest = magnitude(signals.sources).flatten(2).amax(1)  # (B, N F)
    return (loudest > loudest.amax(1, keepdim=True) * 10 ** (VAD_DB / 20)).to(loudest.dtype)


def _products(outputs: NetworkOutputs, signals: Signals, kind: Weights) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return V^T W V (B, E, E), Y^T W V (B, S, E), the diagonal of Y^T W Y (B, S) and the sum of the weights (B,).

    Y is one-hot of the loudest source by raw magnitude; bins where none is the loudest (silence) belong to none. So the
    rest of Y^T W Y is zero.
    """
    weights = bin_weights(signals, kind)  # (B, N F)
    labels = ideal_binary_mask(signals.sources).flatten(2)  # (B, S, N F)
    vectors = outputs["embedding"]
    if isinstance(vectors, RawEmbedding):
        gram, cross = vectors.products(labels, weights)
    else:
        weighted = vectors.flatten(1, 2) * weights.unsqueeze(2)  # (B, N F, E)
        gram, cross = vectors.flatten(1, 2).mT @ weighted, labels @ weighted
    return gram, cross, (labels @ weights.unsqueeze(2)).squeeze(2), weights.sum(1)


def deep_clustering(outputs: NetworkOutputs, signals: Signals, settings: LossSettings) -> Tensor:
    """L_DC, eq. (5): || W^1/2 (V V^T - Y Y^T) W^1/2 ||^2 / (sum w)^2 in its low-rank form.

    That is |V^T W V|^2 - 2 |Y^T W V|^2 + |Y^T W Y|^2. Between 0 and 1 for embeddings without negative values. A silent
    excerpt gives 0.
    """
    gram, cross, counts, total = _products(outputs, signals, settings.weights)
    energy = gram.square().sum((1, 2)) - 2 * cross.square().sum((1, 2)) + counts.square().sum(1)  # (B,)
    return energy / total.square().clamp_min(torch.finfo(total.dtype).tiny)


def whitened_k_means(outputs: NetworkOutputs, signals: Signals, settings: LossSettings) -> Tensor:
    """L_WKM, eq. (6): E - tr((V^T W V)^-1 V^T W Y (Y^T W Y)^-1 Y^T W V).

    The trace is the sum of the squared cosines between the spaces that W^1/2 V and W^1/2 Y span, so the loss lies
    between E - S and E; a source that never is the loudest adds 1, a silent excerpt gives E and no gradient. V^T W V is
    near singular while the embeddings are much alike: ``ridge`` times the mean of its diagonal is added to the
    diagonal, and to that of Y^T W Y likewise, so that neither the length of an excerpt nor the size of the weights
    changes the loss. ``unit`` adds 1, as nussl does.
    """
    gram, cross, counts, _ = _products(outputs, signals, settings.weights)
    diagonal = gram.diagonal(dim1=1, dim2=2)  # (B, E)
    gram = gram + torch.diag_embed(_ridge(diagonal, settings.ridge).unsqueeze(1).expand_as(diagonal))
    # the trace is |R^-1 V^T W Y (Y^T W Y)^-1/2|^2 with R R^T = V^T W V: no inverse of a badly conditioned matrix
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), cross.mT, upper=False)  # (B, E, S)
    trace = (whitened.square().sum(1) / (counts + _ridge(counts, settings.ridge).unsqueeze(1))).sum(1)  # (B,)
    loss: Tensor = diagonal.shape[1] - trace
    return loss


def _ridge(diagonal: Tensor, ridge: float | Literal["unit"]) -> Tensor:
    """Return what is added to a ``diagonal`` (B, K): a share of its mean, never quite nothing; (B,)."""
    if ridge == "unit":
        return torch.ones_like(diagonal[:, 0])
    return (ridge * diagonal.mean(1)).clamp_min(1e-20)  # silence: every Gram matrix is zero


def chimera(outputs: NetworkOutputs, signals: Signals, settings: LossSettings) -> Tensor:
    """Eq. (7): alpha L_MI + (1 - alpha) L_WKM, or L_DC for ``clustering: dc``; the two are not permuted together.

    Wang et al. 2018 (chimera++) weigh the other way round: their 0.975 of the clustering loss is alpha = 0.025 here.
    """
    clustering = whitened_k_means if settings.clustering == "wkm" else deep_clustering
    masks = mask_inference(outputs, signals, settings)
    return settings.alpha * masks + (1 - settings.alpha) * clustering(outputs, signals, settings)


def snr(outputs: NetworkOutputs, signals: Signals, settings: LossSettings) -> Tensor:
    """L_SNR, eq. (8): -10 log10(|s|^2 / |s - s_est|^2) in dB, mean over the sources, permuted by utterance.

    The ratio's inverse is raised by -80 dB, so that a perfect estimate has a finite loss and gradient. References that
    are silent, or 80 dB below the loudest, do not count: they have no SNR; a silent excerpt gives 0.
    """
    return _permuted_decibels(_error_share, outputs["wave"], signals)


def _error_share(est: Tensor, ref: Tensor) -> Tensor:
    energy = ref.square().sum(-1)
    return (est - ref).square().sum(-1) / energy.clamp_min(torch.finfo(energy.dtype).tiny) + _power(SILENT_DB)


def si_sdr(outputs: NetworkOutputs, signals: Signals, settings: LossSettings) -> Tensor:
    """Negative SI-SDR in dB (Le Roux et al. 2019), means removed, mean over the sources, permuted by utterance.

    With the estimate's parts along the reference (target) and across it (residual): 10 log10(residual / target), each
    raised by the estimate's energy at -80 dB. Silent references and excerpts as in :func:`snr`. The estimates' scale
    and sign are left open.
    """
    return _permuted_decibels(_residual_share, outputs["wave"], signals)


def _residual_share(est: Tensor, ref: Tensor) -> Tensor:
    est = est - est.mean(-1, keepdim=True)
    ref = ref - ref.mean(-1, keepdim=True)
    energy = ref.square().sum(-1, keepdim=True)
    target = (est * ref).sum(-1, keepdim=True) / energy.clamp_min(torch.finfo(energy.dtype).tiny) * ref
    floor = (est.square().sum(-1) * _power(SILENT_DB)).clamp_min(1e-20)  # a silent estimate: 0 / 0
    return ((est - target).square().sum(-1) + floor) / (target.square().sum(-1) + floor)


def _power(decibels: float) -> float:
    return float(10 ** (decibels / 10))


def _permuted_decibels(share: Callable[[Tensor, Tensor], Tensor], est: Tensor, signals: Signals) -> Tensor:
    """Return the mean of 10 log10(``share``) of estimates (B, S, T) over the references that sound, permuted best.

    What is paired with a silent reference costs nothing.
    """
    ref = signals.source_waves  # (B, S, T)
    if not signals.fixed_order:
        with torch.no_grad():
            pairwise, _ = _decibels(share(est.unsqueeze(2), ref.unsqueeze(1)), ref)  # (B, est, ref)
        ref = _reordered(ref, pairwise)
    decibels, sounds = _decibels(share(est, ref), ref)  # (B, S)
    return decibels.sum(1) / sounds.sum(1).clamp_min(1)


def _decibels(share: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``share`` (B, ref) or (B, est, ref) in dB, 0 for silent references; and which of these sound (B, ref)."""
    energy = ref.square().sum(-1)  # (B, ref)
    sounds = (energy > 0) & (energy >= energy.amax(1, keepdim=True) * _power(SILENT_DB))
    which = sounds if share.dim() == 2 else sounds.unsqueeze(1)
    # replaced before the logarithm: what it would make of a silent reference has no finite gradient
    return 10 * torch.where(which, share, torch.ones_like(share)).log10(), sounds


@dataclass(frozen=True)
class Loss:
    """A loss, what it takes of the network, and which of that separates.

    ``heads``: ``mask``, ``embedding`` or ``wave``; a network of masks gives waves too, by the inverse transform.
    ``scale_free``: it does not see the scale of the waves, which therefore has to be found when separating.
    """

    function: Callable[[NetworkOutputs, Signals, LossSettings], Tensor]
    heads: tuple[Head, ...]
    separates_by: Head
    scale_free: bool = False

    @property
    def compares_spectra(self) -> bool:
        """Whether it looks at the spectra of the sources."""
        return self.heads != ("wave",)

    def __call__(self, outputs: NetworkOutputs, signals: Signals, settings: LossSettings) -> Tensor:
        """Return the loss (B,), in float32 (or float64) whatever precision the network computes in.

        Sums over some 50,000 bins, and their squares, are beyond 16 bits.
        """
        with torch.autocast(signals.mixture.device.type, enabled=False):
            exact = {name: _exact(x) if isinstance(x, Tensor) else x for name, x in outputs.items()}
            return self.function(cast(NetworkOutputs, exact), signals, settings)


def _exact(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


LOSSES = {
    "mi": Loss(mask_inference, ("mask",), "mask"),
    "dc": Loss(deep_clustering, ("embedding",), "embedding"),
    "wkm": Loss(whitened_k_means, ("embedding",), "embedding"),
    "chimera": Loss(chimera, ("mask", "embedding"), "mask"),
    "snr": Loss(snr, ("wave",), "wave"),
    "si-sdr": Loss(si_sdr, ("wave",), "wave", scale_free=True),
}
