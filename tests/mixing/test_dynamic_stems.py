"""Batches of stems: fixed tracks and tracks mixed anew, from memory and from the disk."""

import tracemalloc

import numpy as np
import pytest
import torch

from sepclip.errors import UserError
from sepclip.mixing.batches import STEM_GAIN
from sepclip.mixing.validation_crops import ValidationCrops
from tests.corpora.tracks import FOUR, make_tracks, noise, stems
from tests.mixing.test_batches import data, same

SAMPLES, SEGMENT = 4410, 400
TRACKS = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dynamic")
    return stems(make_tracks(folder / "music", {"train": TRACKS, "valid": ("v", "w"), "test": ("t",)}), folder / "out")


def batches(made, **options):
    return data(made, **{"segment": SEGMENT, "batch_size": 4, **options})


def place(stem, wave):
    """Return the track, the first sample and the gain of an excerpt (C, T), negative where its channels are swapped."""
    for track in TRACKS:
        true = noise(track, FOUR[stem], samples=SAMPLES).T  # (C, T)
        for sign, channels in ((1, true), (-1, true[::-1])):
            windows = np.lib.stride_tricks.sliding_window_view(channels[0], SEGMENT)  # (*, T)
            fit = windows @ wave[0] / np.linalg.norm(windows, axis=1) / np.linalg.norm(wave[0])
            start = int(fit.argmax())
            if fit[start] > 0.9999:
                excerpt = channels[:, start : start + SEGMENT]
                gain = (wave * excerpt).sum() / (excerpt**2).sum()
                assert np.abs(wave - gain * excerpt).max() < 1e-6
                return track, start, sign * gain
    raise AssertionError("no such excerpt")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("gib", [0, 1e-4])
def test_memory_changes_no_batch(made, dynamic, gib):
    plenty, scarce = batches(made, dynamic=dynamic), batches(made, dynamic=dynamic, memory_gib=gib)
    straight = [plenty.batch(step) for step in range(4)]
    readers = batches(made, dynamic=dynamic, memory_gib=gib, readers=3)
    assert all(same(scarce.batch(step), straight[step]) for step in (0, 3, 1, 1))
    assert all(same(readers.batch(step), straight[step]) for step in (0, 3, 1, 1))
    assert not any(same(batches(made, dynamic=dynamic, seed=1).batch(step), straight[step]) for step in range(4))
    assert straight[0].mixture.shape == (4, 2 * SEGMENT)
    assert straight[0].sources.shape == (4, 4, 2 * SEGMENT)


def test_stems_come_from_different_tracks_places_gains_and_sides(made):
    places = []
    training = batches(made, dynamic=True)
    for step in range(4):
        batch = training.batch(step)
        assert torch.equal(batch.mixture, batch.sources.sum(1))
        for item in batch.sources.reshape(4, 4, 2, SEGMENT).numpy().astype(np.float64):
            found = [place(stem, wave) for stem, wave in enumerate(item)]
            assert len({track for track, _, _ in found}) == 4
            places += found
    tracks, starts, gains = zip(*places, strict=True)
    assert {*tracks} == {*TRACKS}
    assert min(starts) < 600 < 3400 < max(starts)
    assert 0.25 < np.mean(np.array(gains) < 0) < 0.75
    assert STEM_GAIN[0] <= np.abs(gains).min() < 0.4 < 1.1 < np.abs(gains).max() <= STEM_GAIN[1]


def test_fewer_tracks_than_stems_will_do(tmp_path):
    root = make_tracks(tmp_path / "music", {"train": ("a", "b"), "valid": ("v",), "test": ("t",)})
    assert batches(stems(root, tmp_path / "out"), dynamic=True).batch(0).sources.abs().amax(-1).min() > 0


def test_fixed_tracks_keep_their_stems_together(made):
    training = batches(made, excerpts=3)
    assert training.steps_per_epoch == 3  # 15 excerpts, 4 a step
    seen = []
    for step in range(3):
        for item in training.batch(step).sources.reshape(4, 4, 2, SEGMENT).numpy().astype(np.float64):
            found = {place(stem, wave) for stem, wave in enumerate(item)}
            assert len({(track, start) for track, start, _ in found}) == 1
            assert {round(gain, 9) for _, _, gain in found} == {1}
            seen.append(min(found)[0])
    assert max(map(seen.count, TRACKS)) <= 3
    assert batches(made, dynamic=True, excerpts=8).steps_per_epoch == 10


def test_a_long_track_is_not_decoded_for_an_excerpt(tmp_path):
    root = make_tracks(tmp_path / "music", {"train": ("a", "b"), "valid": ("v",), "test": ("t",)}, samples=300_000)
    made = stems(root, tmp_path / "out")
    for dynamic in (False, True):
        training = batches(made, dynamic=dynamic, batch_size=1, memory_gib=0)
        training.batch(0)
        tracemalloc.start()
        training.batch(1)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 300_000  # a stem alone has 1.2 MB


def test_validation_takes_excerpts_evenly(made):
    (batch,) = ValidationCrops(made, SEGMENT, 9, excerpts=3)
    assert batch.mixture.shape == (6, 2 * SEGMENT)
    room = SAMPLES - SEGMENT
    for index in range(6):
        start = room * (2 * (index % 3) + 1) // 6
        true = noise("vw"[index // 3], "drums", samples=SAMPLES).T[:, start : start + SEGMENT]
        assert np.array_equal(batch.sources[index, 1].numpy(), true.reshape(-1).astype(np.float32))


def test_stems_that_leave_a_part_of_the_mixture_out_are_not_mixed_anew(made, tmp_path):
    some = stems(made.root, tmp_path / "out", stems="vocals")
    assert batches(some).batch(0).sources.shape == (4, 1, 2 * SEGMENT)
    with pytest.raises(UserError, match="contain more than their sources"):
        batches(some, dynamic=True)
