"""Networks from a mixture to masks, embeddings, or waves.

To add one: a class and its line in ``NETWORKS``. ``forward`` maps the mixture's magnitude (B, N, F) to the heads that
were asked for; a network that gives waves maps the mixture (B, T) to them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sepclip.audio.resample import load_torchaudio
from sepclip.model.embedding import EmbeddingActivation, unit_embedding

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
        self.norm = None if input_norm == "none" else nn.BatchNorm1d(1 if input_norm == "all" else bins)
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

    def forward(self, magnitude: Tensor) -> dict[str, Tensor]:
        """Map the magnitude (B, N, F) of a mixture to the outputs of the heads."""
        return self.decode(self.encode(magnitude))

    def encode(self, magnitude: Tensor) -> Tensor:
        """Map the magnitude (B, N, F) of a mixture to what the last recurrent layer gives (B, N, 2H)."""
        batch, frames, bins = magnitude.shape
        features = 20 * magnitude.clamp_min(LOG_FLOOR).log10()
        if self.norm is not None:
            # as (items, normalised apart, values): (B N, F, 1) for each of the bins, (B N F, 1, 1) for all of them
            features = self.norm(features.reshape(-1, self.norm.num_features, 1)).reshape(batch, frames, bins)
        hidden = features
        for index, layer in enumerate(self.recurrent):
            if index:
                hidden = dropout(hidden, self.dropout if self.training else 0.0)
            hidden, _ = layer(hidden)  # (B, N, 2H)
        return hidden

    def decode(self, hidden: Tensor) -> dict[str, Tensor]:
        """Map what :meth:`encode` gave (B, N, 2H), or any frames of it, to the outputs of the heads."""
        batch, frames, bins = *hidden.shape[:2], self.bins
        outputs = {}
        if "mask" in self.heads:
            masks = self.heads["mask"](hidden).reshape(batch, frames, bins, self.sources)
            outputs["mask"] = _ACTIVATIONS[self.mask_activation](masks.permute(0, 3, 1, 2).float())  # (B, S, N, F)
        if "embedding" in self.heads:
            vectors = self.heads["embedding"](hidden).reshape(batch, frames, bins, self.embedding_size)
            outputs["embedding"] = unit_embedding(vectors, self.embedding_activation)  # (B, N, F, E)
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
        return {"wave": self.net(mixture.unsqueeze(1)).float()}


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
