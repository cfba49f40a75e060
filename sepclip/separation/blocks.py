"""Where the blocks of a long sound lie, and how a stream of samples is resampled and cut into them."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sepclip.audio.resample import FILTER_SAMPLES, resample

# Seconds of the longest block and of the least overlap. A batch of blocks takes half the time of one long sequence; the
# memory of a recurrent network reaches seconds beyond the ends of a block (docs/RESULTS.md).
BLOCKS = (30.0, 6.0)
WAVE_BLOCKS = (10.0, 2.0)  # of networks of waves, whose learned transform takes far more memory


@dataclass(frozen=True)
class Blocks:
    """Blocks of ``length`` samples that begin at ``starts`` and cover a sound; a shorter sound is one as it is."""

    starts: list[int]
    length: int

    @classmethod
    def over(cls, samples: int, longest: float, overlap: float, *, rate_hz: int, hop: int) -> "Blocks":
        """Lay blocks of at most ``longest`` seconds over a sound of ``samples``, as few and as short as can be.

        They are evenly spread, overlap by at least ``overlap`` seconds, and begin on the frames of a transform of the
        whole sound of this ``hop``. The last one may reach up to a hop beyond the end, where the transform sees zeros
        as well.
        """
        most, shared, whole = round(longest * rate_hz / hop), round(overlap * rate_hz / hop), -(-samples // hop)  # hops
        if whole <= most:
            return cls([0], most * hop)
        count = -(-(whole - shared) // (most - shared))
        step = -(-(whole - shared) // count)
        # equal steps would let the last block reach beyond the end
        starts = [round(index * (whole - shared - step) / (count - 1)) * hop for index in range(count)]
        return cls(starts, (step + shared) * hop)


def cut_blocks(chunks: Iterable[Tensor], blocks: Blocks) -> Iterator[Tensor]:
    """Cut a stream of ``chunks`` (C, n) into ``blocks`` (C, length); a sound shorter than one block is one as it is."""
    length = blocks.length
    stream, begin, held, at_end = iter(chunks), 0, None, False
    for start in blocks.starts:
        while not at_end and (held is None or begin + held.shape[-1] < start + length):
            chunk = next(stream, None)
            if chunk is None:
                at_end = True
            else:
                held = chunk if held is None else torch.cat([held[:, max(0, start - begin) :], chunk], -1)
                begin = begin if held is chunk else max(begin, start)
        if held is None:
            return
        block = held[:, start - begin : start - begin + length]
        yield block if start == 0 and at_end else F.pad(block, (0, length - block.shape[-1]))


def resample_stream(chunks: Iterable[Tensor], from_hz: int, to_hz: int) -> Iterator[Tensor]:
    """Resample a stream of ``chunks`` (..., n) so that the pieces together are the whole sound resampled at once.

    The filter is applied to pieces with as much before and behind them as it reaches, which begin where the two rates
    have a sample at the same moment.
    """
    if from_hz == to_hz:
        yield from chunks
        return
    divisor = math.gcd(from_hz, to_hz)
    old, new = from_hz // divisor, to_hz // divisor
    reach = math.ceil(FILTER_SAMPLES * max(1, old / new) / old + 1) * old  # of the filter, in input samples
    held: Tensor | None = None
    lead = 0  # of the samples held, those that are already done
    for chunk in chunks:
        held = chunk if held is None else torch.cat([held, chunk], -1)
        ready = (held.shape[-1] - reach) // old * old
        if ready > lead:
            yield resample(held[..., : ready + reach], from_hz, to_hz)[..., lead // old * new : ready // old * new]
            spent = max(0, ready - reach)
            held, lead = held[..., spent:], ready - spent
    if held is not None:
        yield resample(held, from_hz, to_hz)[..., lead // old * new :]
