"""Networks that map a mixture to masks, embeddings or waves.

To add a network, write a subclass of ``MaskNetwork`` or ``WaveNetwork`` (network_base.py) with its ``forward``, a class
with its settings, and a line in ``NETWORKS``; its settings become a section of ``configs/base.yaml``. Nothing else has
to change: a network with nothing but ``forward`` trains, is saved and loaded, and separates files of any length.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from sepclip.audio.resample import load_torchaudio
from sepclip.model.embedding import EmbeddingActivation, RawEmbedding
from sepclip.model.network_base import STRICT, AtLeastOne, Head, MaskNetwork, NetworkOutputs, WaveNetwork
from sepclip.model.recurrence import run_recurrent

LOG_FLOOR = 1e-4  # smaller magnitudes count as this one: -80 dB re 1, as in the code of AutoClip's author

Recurrence = Literal["lstm", "gru"]
MaskActivation = Literal["sigmoid", "softmax", "relu", "none"]
InputNorm = Literal["all", "bins", "none"]
Init = Literal["nussl", "torch"]

# the layer and its number of gates
_RECURRENCES: dict[str, tuple[type[nn.LSTM] | type[nn.GRU], int]] = {"lstm": (nn.LSTM, 4), "gru": (nn.GRU, 3)}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "softmax": lambda x: x.softmax(1),  # over the sources of masks (B, S, N, F)
    "none": lambda x: x,
}


def _at_least_float32(values: Tensor) -> torch.dtype:
    """Return float32 for ``values`` of lower precision, else their dtype."""
    return torch.promote_types(values.dtype, torch.float32)


class SharedNorm(nn.BatchNorm1d):
    """Batch normalisation of the input of a network, whose statistics are therefore known before the forward pass.

    If a batch is processed in parts or by several processes, every part is normalised by the statistics of the whole
    batch: they are computed for each part by :meth:`statistics`, joined, and set by :meth:`use` before the first
    forward pass of a step. A step with accumulated gradients is thus the step of one large batch.
    """

    batch_statistics: tuple[Tensor, Tensor] | None = None  # mean and biased variance, each (features,)

    def forward(self, values: Tensor) -> Tensor:
        """Normalise (items, features, values)."""
        if self.batch_statistics is None or not self.training:
            return super().forward(values)
        # training=False: use these statistics and leave the running ones alone, which `use` has updated
        mean, variance = self.batch_statistics
        return F.batch_norm(values, mean, variance, self.weight, self.bias, training=False, eps=self.eps)

    @staticmethod
    def statistics(values: Tensor) -> Tensor:
        """Return the count, the mean and the sum of squared deviations of each feature (3, features), in float64."""
        # float64, so that joined statistics differ from those of one large batch by less than float32 resolves
        variance, mean = torch.var_mean(values.double(), (0, 2), correction=0)
        count = torch.full_like(mean, values.shape[0] * values.shape[2])
        return torch.stack([count, mean, variance * count])

    @torch.no_grad()
    def use(self, parts: Tensor) -> None:
        """Normalise by the joint statistics of all ``parts`` (P, 3, features) of a batch from now on."""
        # Chan et al. 1979: M2 = sum_p (M2_p + n_p (mean_p - mean)^2), without cancellation for means far from 0
        counts, means, squares = parts.unbind(1)
        total = counts.sum(0)
        mean = (counts * means).sum(0) / total
        square = (squares + counts * (means - mean).square()).sum(0)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        dtype = self.running_mean.dtype
        self.batch_statistics = (mean.to(dtype), (square / total).to(dtype))
        # as in torch: running statistics for evaluation, whose variance is the unbiased one
        self.running_mean.lerp_(self.batch_statistics[0], self.momentum or 0.0)
        self.running_var.lerp_((square / (total - 1)).to(dtype), self.momentum or 0.0)
        self.num_batches_tracked += 1


def dropout(x: Tensor, share: float) -> Tensor:
    """Set a ``share`` of the elements to zero at random and scale the rest so that the mean is preserved."""
    if x.device.type != "cpu" or share == 0:
        return F.dropout(x, share)
    # On a CPU torch draws 64 random bits for every element on one core, which takes up to a tenth of a step. 16 bits
    # are enough: the share is rounded to a multiple of 1/65536, and the scale is that of the rounded share.
    keep = max(1, round((1 - share) * 2**16))
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = (draws.view(torch.int16)[: x.numel()] < keep - 2**15).view(x.shape)
    return x * kept.to(x.dtype).mul_(2**16 / keep)


@settings_dataclass(frozen=True, config=STRICT)
class BlstmSettings:
    """Settings of :class:`Blstm`, in the section ``model``."""

    layers: AtLeastOne
    hidden: AtLeastOne
    dropout: Annotated[float, Field(ge=0, lt=1)]
    embedding_size: AtLeastOne
    recurrence: Recurrence
    mask_activation: MaskActivation
    embedding_activation: EmbeddingActivation
    input_norm: InputNorm
    init: Init


class Blstm(MaskNetwork):
    """The network of the AutoClip paper: bidirectional recurrent layers on the log magnitude, a linear layer per head.

    ``mask``: masks (B, S, N, F), in the paper with a sigmoid, so that they need not sum to 1. ``embedding``: a vector
    of unit norm for every bin (B, N, F, E), in the paper with a sigmoid. The paper does not specify the input
    normalisation and the initial weights; its author's library has ``all`` and ``nussl``. ``input_norm``: batch
    normalisation with one mean and variance for ``all`` bins or one for each of the ``bins``, or ``none``. ``init``:
    ``nussl`` is Xavier normal for weights (all gates of a layer as one matrix) and zero for biases except those of the
    gate that keeps the memory (1 in each of the two that are added); ``torch`` is torch's default.
    """

    supported_heads = ("mask", "embedding")

    def __init__(self, bins: int, sources: int, heads: Sequence[Head], settings: BlstmSettings):
        super().__init__(bins, sources, heads)
        layers, hidden, self.embedding_size = settings.layers, settings.hidden, settings.embedding_size
        self.mask_activation, self.embedding_activation = settings.mask_activation, settings.embedding_activation
        self.norm = None if settings.input_norm == "none" else SharedNorm(1 if settings.input_norm == "all" else bins)
        kind, gates = _RECURRENCES[settings.recurrence]
        self.dropout = settings.dropout
        # one module per layer, with our own dropout between them: cuDNN draws its dropout from a state that cannot be
        # saved in a checkpoint (pytorch issue 104697), so a resumed run would differ from an uninterrupted one
        self.recurrent = nn.ModuleList(
            kind(2 * hidden if layer else bins, hidden, batch_first=True, bidirectional=True) for layer in range(layers)
        )
        # one linear layer per head, on both directions of the last recurrent layer
        sizes = {"mask": bins * sources, "embedding": bins * self.embedding_size}
        self.heads = nn.ModuleDict({head: nn.Linear(2 * hidden, sizes[head]) for head in heads})
        if settings.init == "nussl":
            self._initialise(gates)

    def _initialise(self, gates: int) -> None:
        """Set the initial weights of nussl, for recurrent layers with this number of ``gates``."""
        for name, parameter in self.named_parameters():
            if name.startswith("norm."):
                continue
            # weight matrices; xavier_normal_ takes the gates of a layer as one matrix, so their scale is smaller
            if parameter.dim() == 2:
                nn.init.xavier_normal_(parameter)
                continue
            nn.init.zeros_(parameter)
            if name.startswith("recurrent."):
                # in torch's order the second gate keeps the memory. LSTM: input, FORGET, cell, output. GRU: reset,
                # UPDATE, new, with the state (1 - update) new + update old
                gate = parameter.numel() // gates
                nn.init.ones_(parameter.data[gate : 2 * gate])

    def _features(self, magnitude: Tensor) -> Tensor:
        """Return the log magnitude in dB, in the shape (items, features, 1) that :class:`SharedNorm` normalises.

        That is (B N, F, 1) for statistics of each bin, and (B N F, 1, 1) for those of all bins together.
        """
        # in decibels, as in the code of AutoClip's author
        features = 20 * magnitude.clamp_min(LOG_FLOOR).log10()  # (B, N, F)
        return features.reshape(-1, 1 if self.norm is None else self.norm.num_features, 1)

    @torch.no_grad()
    def input_statistics(self, magnitude: Tensor) -> Tensor | None:
        """Return the statistics of one part for :meth:`SharedNorm.use`; None if the input is not normalised."""
        return None if self.norm is None else self.norm.statistics(self._features(magnitude))

    def use_input_statistics(self, parts: Tensor) -> None:
        """Normalise the input by the statistics of all ``parts`` (P, 3, features) of a batch."""
        if self.norm is not None:
            self.norm.use(parts)

    def forward(self, magnitude: Tensor) -> NetworkOutputs:
        """Map the magnitude (B, N, F) of a mixture to masks and a :class:`RawEmbedding`."""
        # the same two halves as in separation; here the embedding stays raw, for the loss
        hidden, outputs = self.encode(magnitude), NetworkOutputs()
        if "mask" in self.output_heads:
            outputs["mask"] = self._masks(hidden)
        if "embedding" in self.output_heads:
            outputs["embedding"] = self._embedding(hidden)
        return outputs

    def encode(self, magnitude: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Map the magnitude (B, N, F) of a mixture to the output of the last recurrent layer (B, N, 2H).

        If items are shorter than N, ``lengths`` (B,) are their numbers of frames: the result of each item is that of
        the item alone, to the bit in float32 on a CPU, and the frames beyond its end are undefined.
        """
        # normalise the log magnitude
        batch, frames, bins = magnitude.shape
        features = self._features(magnitude)
        if self.norm is not None:
            features = self.norm(features)
        features = features.reshape(batch, frames, bins)
        # run layer by layer, with dropout between them in training
        hidden = features
        for index, layer in enumerate(self.recurrent):
            if index:
                hidden = dropout(hidden, self.dropout if self.training else 0.0)
            assert isinstance(layer, nn.RNNBase)
            hidden = run_recurrent(layer, hidden, lengths)  # (B, N, 2H)
        return hidden

    def decode(self, encoded: Tensor, head: Head) -> Tensor:
        """Map the result of :meth:`encode` (B, N, 2H), or some of its frames, to masks or embeddings of unit norm."""
        return self._masks(encoded) if head == "mask" else self._embedding(encoded).unit()

    def _masks(self, hidden: Tensor) -> Tensor:
        """Map hidden states (B, N, 2H) to masks (B, S, N, F)."""
        masks = self.heads["mask"](hidden).unflatten(2, (self.bins, self.sources)).permute(0, 3, 1, 2)
        # the linear layer leaves the sources interleaved; all later operations are faster on contiguous sources
        masks = masks.to(_at_least_float32(masks), memory_format=torch.contiguous_format).contiguous()
        return _ACTIVATIONS[self.mask_activation](masks)  # (B, S, N, F)

    def _embedding(self, hidden: Tensor) -> RawEmbedding:
        """Map hidden states (B, N, 2H) to embeddings, which a loss can use without storing unit vectors."""
        vectors = self.heads["embedding"](hidden).unflatten(2, (self.bins, self.embedding_size))  # (B, N, F, E)
        return RawEmbedding(vectors, self.embedding_activation)


@settings_dataclass(frozen=True, config=STRICT)
class ConvTasNetSettings:
    """Settings of :class:`ConvTasNet`, in the section ``conv_tasnet``."""

    filters: AtLeastOne
    filter_length: Annotated[int, Field(ge=2)]
    bottleneck: AtLeastOne
    hidden: AtLeastOne
    blocks: AtLeastOne
    repeats: AtLeastOne
    mask_activation: Literal["sigmoid", "relu"]


class ConvTasNet(WaveNetwork):
    """Conv-TasNet (Luo and Mesgarani 2019) of torchaudio: not causal, with global layer normalisation and kernels of 3.

    The letters in brackets are those of the paper. A learned transform has ``filters`` (N) filters of
    ``filter_length`` (L) samples at a hop of L / 2. ``repeats`` (R) stacks of ``blocks`` (X) convolutions with dilation
    1, 2, 4, ... and ``hidden`` (H) channels, connected by ``bottleneck`` (B, Sc) channels, compute masks for it.
    """

    # its many small layers take more time to be started than to run, and the casts of autocast double their number
    gains_from_bf16 = False

    def __init__(self, bins: int, sources: int, heads: Sequence[Head], settings: ConvTasNetSettings):
        super().__init__(bins, sources, heads)
        # loaded here, because no other network needs torchaudio, which is not installed everywhere
        self.net = load_torchaudio().models.ConvTasNet(
            num_sources=sources,
            enc_kernel_size=settings.filter_length,
            enc_num_feats=settings.filters,
            msk_num_feats=settings.bottleneck,
            msk_num_hidden_feats=settings.hidden,
            msk_num_layers=settings.blocks,
            msk_num_stacks=settings.repeats,
            msk_activate=settings.mask_activation,
        )

    def forward(self, mixture: Tensor) -> NetworkOutputs:
        """Map mixtures (B, T) to the waves of their sources (B, S, T)."""
        # torchaudio expects a channel axis; under autocast the waves have 16 bits, fewer than their losses need
        waves: Tensor = self.net(mixture.unsqueeze(1))  # (B, S, T)
        return {"wave": waves.to(_at_least_float32(waves))}


@dataclass(frozen=True)
class Network:
    """A network, the class of its settings, and the section of the configuration that contains them.

    Each network has its own section, named like the network; only the first one shares the section ``model``.
    """

    module: type[MaskNetwork] | type[WaveNetwork]
    settings: type[Any]
    section: str

    @property
    def takes_waves(self) -> bool:
        """Whether the network maps waves to waves; else it maps spectra to masks or embeddings."""
        return issubclass(self.module, WaveNetwork)

    def supports(self, head: str) -> bool:
        """Return whether the network can compute ``head``; waves follow from masks by the inverse transform."""
        heads = self.module.supported_heads
        return head in heads or (head == "wave" and "mask" in heads)


# name in the configuration: class, its settings, and their section
NETWORKS = {
    "blstm": Network(Blstm, BlstmSettings, "model"),
    "conv-tasnet": Network(ConvTasNet, ConvTasNetSettings, "conv_tasnet"),
}


def build_network(
    name: str, seed: int, *, bins: int, sources: int, heads: Sequence[Head], settings: object
) -> MaskNetwork | WaveNetwork:
    """Build a network whose initial weights depend only on ``seed``."""
    # the global generator is restored afterwards, so that building a network changes no other random choice
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name].module(bins, sources, heads, settings)
