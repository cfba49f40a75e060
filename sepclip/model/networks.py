"""Networks from a mixture's magnitude spectrogram to masks, embeddings, or both.

To add one: a class with ``forward(magnitude) -> {head: output}`` and its line in ``NETWORKS``.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOG_FLOOR = 1e-4  # magnitudes below do not count: -80 dB re 1, as in the AutoClip author's code


class Blstm(nn.Module):
    """The network of the AutoClip paper: BLSTM layers on the log magnitude, and a linear layer for each head.

    ``mask``: sigmoid masks (B, S, N, F), which need not sum to 1. ``embedding``: a sigmoid vector of unit norm for
    every bin (B, N, F, E). A batch normalisation centres the input: one mean and variance for ``all`` bins, or for
    each of the ``bins``. Initial weights are Xavier normal, biases zero but the forget gates' (2 in all). The paper is
    silent on all three; with ``all`` they are those of its author's library.
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
        input_norm: Literal["all", "bins"],
    ):
        super().__init__()
        self.bins, self.sources, self.embedding_size = bins, sources, embedding_size
        self.norm = nn.BatchNorm1d(1 if input_norm == "all" else bins)
        self.lstm = nn.LSTM(
            bins,
            hidden,
            layers,
            batch_first=True,
            bidirectional=True,
            dropout=dropout if layers > 1 else 0.0,
        )
        sizes = {"mask": bins * sources, "embedding": bins * embedding_size}
        self.heads = nn.ModuleDict({head: nn.Linear(2 * hidden, sizes[head]) for head in heads})
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.startswith("norm."):
                continue
            if parameter.dim() == 2:
                nn.init.xavier_normal_(parameter)
                continue
            nn.init.zeros_(parameter)
            if name.startswith("lstm."):
                gate = parameter.numel() // 4  # gates in torch's order: input, forget, cell, output
                nn.init.ones_(parameter.data[gate : 2 * gate])

    def forward(self, magnitude: Tensor) -> dict[str, Tensor]:
        """Map the magnitude (B, N, F) of a mixture to the outputs of the heads."""
        batch, frames, bins = magnitude.shape
        decibels = 20 * magnitude.clamp_min(LOG_FLOOR).log10()
        # as (items, normalised apart, values): (B N, F, 1) for each of the bins, (B N F, 1, 1) for all of them
        features = self.norm(decibels.reshape(-1, self.norm.num_features, 1)).reshape(batch, frames, bins)
        hidden, _ = self.lstm(features)  # (B, N, 2H)
        outputs = {}
        if "mask" in self.heads:
            masks = self.heads["mask"](hidden).reshape(batch, frames, bins, self.sources)
            outputs["mask"] = masks.permute(0, 3, 1, 2).float().sigmoid()  # (B, S, N, F)
        if "embedding" in self.heads:
            vectors = self.heads["embedding"](hidden).reshape(batch, frames, bins, self.embedding_size)
            outputs["embedding"] = F.normalize(vectors.float().sigmoid(), dim=-1)  # (B, N, F, E)
        return outputs


NETWORKS: dict[str, Callable[..., nn.Module]] = {"blstm": Blstm}


def build_network(name: str, seed: int, **settings: object) -> nn.Module:
    """Build a network whose initial weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name](**settings)
