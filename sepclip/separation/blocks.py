"""Where the blocks of a long sound lie, and how a stream of samples is resampled and cut into them."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from sepclip.audio.resample import FILTER_SAMPLES, resample

BLOCK_SECONDS = 10.0  # batches of such blocks take half the time of one long sequence (docs/RESULTS.md)
OVERLAP_SECONDS = 2.0


def block_starts(samples: int, length: int, overlap: int, hop: int) -> list[int]:
    """Return where the blocks of ``length`` begin that cover a sound of ``samples``.

    They are evenly spread, overlap by at least ``overlap``, and begin on the frames of a transform of the whole sound.
    The last one may reach up to a hop beyond the end, where the transform sees zeros as well.
    """
    if samples <= length:
        return [0]
    last = math.ceil((samples - length) / hop)  # all in hops
    count = math.ceil((samples - overlap) / (length - overlap))
    return [round(index * last / (count - 1)) * hop for index in range(count)]


def cut_blocks(chunks: Iterable[Tensor], starts: Iterable[int], length: int) -> Iterator[Tensor]:
    """Cut a stream of ``chunks`` (C, n) into blocks (C, length); a sound shorter than one block is one as it is."""
    stream, begin, held, at_end = iter(chunks), 0, None, False
    for start in starts:
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
