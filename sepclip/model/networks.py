"""Networks from a mixture to masks, embeddings, or waves.

To add one: a class and its line in ``NETWORKS``. ``forward`` maps the mixture's magnitude (B, N, F) to the heads that
were asked for; a network that gives waves maps the mixture (B, T) to them.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sepclip.audio.resample import load_torchaudio
from sepclip.model.embedding import EmbeddingActivation, RawEmbedding
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


@runtime_checkable
class NormalisesInput(Protocol):
    """A network whose input statistics are those of a whole batch, also where that goes through in parts."""

    def input_statistics(self, magnitude: Tensor) -> Tensor | None:
        """Return the statistics of one part, of any but always equal shape; None where none are needed.

        Zeros are those of no part at all.
        """

    def use_input_statistics(self, parts: Tensor) -> None:
        """Take the statistics of all parts, stacked, for the forward passes that follow."""


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


class Blstm(nn.Module):
    """The network of the AutoClip paper: bidirectional recurrent layers on the log magnitude, a linear layer per head.

    ``mask``: masks (B, S, N, F), by a sigmoid in the paper, so that they need not sum to 1. ``embedding``: a vector of
    unit norm for every bin (B, N, F, E), by a sigmoid in the paper. The paper is silent on what follows; its author's
    library has ``all`` and ``nussl``. A batch normalisation centres the input: one mean and variance for ``all`` bins,
    one for each of the ``bins``, or ``none``. ``init``: ``nussl`` is Xavier normal for weights (all gates of a layer as
    one matrix), zero for biases but those of the gate that keeps the memory (1 in each of the two that are added);
    ``torch`` leaves torch's own.
    """

    def __init__(
        self,
        *,
        bins: int,
        sources: int,
        heads: Sequence[str],
        layers: int,
        hidden: int,
        dropout: float,
        embedding_size: int,
        recurrence: Recurrence = "lstm",
        mask_activation: MaskActivation = "sigmoid",
        embedding_activation: EmbeddingActivation = "sigmoid",
        input_norm: InputNorm = "all",
        init: Init = "nussl",
    ):
        super().__init__()
        self.bins, self.sources, self.embedding_size = bins, sources, embedding_size
        self.mask_activation, self.embedding_activation = mask_activation, embedding_activation
        self.norm = None if input_norm == "none" else SharedNorm(1 if input_norm == "all" else bins)
        kind, gates = _RECURRENCES[recurrence]
        self.dropout = dropout
        # a module a layer and the dropout between them ours: cuDNN's own comes from a state that no checkpoint can keep
        # (pytorch issue 104697), so that a resumed run, or a watched one, would be another run.
        self.recurrent = nn.ModuleList(
            kind(2 * hidden if layer else bins, hidden, batch_first=True, bidirectional=True) for layer in range(layers)
        )
        sizes = {"mask": bins * sources, "embedding": bins * embedding_size}
        self.heads = nn.ModuleDict({head: nn.Linear(2 * hidden, sizes[head]) for head in heads})
        if init == "nussl":
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

    def forward(self, magnitude: Tensor) -> dict[str, Any]:
        """Map the magnitude (B, N, F) of a mixture to what a loss takes: masks, and a :class:`RawEmbedding`."""
        return self._heads(self.encode(magnitude), self.heads.keys())

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

    def decode(self, hidden: Tensor, only: Collection[str] | None = None) -> dict[str, Tensor]:
        """Map what :meth:`encode` gave (B, N, 2H), or any frames of it, to masks and embeddings of unit norm.

        ``only``: these heads and no others.
        """
        outputs = self._heads(hidden, self.heads.keys() if only is None else only)
        return {name: x.unit() if isinstance(x, RawEmbedding) else x for name, x in outputs.items()}

    def _heads(self, hidden: Tensor, wanted: Collection[str]) -> dict[str, Any]:
        batch, frames, bins = *hidden.shape[:2], self.bins
        outputs: dict[str, Any] = {}
        if "mask" in wanted:
            masks = self.heads["mask"](hidden).reshape(batch, frames, bins, self.sources).permute(0, 3, 1, 2)
            # each source in a piece from here on: all that follows would else go through them two by two
            masks = masks.to(_exact_type(masks), memory_format=torch.contiguous_format).contiguous()
            outputs["mask"] = _ACTIVATIONS[self.mask_activation](masks)  # (B, S, N, F)
        if "embedding" in wanted:
            vectors = self.heads["embedding"](hidden).reshape(batch, frames, bins, self.embedding_size)
            outputs["embedding"] = RawEmbedding(vectors, self.embedding_activation)  # (B, N, F, E)
        return outputs


class ConvTasNet(nn.Module):
    """Conv-TasNet (Luo and Mesgarani 2019), torchaudio's: not causal, global layer normalisation, blocks of kernel 3.

    The letters in brackets are the paper's. A learned transform of ``filters`` (N) filters of ``filter_length`` (L)
    samples at a hop of half of it; ``repeats`` (R) times ``blocks`` (X) convolutions of dilation 1, 2, 4, ... and
    ``hidden`` (H) channels, joined and summed by ``bottleneck`` (B, Sc) channels; masks on the transform.
    """

    def __init__(
        self,
        *,
        bins: int,
        sources: int,
        heads: Sequence[str],
        filters: int,
        filter_length: int,
        bottleneck: int,
        hidden: int,
        blocks: int,
        repeats: int,
        mask_activation: Literal["sigmoid", "relu"],
    ):
        super().__init__()
        self.net = load_torchaudio().models.ConvTasNet(
            num_sources=sources,
            enc_kernel_size=filter_length,
            enc_num_feats=filters,
            msk_num_feats=bottleneck,
            msk_num_hidden_feats=hidden,
            msk_num_layers=blocks,
            msk_num_stacks=repeats,
            msk_activate=mask_activation,
        )

    def forward(self, mixture: Tensor) -> dict[str, Tensor]:
        """Map mixtures (B, T) to the waves of their sources (B, S, T)."""
        waves: Tensor = self.net(mixture.unsqueeze(1))
        return {"wave": waves.to(_exact_type(waves))}


@dataclass(frozen=True)
class Network:
    """A network, the heads that it can give, and the section of the configuration with its settings."""

    build: Callable[..., nn.Module]
    gives: tuple[str, ...]
    section: str

    @property
    def takes_waves(self) -> bool:
        """Whether it maps waves to waves; else it maps spectra to masks or embeddings."""
        return "wave" in self.gives

    def can_give(self, head: str) -> bool:
        """Tell whether ``head`` can be had of it; waves follow from masks by the inverse transform."""
        return head in self.gives or (head == "wave" and "mask" in self.gives)


NETWORKS = {
    "blstm": Network(Blstm, ("mask", "embedding"), "model"),
    "conv-tasnet": Network(ConvTasNet, ("wave",), "conv_tasnet"),
}


def build_network(name: str, seed: int, **settings: object) -> nn.Module:
    """Build a network whose initial weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name].build(**settings)
