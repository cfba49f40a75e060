"""The contracts of networks: their inputs, their output heads, and how long recordings pass through them in blocks."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypedDict, runtime_checkable

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from sepclip.model.embedding import RawEmbedding

Head = Literal["mask", "embedding", "wave"]
STRICT = ConfigDict(extra="forbid")  # for classes of settings: an unknown key is an error
AtLeastOne = Annotated[int, Field(ge=1)]


class NetworkOutputs(TypedDict, total=False):
    """The outputs of a network: the heads that the loss needs."""

    mask: Tensor  # (B, S, N, F)
    embedding: RawEmbedding | Tensor  # vectors (B, N, F, E); a tensor is used as it is
    wave: Tensor  # (B, S, T)


class MaskNetwork(nn.Module):
    """Base class of networks that map the magnitude of a mixture to masks or embeddings.

    A subclass lists the heads that it can compute in ``supported_heads``. It takes ``bins`` (F), ``sources`` (S), the
    ``heads`` to compute and its settings, and implements ``forward``. Long recordings are separated in blocks by
    :meth:`encode`, which runs once per batch of blocks, and :meth:`decode`, which runs on a few frames at a time.
    Override both if a few numbers per frame, such as a hidden state, determine all masks or embeddings of the frame.
    """

    supported_heads: ClassVar[tuple[Head, ...]] = ("mask",)
    gains_from_bf16: ClassVar[bool] = True  # on a GPU: whether precision auto is bf16 there, and not TF32

    def __init__(self, bins: int, sources: int, heads: Sequence[Head], settings: Any = None):
        super().__init__()
        self.bins, self.sources, self.output_heads = bins, sources, tuple(heads)

    def forward(self, magnitude: Tensor) -> NetworkOutputs:
        """Map the magnitude (B, N, F) of a mixture to the output heads."""
        raise NotImplementedError

    # encode and decode split a forward pass where it is narrowest. The base class cannot know where that is, so it
    # splits after the last layer, and the heads themselves are kept until all blocks of a batch are decoded.

    def encode(self, magnitude: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Return what :meth:`decode` needs for mixtures (B, N, F), as K numbers per frame (B, N, K).

        If items are shorter than N, ``lengths`` (B,) are their numbers of frames: each item is encoded without its
        padding. In this base class the K numbers are the heads themselves, one after the other.
        """
        if lengths is not None:
            # one by one: a network of unknown structure may let padding change the frames before it
            parts = [
                self.encode(item[:length].unsqueeze(0))[0] for item, length in zip(magnitude, lengths, strict=True)
            ]
            return nn.utils.rnn.pad_sequence(parts, batch_first=True)  # (B, N, K)
        # frames come before sources, so that decode can take any frames from the result
        outputs = self(magnitude)
        frames = []
        if "mask" in self.output_heads:
            frames.append(outputs["mask"].transpose(1, 2).flatten(2))  # (B, N, S F)
        if "embedding" in self.output_heads:
            frames.append(unit_vectors(outputs["embedding"]).flatten(2))  # (B, N, F E)
        return torch.cat(frames, 2)

    def decode(self, encoded: Tensor, head: Head) -> Tensor:
        """Return masks (B, S, N, F), or vectors of unit norm (B, N, F, E), from encoded frames (B, N, K)."""
        mask_size = self.bins * self.sources if "mask" in self.output_heads else 0
        # under autocast the encoded frames may be in bfloat16; masks and vectors are at least float32
        encoded = encoded.to(torch.promote_types(encoded.dtype, torch.float32))
        if head == "mask":
            return encoded[..., :mask_size].reshape(*encoded.shape[:2], self.sources, self.bins).transpose(1, 2)
        return encoded[..., mask_size:].reshape(*encoded.shape[:2], self.bins, -1)


class WaveNetwork(nn.Module):
    """Base class of networks that map mixtures (B, T) to the waves of their sources (B, S, T), as the head ``wave``."""

    supported_heads: ClassVar[tuple[Head, ...]] = ("wave",)
    gains_from_bf16: ClassVar[bool] = True

    def __init__(self, bins: int, sources: int, heads: Sequence[Head], settings: Any = None):
        super().__init__()
        self.sources = sources

    def forward(self, mixture: Tensor) -> NetworkOutputs:
        """Map mixtures (B, T) to the waves of their sources (B, S, T)."""
        raise NotImplementedError


def unit_vectors(embedding: RawEmbedding | Tensor) -> Tensor:
    """Return the vectors (B, N, F, E) of an embedding, normalised here if the network returned a raw embedding."""
    return embedding.unit() if isinstance(embedding, RawEmbedding) else embedding


@runtime_checkable
class NormalisesInput(Protocol):
    """A network that normalises its input by the statistics of the whole batch, even if it sees the batch in parts.

    A batch comes in parts under gradient accumulation and when several processes share it.
    """

    def input_statistics(self, magnitude: Tensor) -> Tensor | None:
        """Return the statistics of one part, always of the same shape; None if the network does not need any.

        Zeros are the statistics of an empty part.
        """

    def use_input_statistics(self, parts: Tensor) -> None:
        """Use the statistics of all parts, stacked, in the forward passes that follow."""
