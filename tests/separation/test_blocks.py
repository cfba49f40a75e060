import itertools

import pytest
import torch

from sepclip.audio.resample import resample, resample_stream
from sepclip.separation.blocks import Blocks, cut_blocks


def pieces(wave, *lengths):
    """Cut a wave into pieces of the lengths, over and over."""
    begin, turn = 0, 0
    while begin < wave.shape[-1]:
        yield wave[..., begin : begin + lengths[turn % len(lengths)]]
        begin, turn = begin + lengths[turn % len(lengths)], turn + 1


def noise(channels, samples):
    return torch.randn(channels, samples, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("samples", [0, 1, 999, 1000])
def test_short_sound_is_a_single_block(samples):
    assert Blocks.over(samples, 10, 2, rate_hz=100, hop=8).starts == [0]


@pytest.mark.parametrize("samples", [1001, 1007, 1600, 1801, 2000, 12345, 99_999])
def test_blocks_cover_a_sound_and_overlap(samples):
    blocks = Blocks.over(samples, 10, 2, rate_hz=100, hop=8)
    starts, length = blocks.starts, blocks.length
    assert starts[0] == 0
    assert all(start % 8 == 0 for start in starts)
    assert length <= 1000
    assert samples <= starts[-1] + length < samples + 8
    overlaps = [before + length - start for before, start in itertools.pairwise(starts)]
    assert all(200 <= overlap < 200 + 4 * 8 for overlap in overlaps)  # and no more than they must
    # no part of a block is faded twice: what two blocks share, a third has nothing of
    assert all(third >= first + length for first, third in zip(starts, starts[2:], strict=False))
    assert len(starts) == 1 + -(-(samples - 1000) // 800)  # as few as of the longest


@pytest.mark.parametrize("lengths", [(1,), (7, 300), (1000,), (100000,)])
@pytest.mark.parametrize("samples", [1, 50, 100, 101, 160, 777])
def test_stream_is_cut_at_the_starts_of_the_blocks(lengths, samples):
    wave = noise(2, samples)
    blocks = Blocks.over(samples, 100, 20, rate_hz=1, hop=4)
    cut = list(cut_blocks(pieces(wave, *lengths), blocks))
    padded = torch.cat([wave, torch.zeros(2, 100)], -1)
    assert len(cut) == len(blocks.starts)
    for start, block in zip(blocks.starts, cut, strict=True):
        assert torch.equal(block, wave if samples <= 100 else padded[:, start : start + blocks.length])


@pytest.mark.parametrize(
    ("from_hz", "to_hz"), [(8000, 8000), (16000, 8000), (8000, 16000), (44100, 8000), (8000, 44100), (11025, 8000)]
)
@pytest.mark.parametrize("lengths", [(1,), (313, 5000), (100000,)])
def test_resampled_stream_equals_the_resampled_whole(from_hz, to_hz, lengths):
    wave = noise(2, 3000 if lengths == (1,) else 20011)
    whole = resample(wave, from_hz, to_hz)
    streamed = torch.cat(list(resample_stream(pieces(wave, *lengths), from_hz, to_hz)), -1)
    assert streamed.shape == whole.shape
    torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-5)


def test_resampling_a_stream_keeps_little_in_memory():
    long = (torch.zeros(1, 44100) for _ in range(100))
    most = max(piece.shape[-1] for piece in resample_stream(long, 44100, 8000))
    assert most < 3 * 8000
