"""Networks that map a mixture to masks, embeddings, or waves.

To add a network, write a subclass of ``MaskNetwork`` or ``WaveNetwork`` (network_base.py) with its ``forward``, a class
with its settings, and a line in ``NETWORKS``; its settings become a section of ``configs/base.yaml``. Nothing else has
to change: with ``forward`` alone a network trains, is saved and loaded, and separates files of any length.
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
from sepclip.model.recurrence import run_apart

LOG_FLOOR = 1e-4  # magnitudes below do not count: -80 dB re 1, as in the AutoClip author's code

Recurrence = Literal["lstm", "gru"]
MaskActivation = Literal["sigmoid", "softmax", "relu", "none"]
InputNorm = Literal["all", "bins", "none"]
Init = Literal["nussl", "torch"]

_RECURRENCES: dict[str, tuple[type[nn.LSTM] | type[nn.GRU], int]] = {"lstm": (nn.LSTM, 4), "gru": (nn.GRU, 3)}  # gates
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "softmax": lambda x: x.softmax(1),  # over the sources of masks (B, S, N, F)
    "none": lambda x: x,
}


def _exact_type(values: Tensor) -> torch.dtype:
    """Return float32 for ``values`` of less, else their type."""
    return torch.promote_types(values.dtype, torch.float32)


class SharedNorm(nn.BatchNorm1d):
    """Batch normalisation of an input that no parameter has touched, so that its statistics can be known beforehand.

    Where a batch goes through in parts, or is shared by processes, every part is normalised by the statistics of the
    whole: each part's are taken, joined, and put in place by :meth:`use` before the first forward pass of a step.
    """

    given: tuple[Tensor, Tensor] | None = None  # mean and biased variance, each (features,)

    def forward(self, values: Tensor) -> Tensor:
        """Normalise (items, features, values)."""
        if self.given is None or not self.training:
            return super().forward(values)
        mean, variance = self.given
        return F.batch_norm(values, mean, variance, self.weight, self.bias, training=False, eps=self.eps)

    @staticmethod
    def statistics(values: Tensor) -> Tensor:
        """Return the count, the mean and the sum of squared deviations of each feature (3, features), in float64."""
        variance, mean = torch.var_mean(values.double(), (0, 2), correction=0)
        count = torch.full_like(mean, values.shape[0] * values.shape[2])
        return torch.stack([count, mean, variance * count])

    @torch.no_grad()
    def use(self, parts: Tensor) -> None:
        """Normalise by the statistics of all ``parts`` (P, 3, features) together (Chan et al. 1979), from now on."""
        counts, means, squares = parts.unbind(1)
        total = counts.sum(0)
        mean = (counts * means).sum(0) / total
        square = (squares + counts * (means - mean).square()).sum(0)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        dtype = self.running_mean.dtype
        self.given = (mean.to(dtype), (square / total).to(dtype))
        self.running_mean.lerp_(self.given[0], self.momentum or 0.0)
        self.running_var.lerp_((square / (total - 1)).to(dtype), self.momentum or 0.0)
        self.num_batches_tracked += 1


def dropout(x: Tensor, share: float) -> Tensor:
    """Set a ``share`` of the elements to zero at random and scale the others so that the mean stays.

    On a CPU torch draws 64 random bits for every element, on one core, which takes up to a tenth of a step. 16 bits are
    enough: the share is right to 1/65536, and the scale goes by what it is.
    """
    if x.device.type != "cpu" or share == 0:
        return F.dropout(x, share)
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

    ``mask``: masks (B, S, N, F), by a sigmoid in the paper, so that they need not sum to 1. ``embedding``: a vector of
    unit norm for every bin (B, N, F, E), by a sigmoid in the paper. The paper is silent on what follows; its author's
    library has ``all`` and ``nussl``. A batch normalisation centres the input: one mean and variance for ``all`` bins,
    one for each of the ``bins``, or ``none``. ``init``: ``nussl`` is Xavier normal for weights (all gates of a layer as
    one matrix), zero for biases but those of the gate that keeps the memory (1 in each of the two that are added);
    ``torch`` leaves torch's own.
    """

    gives = ("mask", "embedding")

    def __init__(self, bins: int, sources: int, heads: Sequence[Head], settings: BlstmSettings):
        super().__init__(bins, sources, heads)
        layers, hidden, self.embedding_size = settings.layers, settings.hidden, settings.embedding_size
        self.mask_activation, self.embedding_activation = settings.mask_activation, settings.embedding_activation
        self.norm = None if settings.input_norm == "none" else SharedNorm(1 if settings.input_norm == "all" else bins)
        kind, gates = _RECURRENCES[settings.recurrence]
        self.dropout = settings.dropout
        # a module a layer and the dropout between them ours: cuDNN's own comes from a state that no checkpoint can keep
        # (pytorch issue 104697), so that a resumed run, or a recorded one, would be another run.
        self.recurrent = nn.ModuleList(
            kind(2 * hidden if layer else bins, hidden, batch_first=True, bidirectional=True) for layer in range(layers)
        )
        sizes = {"mask": bins * sources, "embedding": bins * self.embedding_size}
        self.heads = nn.ModuleDict({head: nn.Linear(2 * hidden, sizes[head]) for head in heads})
        if settings.init == "nussl":
            self._initialise(gates)

    def _initialise(self, gates: int) -> None:
        for name, parameter in self.named_parameters():
            if name.startswith("norm."):
                continue
            if parameter.dim() == 2:
                nn.init.xavier_normal_(parameter)
                continue
            nn.init.zeros_(parameter)
            if name.startswith("recurrent."):
                # in torch's order the second gate keeps the memory: of the LSTM's input, FORGET, cell, output; of the
                # GRU's reset, UPDATE, new, where the state becomes (1 - update) new + update old
                gate = parameter.numel() // gates
                nn.init.ones_(parameter.data[gate : 2 * gate])

    def _features(self, magnitude: Tensor) -> Tensor:
        """Return the log magnitude in dB as (items, normalised apart, values).

        That is (B N, F, 1) for each of the bins, and (B N F, 1, 1) for all of them.
        """
        features = 20 * magnitude.clamp_min(LOG_FLOOR).log10()  # (B, N, F)
        return features.reshape(-1, 1 if self.norm is None else self.norm.num_features, 1)

    @torch.no_grad()
    def input_statistics(self, magnitude: Tensor) -> Tensor | None:
        """Return what :meth:`SharedNorm.use` takes of one part; None where the input is not normalised."""
        return None if self.norm is None else self.norm.statistics(self._features(magnitude))

    def use_input_statistics(self, parts: Tensor) -> None:
        """Normalise the input by the statistics of all ``parts`` (P, 3, features) of a batch."""
        if self.norm is not None:
            self.norm.use(parts)

    def forward(self, magnitude: Tensor) -> NetworkOutputs:
        """Map the magnitude (B, N, F) of a mixture to masks and a :class:`RawEmbedding`."""
        hidden, outputs = self.encode(magnitude), NetworkOutputs()
        if "mask" in self.wanted:
            outputs["mask"] = self._masks(hidden)
        if "embedding" in self.wanted:
            outputs["embedding"] = self._embedding(hidden)
        return outputs

    def encode(self, magnitude: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Map the magnitude (B, N, F) of a mixture to what the last recurrent layer gives (B, N, 2H).

        Where items end before N, ``lengths`` (B,) are their frames: each is as it would be by itself, to the bit in
        float32 on a CPU, and what lies beyond its end means nothing.
        """
        batch, frames, bins = magnitude.shape
        features = self._features(magnitude)
        if self.norm is not None:
            features = self.norm(features)
        features = features.reshape(batch, frames, bins)
        hidden = features
        for index, layer in enumerate(self.recurrent):
            if index:
                hidden = dropout(hidden, self.dropout if self.training else 0.0)
            assert isinstance(layer, nn.RNNBase)
            hidden = layer(hidden)[0] if lengths is None else run_apart(layer, hidden, lengths)  # (B, N, 2H)
        return hidden

    def decode(self, encoded: Tensor, head: Head) -> Tensor:
        """Map what :meth:`encode` gave (B, N, 2H), or any frames of it, to masks or embeddings of unit norm."""
        return self._masks(encoded) if head == "mask" else self._embedding(encoded).unit()

    def _masks(self, hidden: Tensor) -> Tensor:
        masks = self.heads["mask"](hidden).unflatten(2, (self.bins, self.sources)).permute(0, 3, 1, 2)
        # each source in a piece from here on: all that follows would else go through them two by two
        masks = masks.to(_exact_type(masks), memory_format=torch.contiguous_format).contiguous()
        return _ACTIVATIONS[self.mask_activation](masks)  # (B, S, N, F)

    def _embedding(self, hidden: Tensor) -> RawEmbedding:
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
    """Conv-TasNet (Luo and Mesgarani 2019), torchaudio's: not causal, global layer normalisation, blocks of kernel 3.

    The letters in brackets are the paper's. A learned transform of ``filters`` (N) filters of ``filter_length`` (L)
    samples at a hop of half of it; ``repeats`` (R) times ``blocks`` (X) convolutions of dilation 1, 2, 4, ... and
    ``hidden`` (H) channels, joined and summed by ``bottleneck`` (B, Sc) channels; masks on the transform.
    """

    def __init__(self, bins: int, sources: int, heads: Sequence[Head], settings: ConvTasNetSettings):
        super().__init__(bins, sources, heads)
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
        waves: Tensor = self.net(mixture.unsqueeze(1))
        return {"wave": waves.to(_exact_type(waves))}


@dataclass(frozen=True)
class Network:
    """A network, the class of its settings, and the section of the configuration that holds them.

    Every network has a section of its own, named like its module; only the first one shares the section ``model``.
    """

    module: type[MaskNetwork] | type[WaveNetwork]
    settings: type[Any]
    section: str

    @property
    def takes_waves(self) -> bool:
        """Whether it maps waves to waves; else it maps spectra to masks or embeddings."""
        return issubclass(self.module, WaveNetwork)

    def can_give(self, head: str) -> bool:
        """Tell whether it can give ``head``; waves follow from masks by the inverse transform."""
        return head in self.module.gives or (head == "wave" and "mask" in self.module.gives)


NETWORKS = {
    "blstm": Network(Blstm, BlstmSettings, "model"),
    "conv-tasnet": Network(ConvTasNet, ConvTasNetSettings, "conv_tasnet"),
}


def build_network(
    name: str, seed: int, *, bins: int, sources: int, heads: Sequence[Head], settings: object
) -> MaskNetwork | WaveNetwork:
    """Build a network whose initial weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name].module(bins, sources, heads, settings)
