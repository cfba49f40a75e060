import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from sepclip.errors import UserError
from sepclip.mixing.batches import Share, crop, training_data
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.render import read_source
from sepclip.mixing.validation_crops import ValidationCrops
from tests.mixing.conftest import make_corpus, prepare

SEGMENT = 8000


def data(mixtures, segment=SEGMENT, batch_size=5, dynamic=False, seed=0, memory_gib=1.0, **more):
    return training_data(
        mixtures, segment=segment, batch_size=batch_size, dynamic=dynamic, seed=seed, memory_gib=memory_gib, **more
    )


def same(one, other):
    return torch.equal(one.mixture, other.mixture) and torch.equal(one.sources, other.sources)


def excerpts(batch):
    """Return each excerpt, the mixture first, as int16 (1 + S, T)."""
    return torch.cat([batch.mixture[:, None], batch.sources], 1).mul(32768).short().numpy()


def all_waves(mixtures, split="tr"):
    return [mixtures.waves(split, recipe) for recipe in mixtures.recipes(split)]


def place(excerpt, waves):
    """Return which of ``waves`` an excerpt is from, and where it begins."""
    at = int(np.abs(excerpt[0]).argmax())
    hits = [
        (index, start)
        for index, wave in enumerate(waves)
        for start in (np.flatnonzero(wave[0] == excerpt[0, at]) - at).tolist()
        if start >= 0 and np.array_equal(wave[:, start : start + excerpt.shape[1]], excerpt)
    ]
    assert len(hits) == 1
    return hits[0]


@pytest.mark.parametrize(("start", "want"), [(0, [1, 2, 3]), (2, [3, 4, 0]), (9, [0, 0, 0])])
def test_crop_fills_up_with_zeros(start, want):
    assert crop(np.array([1, 2, 3, 4], np.int16), start, 3).tolist() == want
    assert crop(np.array([[1, 2, 3, 4]] * 2, np.int16), start, 3).tolist() == [want] * 2


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_batch_depends_on_seed_and_step_alone(mixtures, dynamic):
    one, two, other = (data(mixtures, dynamic=dynamic, seed=seed) for seed in (0, 0, 1))
    straight = [one.batch(step) for step in range(13)]
    assert all(same(two.batch(step), straight[step]) for step in (7, 0, 3, 12, 3, 1, 0))
    assert not any(same(other.batch(step), straight[step]) for step in range(13))
    assert not any(same(*neighbours) for neighbours in pairwise(straight))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("gib", [0, 1e-4])
def test_memory_changes_no_batch(mixtures, dynamic, gib):
    plenty, scarce = data(mixtures, dynamic=dynamic), data(mixtures, dynamic=dynamic, memory_gib=gib)
    assert all(same(scarce.batch(step), plenty.batch(step)) for step in (0, 5, 1))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("gib", [0, 1e-4, 1])
def test_readers_change_no_batch(mixtures, dynamic, gib):
    alone, four = (data(mixtures, dynamic=dynamic, memory_gib=gib, readers=count) for count in (1, 4))
    assert all(same(four.batch(step), alone.batch(step)) for step in range(8))


def test_memory_stays_within_its_limit(mixtures):
    tracemalloc.start()
    used = []
    for gib in (5e-4, 1.0):
        training = data(mixtures, memory_gib=gib)
        before = tracemalloc.get_traced_memory()[0]
        for step in range(4):
            training.batch(step)
        used.append(tracemalloc.get_traced_memory()[0] - before)
    tracemalloc.stop()
    assert used[0] < 1e6 < 4e6 < used[1]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("sources", [2, 3])
def test_shapes_and_sums(corpus, tmp_path, dynamic, sources):
    batch = data(prepare(corpus, tmp_path / "out", sources=sources), dynamic=dynamic).batch(0)
    assert batch.mixture.shape == (5, SEGMENT)
    assert batch.sources.shape == (5, sources, SEGMENT)
    assert batch.mixture.dtype == batch.sources.dtype == torch.float32
    assert torch.allclose(batch.mixture, batch.sources.sum(1), atol=1e-7)
    assert 0.01 < batch.mixture.abs().max() < 1


@pytest.mark.parametrize(("batch_size", "steps", "seen"), [(5, 4, 20), (99, 1, 20), (6, 3, 18)])
def test_no_mixture_comes_twice_in_an_epoch_and_orders_differ(mixtures, batch_size, steps, seen):
    training, waves, orders = data(mixtures, batch_size=batch_size), all_waves(mixtures), []
    assert training.steps_per_epoch == steps
    for epoch in range(2):
        batches = [training.batch(epoch * steps + step) for step in range(steps)]
        found = [place(excerpt, waves) for batch in batches for excerpt in excerpts(batch)]
        orders.append([index for index, _ in found])
        assert len(set(orders[-1])) == len(orders[-1]) == seen
        positions = {round(start / (waves[index].shape[1] - SEGMENT), 3) for index, start in found}
        assert len(positions) > 0.8 * seen  # excerpts are from anywhere
    assert orders[0] != orders[1]


def test_excerpts_reach_both_ends(mixtures):
    (waves,) = [wave for wave in all_waves(mixtures) if wave.shape[1] == min(r.length for r in mixtures.recipes("tr"))]
    training = data(mixtures, segment=waves.shape[1] - 2, batch_size=20)
    found = [excerpt for step in range(20) for excerpt in training.batch(step).mixture.mul(32768).short().numpy()]
    windows = np.lib.stride_tricks.sliding_window_view(waves[0], waves.shape[1] - 2)
    assert {start for e in found for start in range(3) if np.array_equal(e, windows[start])} == {0, 1, 2}


def test_short_mixtures_end_in_silence(mixtures):
    segment = max(recipe.length for recipe in mixtures.recipes("tr")) + 100
    padded = {crop(wave, 0, segment).tobytes() for wave in all_waves(mixtures)}
    assert {excerpt.tobytes() for excerpt in excerpts(data(mixtures, segment, 20).batch(0))} == padded


def whole_sentences(mixtures, steps):
    """Return the voice and the level in dBFS of each source of dynamic mixtures of whole sentences."""
    stretches = {s.path: s for recipe in mixtures.recipes("tr") for s in recipe.sources}.values()
    known = [(s.voice, read_source(s, mixtures.root, 8000)) for s in stretches]
    training, mixed = data(mixtures, segment=100_000, dynamic=True), []
    for step in range(steps):
        for rows in training.batch(step).sources.numpy().astype(np.float64):
            mixed.append([])
            for row in rows:
                fits = [  # the cosine of the angle between the two is 1
                    (voice, 10 * np.log10(np.square(row).sum() / len(wave)))
                    for voice, wave in known
                    if row[: len(wave)] @ wave > 0.9999 * np.linalg.norm(row) * np.linalg.norm(wave)
                ]
                assert len(fits) == 1
                mixed[-1] += fits
    return mixed


def test_dynamic_mixtures_are_of_different_voices_at_the_levels_of_fixed_ones(mixtures):
    mixed = whole_sentences(mixtures, steps=8)
    pairs = {(first[0], second[0]) for first, second in mixed}
    assert all(first != second for first, second in pairs)
    assert len(pairs) > 12  # of 20
    levels = np.array([[first[1], second[1]] for first, second in mixed])
    assert levels.sum(1) == pytest.approx(-50, abs=0.01)
    assert np.ptp(np.abs(levels[:, 0] - levels[:, 1])) > 4
    assert np.abs(levels[:, 0] - levels[:, 1]).max() <= 5.01


def test_dynamic_mixtures_use_the_voices_of_training_alone(corpus, tmp_path):
    made = prepare(corpus, tmp_path / "out", tr=20, unseen="en-f,fr-m")
    assert {voice for drawn in whole_sentences(made, steps=4) for voice, _ in drawn} == {"ca-m", "it-f", "ru-m"}


def test_dynamic_mixtures_need_the_corpus(tmp_path):
    made = prepare(make_corpus(tmp_path / "voices"), tmp_path / "out")
    want = data(made, dynamic=True).batch(3)
    (tmp_path / "voices").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="which is not there: say with --root"):
        data(made, dynamic=True)
    assert same(data(MixtureSet.open(made.path, tmp_path / "moved"), dynamic=True).batch(3), want)
    assert data(made).batch(0).mixture.any()  # written mixtures do not


@pytest.mark.parametrize("segment", [SEGMENT, 200_000])
def test_validation_excerpts_are_the_middles_of_all_in_order(mixtures, segment):
    crops = ValidationCrops(mixtures, segment, batch_size=4)
    batches = list(crops)
    assert [len(batch.mixture) for batch in batches] == [4, 2]
    assert all(same(*pair) for pair in zip(batches, crops, strict=True))
    middles = [crop(wave, max(0, (wave.shape[1] - segment) // 2), segment) for wave in all_waves(mixtures, "cv")]
    assert np.array_equal(np.concatenate([excerpts(batch) for batch in batches]), middles)


def test_a_set_without_mixtures_is_told(corpus, tmp_path):
    made = prepare(corpus, tmp_path / "out")
    (made.path / "tr.jsonl").write_text("")
    (made.path / "cv.jsonl").write_text("")
    with pytest.raises(UserError, match="no training mixtures"):
        data(made)
    with pytest.raises(UserError, match="no validation mixtures"):
        ValidationCrops(made, SEGMENT, 4)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_the_shares_of_a_batch_make_the_whole(small_set: Path, dynamic: bool, count: int) -> None:
    settings = {"segment": 4000, "batch_size": 5, "dynamic": dynamic, "seed": 3, "memory_gib": 1}
    mixtures = MixtureSet.open(small_set)
    whole = training_data(mixtures, **settings)
    shares = [training_data(mixtures, **settings, share=Share(index, count)) for index in range(count)]
    for step in (0, 1, 4):
        want, parts = whole.batch(step), [share.batch(step) for share in shares]
        assert torch.equal(torch.cat([part.sources for part in parts]), want.sources)
        assert torch.equal(torch.cat([part.mixture for part in parts]), want.mixture)
        assert sum((part.names for part in parts), ()) == want.names
        assert [part.first for part in parts] == [5 * index // count for index in range(count)]
        assert sum(part.fraction for part in parts) == pytest.approx(1)


def test_the_shares_of_a_validation_make_the_whole(small_set: Path) -> None:
    mixtures = MixtureSet.open(small_set)
    whole = list(ValidationCrops(mixtures, 4000, 2, 2))
    shares = [list(ValidationCrops(mixtures, 4000, 2, 2, Share(index, 3))) for index in range(3)]
    parts = sorted((part for share in shares for part in share), key=lambda part: part.first)
    assert [part.first for part in parts] == [0, 2, 4, 6]
    assert all(torch.equal(one.sources, other.sources) for one, other in zip(parts, whole, strict=True))


def test_readers_change_no_validation(small_set: Path) -> None:
    mixtures = MixtureSet.open(small_set)
    whole, crops = list(ValidationCrops(mixtures, 4000, 3)), ValidationCrops(mixtures, 4000, 3, readers=3)
    for _ in range(3):  # as they are read, and as they are remembered
        assert all(same(one, other) for one, other in zip(crops, whole, strict=True))
        assert [one.names for one in crops] == [one.names for one in whole]
