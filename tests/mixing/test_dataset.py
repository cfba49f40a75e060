from itertools import pairwise

import numpy as np
import pytest
import torch

from sepclip.errors import UserError
from sepclip.mixing.dataset import ValidationCrops, crop, training_data
from sepclip.mixing.mixture import MixtureSet, read_source
from tests.mixing.conftest import heard, make_corpus, prepare

SEGMENT = 8000


def data(mixtures, segment=SEGMENT, batch_size=5, dynamic=False, seed=0, memory_gib=1.0):
    return training_data(
        mixtures, segment=segment, batch_size=batch_size, dynamic=dynamic, seed=seed, memory_gib=memory_gib
    )


def same(one, other):
    return torch.equal(one.mixture, other.mixture) and torch.equal(one.sources, other.sources)


def places(mixtures, batch):
    """Return which mixture each excerpt of a batch is from, and where it begins."""
    waves = [mixtures.waves("tr", recipe) for recipe in mixtures.recipes("tr")]
    found = []
    for mixture, sources in zip(batch.mixture, batch.sources, strict=True):
        excerpt = torch.cat([mixture[None], sources]).mul(32768).short().numpy()
        probe = excerpt[0][np.abs(excerpt[0]) > 500][:1], int(np.flatnonzero(np.abs(excerpt[0]) > 500)[0])
        hits = [
            (index, int(start))
            for index, wave in enumerate(waves)
            for start in np.flatnonzero(wave[0] == probe[0]) - probe[1]
            if 0 <= start <= wave.shape[1] - SEGMENT and np.array_equal(wave[:, start : start + SEGMENT], excerpt)
        ]
        assert len(hits) == 1
        found.extend(hits)
    return found


@pytest.mark.parametrize(("start", "want"), [(0, [1, 2, 3]), (2, [3, 4, 0]), (9, [0, 0, 0])])
def test_crop_fills_up_with_zeros(start, want):
    assert crop(np.array([1, 2, 3, 4], np.int16), start, 3).tolist() == want
    assert crop(np.array([[1, 2, 3, 4]] * 2, np.int16), start, 3).tolist() == [want] * 2


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_batch_depends_on_seed_and_step_alone(mixtures, dynamic):
    steps = [7, 0, 3, 12, 3, 1, 0]
    first, second, other = (
        data(mixtures, dynamic=dynamic),
        data(mixtures, dynamic=dynamic),
        data(mixtures, seed=1, dynamic=dynamic),
    )
    straight = [first.batch(step) for step in range(13)]
    assert all(same(second.batch(step), straight[step]) for step in steps)
    assert not any(same(other.batch(step), straight[step]) for step in range(13))
    assert not any(same(one, next_) for one, next_ in pairwise(straight))


@pytest.mark.parametrize("dynamic", [False, True])
def test_memory_changes_no_batch(mixtures, dynamic):
    plenty = data(mixtures, dynamic=dynamic)
    for gib in (0, 1e-4):
        scarce = data(mixtures, dynamic=dynamic, memory_gib=gib)
        assert all(same(scarce.batch(step), plenty.batch(step)) for step in (0, 5, 1))
        assert sum(wave.nbytes for wave in scarce._waves._waves.values()) <= gib * 2**30


@pytest.mark.parametrize("dynamic", [False, True])
def test_shapes_and_sums(mixtures, dynamic):
    batch = data(mixtures, dynamic=dynamic).batch(0)
    assert batch.mixture.shape == (5, SEGMENT)
    assert batch.sources.shape == (5, 2, SEGMENT)
    assert batch.mixture.dtype == batch.sources.dtype == torch.float32
    assert torch.equal(batch.mixture, batch.sources.sum(1))
    assert 0.01 < batch.mixture.abs().max() < 1


@pytest.mark.parametrize(("batch_size", "steps", "seen"), [(5, 4, 20), (20, 1, 20), (99, 1, 20), (6, 3, 18)])
def test_no_mixture_comes_twice_in_an_epoch_and_orders_differ(mixtures, batch_size, steps, seen):
    training = data(mixtures, batch_size=batch_size)
    assert training.steps_per_epoch == steps
    orders = []
    for epoch in range(2):
        found = [place for step in range(steps) for place in places(mixtures, training.batch(epoch * steps + step))]
        orders.append([index for index, _ in found])
        assert len(set(orders[-1])) == len(orders[-1]) == seen
        assert len({start for _, start in found}) > seen / 2  # excerpts are from anywhere
    assert orders[0] != orders[1]


def test_excerpts_reach_both_ends(mixtures):
    lengths = [recipe.length for recipe in mixtures.recipes("tr")]
    segment = min(lengths) - 2
    training = data(mixtures, segment=segment, batch_size=20)
    shortest = mixtures.waves("tr", mixtures.recipes("tr")[int(np.argmin(lengths))])
    starts = set()
    for step in range(30):
        for excerpt in training.batch(step).mixture.mul(32768).short().numpy():
            starts |= {start for start in range(3) if np.array_equal(excerpt, shortest[0, start : start + segment])}
    assert starts == {0, 1, 2}


def test_short_mixtures_end_in_silence(mixtures):
    recipes = mixtures.recipes("tr")
    segment = max(recipe.length for recipe in recipes) + 100
    batch = data(mixtures, segment=segment, batch_size=20).batch(0)
    want = {mixtures.waves("tr", recipe).tobytes() for recipe in recipes}
    for mixture, sources in zip(batch.mixture, batch.sources, strict=True):
        waves = torch.cat([mixture[None], sources]).mul(32768).short().numpy()
        assert not waves[:, -100:].any()
        lengths = [recipe.length for recipe in recipes if not waves[:, recipe.length :].any()]
        assert any(waves[:, :length].tobytes() in want for length in lengths)


def whole_sentences(mixtures, steps=8):
    """Return, of dynamic mixtures of whole sentences, the voices and levels of each."""
    recipes = mixtures.recipes("tr")
    sources = {(s.path, s.offset): s for recipe in recipes for s in recipe.sources}.values()
    known = [(s.voice, read_source(s, mixtures.root, 8000)) for s in sources]
    training = data(mixtures, segment=100_000, dynamic=True)
    mixed = []
    for step in range(steps):
        for rows in training.batch(step).sources.numpy():
            drawn = []
            for row in rows:
                length = int(np.flatnonzero(row)[-1]) + 1
                fits = [
                    voice
                    for voice, wave in known
                    if np.flatnonzero(wave)[-1] + 1 == length
                    and np.corrcoef(wave[:length], row[:length])[0, 1] > 0.9999
                ]
                (whole,) = [wave for voice, wave in known if [voice] == fits and np.flatnonzero(wave)[-1] + 1 == length]
                drawn.append((fits[0], 10 * np.log10(np.square(row).sum(dtype=np.float64) / len(whole))))
            mixed.append(drawn)
    return mixed


def test_dynamic_mixtures_are_of_different_voices_at_the_levels_of_fixed_ones(mixtures):
    mixed = whole_sentences(mixtures)
    assert all(first[0] != second[0] for first, second in mixed)
    assert len({(first[0], second[0]) for first, second in mixed}) > 10  # of 20: not the pairs of the recipes alone
    levels = np.array([[first[1], second[1]] for first, second in mixed])
    assert levels.sum(1) == pytest.approx(-50, abs=0.01)
    assert np.abs(levels[:, 0] - levels[:, 1]).max() <= 5.01
    assert np.ptp(np.abs(levels[:, 0] - levels[:, 1])) > 4


def test_dynamic_mixtures_use_the_voices_of_training_alone(corpus, tmp_path):
    made = prepare(corpus, tmp_path / "out", tr=20, unseen="en-f,fr-m")
    assert {voice for drawn in whole_sentences(made, steps=4) for voice, _ in drawn} == {"ca-m", "it-f", "ru-m"}
    assert heard(made.recipes("tr"), "voice") == {"ca-m", "it-f", "ru-m"}


def test_dynamic_mixtures_need_the_corpus(tmp_path):
    made = prepare(make_corpus(tmp_path / "voices"), tmp_path / "out")
    want = data(made, dynamic=True).batch(3)
    (tmp_path / "voices").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="which is not there: say with --root"):
        data(made, dynamic=True)
    assert same(data(MixtureSet.open(made.path, tmp_path / "moved"), dynamic=True).batch(3), want)
    assert data(made).batch(0).mixture.any()  # written mixtures do not


def test_recipes_alone_give_the_same_batches(mixtures, corpus, tmp_path):
    recipes_only = prepare(corpus, tmp_path / "out", tr=20, cv=6, tt=4, mode="max", audio=False)
    assert all(same(data(recipes_only).batch(step), data(mixtures).batch(step)) for step in (0, 4))


def test_three_sources(corpus, tmp_path):
    made = prepare(corpus, tmp_path / "out", sources=3)
    for dynamic in (False, True):
        batch = data(made, dynamic=dynamic, batch_size=4).batch(0)
        assert batch.sources.shape == (4, 3, SEGMENT)
        assert torch.allclose(batch.mixture, batch.sources.sum(1), atol=1e-7)


def test_validation_excerpts_are_the_middles_of_all_in_order(mixtures):
    crops = ValidationCrops(mixtures, SEGMENT, batch_size=4)
    batches = list(crops)
    assert [len(batch.mixture) for batch in batches] == [4, 2]
    assert all(same(*pair) for pair in zip(batches, crops, strict=True))
    excerpts = torch.cat([torch.cat([batch.mixture[:, None], batch.sources], 1) for batch in batches])
    for excerpt, recipe in zip(excerpts, mixtures.recipes("cv"), strict=True):
        start = (recipe.length - SEGMENT) // 2
        want = mixtures.waves("cv", recipe)[:, start : start + SEGMENT]
        assert np.array_equal(excerpt.mul(32768).numpy(), want)


def test_validation_mixtures_that_are_short_end_in_silence(mixtures):
    (batch,) = ValidationCrops(mixtures, 200_000, batch_size=99)
    for excerpt, recipe in zip(batch.mixture, mixtures.recipes("cv"), strict=True):
        assert np.array_equal(excerpt[: recipe.length].mul(32768).numpy(), mixtures.waves("cv", recipe)[0])
        assert not excerpt[recipe.length :].any()


def test_a_set_without_mixtures_is_told(corpus, tmp_path):
    made = prepare(corpus, tmp_path / "out")
    (made.path / "tr.jsonl").write_text("")
    (made.path / "cv.jsonl").write_text("")
    with pytest.raises(UserError, match="no training mixtures"):
        data(made)
    with pytest.raises(UserError, match="no validation mixtures"):
        ValidationCrops(made, SEGMENT, 4)
