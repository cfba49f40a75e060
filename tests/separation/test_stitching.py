import pytest
import torch

from sepclip.separation.blocks import Blocks
from sepclip.separation.stitching import Stitcher, fade_place, match

HOP, LENGTH, OVERLAP, RATE = 8, 1600, 320, 400  # four seconds a block


def voices(sources, samples, seed=0):
    return torch.randn(sources, 1, samples, generator=torch.Generator().manual_seed(seed))  # (S, C, T)


def blocks_over(samples):
    return Blocks.over(samples, LENGTH, OVERLAP, rate_hz=1, hop=HOP)


def joined(true, *, permute=True, rerun=None, seed=0):
    """Cut true sources (S, C, T) into blocks, permute each at random, and join them."""
    samples = true.shape[-1]
    starts, length = blocks_over(samples).starts, blocks_over(samples).length
    padded = torch.nn.functional.pad(true, (0, HOP))
    chance = torch.Generator().manual_seed(seed)

    def blocks():
        for start in starts:
            waves = padded[..., start : start + length]
            order = torch.randperm(len(true), generator=chance) if permute else torch.arange(len(true))
            yield waves.sum(0), waves[order]

    stitcher = Stitcher(
        starts=starts,
        length=length,
        samples=samples,
        rate_hz=RATE,
        hop=HOP,
        fade=OVERLAP // 4,
        power=float(true.sum(0).square().mean()),
        permuted=True,
        rerun=rerun or (lambda block: pytest.fail("separated once more without need")),
    )
    mixture, waves = (torch.cat(parts, -1) for parts in zip(*stitcher.join(blocks()), strict=True))
    assert torch.equal(mixture, true.sum(0))
    return waves, stitcher


def assert_put_back(waves, true):
    """Assert that ``waves`` are ``true`` in one order for all of their length."""
    places = [next(i for i, one in enumerate(waves) if torch.allclose(one, each, atol=1e-6)) for each in true]
    assert sorted(places) == list(range(len(true)))


@pytest.mark.parametrize("sources", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_permuted_blocks_are_put_back_into_order(sources, seed):
    true = voices(sources, 20 * LENGTH + 13, seed)
    waves, stitcher = joined(true, seed=seed)
    assert_put_back(waves, true)
    assert stitcher.undecided == []
    assert len(stitcher.starts) > 20


def test_single_voice_in_the_overlap_decides_if_nothing_better_does():
    true = voices(2, 10 * LENGTH)
    for start in blocks_over(true.shape[-1]).starts[1:]:
        true[1, :, start - 2 : start + LENGTH // 2] = 0  # silent in every overlap
    waves, stitcher = joined(true, rerun=lambda block: torch.stack([block, block]) / 2)  # tells nothing
    assert_put_back(waves, true)
    assert stitcher.undecided == []


def by_sign(block):
    """Separate a positive and a negative voice, with the positive one as the first."""
    return torch.stack([block.clamp_max(0), block.clamp_min(0)])


@pytest.mark.parametrize("seed", range(4))
def test_anchor_decides_the_order_after_a_pause(seed):
    sign = torch.randint(0, 2, (1, 12 * LENGTH), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    mixture = sign * (0.5 + voices(1, 12 * LENGTH, seed)[0].abs())
    starts = blocks_over(12 * LENGTH).starts
    for start in starts[2::2]:
        mixture[:, start - 1 : start + 2 * OVERLAP] = 0  # nobody speaks in the overlap
    true = torch.stack([mixture.clamp_min(0), mixture.clamp_max(0)])
    reruns = []
    waves, stitcher = joined(true, rerun=lambda block: reruns.append(block) or by_sign(block), seed=seed)
    assert_put_back(waves, true)
    assert stitcher.undecided == []
    assert len(reruns) == len(starts[2::2])


def test_undecided_joins_are_listed():
    true = voices(2, 5 * LENGTH)
    starts = blocks_over(true.shape[-1]).starts
    true[..., starts[2] - 1 : starts[2] + OVERLAP + 1] = 0
    _, stitcher = joined(true, rerun=lambda block: torch.stack([block, block]) / 2)  # a separator that tells nothing
    assert stitcher.undecided == [starts[2]]


def test_silence_needs_no_decision():
    true = voices(2, 8 * LENGTH)
    true[..., 2 * LENGTH :] = 0
    waves, stitcher = joined(true, rerun=lambda block: torch.stack([block, 0 * block]))
    assert stitcher.undecided == []
    assert_put_back(waves, true)


@pytest.mark.parametrize("sources", [2, 3])
def test_match_is_over_all_sources_jointly(sources):
    true = voices(sources, 1000)
    noisy = true + 0.5 * voices(sources, 1000, seed=1)
    order = torch.arange(sources).roll(1)
    result, decided = match(true, noisy[order], 1e-6)
    assert torch.equal(noisy[order][result], noisy)
    assert decided


def test_one_active_source_of_three_decides_nothing():
    true = voices(3, 1000)
    true[1:] = 0
    assert not match(true, true, 1e-3)[1]
    true[1] = voices(1, 1000, seed=1)[0]
    assert match(true, true, 1e-3)[1]


def test_identical_sources_are_not_matched():
    same = voices(1, 1000).expand(2, -1, -1)
    assert not match(same, same, 1e-3)[1]


@pytest.mark.parametrize("pause", [40, 160, 300])  # in the first and the second half, and where context ends
def test_fade_is_placed_where_the_blocks_agree(pause):
    old, errors = voices(2, OVERLAP, 0), voices(2, OVERLAP, 1)
    assert fade_place(old, old, 16, HOP) == (OVERLAP - 16) // 2
    errors[..., pause : pause + 24] *= 0.01
    place = fade_place(old, old + errors, 16, HOP)
    assert OVERLAP // 4 <= place <= OVERLAP * 3 // 4 - 16
    if OVERLAP // 4 <= pause <= OVERLAP * 3 // 4 - 24:
        assert pause <= place <= pause + 8
    # a pause far off is not worth the samples of the block with less context
    loud = torch.ones(OVERLAP)
    loud[: OVERLAP // 2] = 100
    assert fade_place(old, old + errors * loud, 16, HOP) >= (OVERLAP - 16) // 2
