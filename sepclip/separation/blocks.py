"""The blocks of a long sound: where they begin, and how a stream of samples is cut into them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Seconds of the longest block and of the least overlap. A batch of blocks takes half the time of one long sequence; the
# overlap is long because a recurrent network remembers seconds beyond the ends of a block (docs/RESULTS.md).
BLOCKS = (30.0, 6.0)
WAVE_BLOCKS = (10.0, 2.0)  # for networks that return waves, whose learned transform needs far more memory


@dataclass(frozen=True)
class Blocks:
    """Blocks of ``length`` samples that begin at ``starts`` and cover a sound; a shorter sound is a single block."""

    starts: list[int]
    length: int

    @classmethod
    def over(cls, samples: int, longest: float, overlap: float, *, rate_hz: int, hop: int) -> "Blocks":
        """Return as few and as short blocks of at most ``longest`` seconds as cover a sound of ``samples``.

        They are evenly spread, overlap by at least ``overlap`` seconds, and begin on the frames that a transform of the
        whole sound with this ``hop`` has. The last block may end up to a hop after the sound, where the transform sees
        zeros as well.
        """
        # everything is counted in hops: the longest block, the overlap, and the sound
        most, shared, whole = round(longest * rate_hz / hop), round(overlap * rate_hz / hop), -(-samples // hop)
        if whole <= most:
            return cls([0], most * hop)
        count = -(-(whole - shared) // (most - shared))
        step = -(-(whole - shared) // count)
        # with equal steps, the last block would end too far after the sound
        starts = [round(index * (whole - shared - step) / (count - 1)) * hop for index in range(count)]
        return cls(starts, (step + shared) * hop)


def cut_blocks(chunks: Iterable[Tensor], blocks: Blocks) -> Iterator[Tensor]:
    """Cut a stream of ``chunks`` (C, n) into ``blocks`` (C, length).

    A block that ends after the sound is padded with zeros, except if it is the only block.
    """
    length = blocks.length
    stream, begin, buffer, at_end = iter(chunks), 0, None, False  # the buffer begins at the sample `begin`
    for start in blocks.starts:
        # read until the buffer contains the block, and drop what comes before the block
        while not at_end and (buffer is None or begin + buffer.shape[-1] < start + length):
            chunk = next(stream, None)
            if chunk is None:
                at_end = True
            else:
                buffer = chunk if buffer is None else torch.cat([buffer[:, max(0, start - begin) :], chunk], -1)
                begin = begin if buffer is chunk else max(begin, start)
        if buffer is None:
            return
        block = buffer[:, start - begin : start - begin + length]
        yield block if start == 0 and at_end else F.pad(block, (0, length - block.shape[-1]))
