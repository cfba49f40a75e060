"""What every network is: its inputs, the heads it gives, and how long recordings go through it in blocks."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypedDict, runtime_checkable

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from sepclip.model.embedding import RawEmbedding

Head = Literal["mask", "embedding", "wave"]
STRICT = ConfigDict(extra="forbid")  # of settings: an unknown key is an error
AtLeastOne = Annotated[int, Field(ge=1)]


class NetworkOutputs(TypedDict, total=False):
    """What a network gives: those of these heads that the loss takes."""

    mask: Tensor  # (B, S, N, F)
    embedding: RawEmbedding | Tensor  # vectors (B, N, F, E); a tensor is taken as it is
    wave: Tensor  # (B, S, T)


class MaskNetwork(nn.Module):
    """Base class of networks that map the magnitude of a mixture to masks or embeddings.

    A subclass names the heads that it can give in ``gives``, takes ``bins`` (F), ``sources`` (S), the ``heads`` that
    are wanted and its settings, and implements ``forward``. Long recordings are separated in blocks by :meth:`encode`,
    which is run once for a batch of blocks, and :meth:`decode`, which is run for a few frames at a time. Override both
    if a few numbers a frame, such as a hidden state, say as much as all masks or embeddings of the frame.
    """

    gives: ClassVar[tuple[Head, ...]] = ("mask",)

    def __init__(self, bins: int, sources: int, heads: Sequence[Head], settings: Any = None):
        super().__init__()
        self.bins, self.sources, self.wanted = bins, sources, tuple(heads)

    def forward(self, magnitude: Tensor) -> NetworkOutputs:
        """Map the magnitude (B, N, F) of a mixture to the wanted heads."""
        raise NotImplementedError

    def encode(self, magnitude: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Return all that :meth:`decode` needs of mixtures (B, N, F), as K numbers a frame (B, N, K).

        If items end before N, ``lengths`` (B,) are their frames: each item is encoded without what lies beyond its
        end. Here K holds the heads themselves, one after the other.
        """
        if lengths is not None:
            # one by one, since nothing is known of what a network makes of zeros behind an item
            parts = [
                self.encode(item[:length].unsqueeze(0))[0] for item, length in zip(magnitude, lengths, strict=True)
            ]
            return nn.utils.rnn.pad_sequence(parts, batch_first=True)  # (B, N, K)
        outputs = self(magnitude)
        frames = []
        if "mask" in self.wanted:
            frames.append(outputs["mask"].transpose(1, 2).flatten(2))  # (B, N, S F)
        if "embedding" in self.wanted:
            frames.append(unit_vectors(outputs["embedding"]).flatten(2))  # (B, N, F E)
        return torch.cat(frames, 2)

    def decode(self, encoded: Tensor, head: Head) -> Tensor:
        """Return masks (B, S, N, F), or vectors of unit norm (B, N, F, E), of encoded frames (B, N, K)."""
        masks = self.bins * self.sources if "mask" in self.wanted else 0
        encoded = encoded.to(torch.promote_types(encoded.dtype, torch.float32))
        if head == "mask":
            return encoded[..., :masks].reshape(*encoded.shape[:2], self.sources, self.bins).transpose(1, 2)
        return encoded[..., masks:].reshape(*encoded.shape[:2], self.bins, -1)


class WaveNetwork(nn.Module):
    """Base class of networks that map mixtures (B, T) to the waves of their sources (B, S, T), as the head ``wave``."""

    gives: ClassVar[tuple[Head, ...]] = ("wave",)

    def __init__(self, bins: int, sources: int, heads: Sequence[Head], settings: Any = None):
        super().__init__()
        self.sources = sources

    def forward(self, mixture: Tensor) -> NetworkOutputs:
        """Map mixtures (B, T) to the waves of their sources (B, S, T)."""
        raise NotImplementedError


def unit_vectors(embedding: RawEmbedding | Tensor) -> Tensor:
    """Return the vectors (B, N, F, E) of an embedding, brought to unit norm if the network left that to its user."""
    return embedding.unit() if isinstance(embedding, RawEmbedding) else embedding


@runtime_checkable
class NormalisesInput(Protocol):
    """A network whose input statistics are those of a whole batch, also where that goes through in parts."""

    def input_statistics(self, magnitude: Tensor) -> Tensor | None:
        """Return the statistics of one part, of any but always equal shape; None where none are needed.

        Zeros are those of no part at all.
        """

    def use_input_statistics(self, parts: Tensor) -> None:
        """Take the statistics of all parts, stacked, for the forward passes that follow."""
