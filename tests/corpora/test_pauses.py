import numpy as np
import pytest

from sepclip.audio.activity import active_seconds, agreement, hop_levels, is_active
from sepclip.corpora.speakers.pauses import cut_at_pauses, first_cut

rng = np.random.default_rng(0)


def cut(levels, least, most):
    """Return the cuts of a whole recording, 0 and its end included."""
    cuts = [0]
    while len(levels) - cuts[-1] > most:
        cuts.append(cuts[-1] + first_cut(levels[cuts[-1] :], least, most))
    return [*cuts, len(levels)]


def speech(hops, pauses=()):
    """Return levels in dB: loud, but for pauses of half a second in the middle of which one could cut."""
    levels = -20 + rng.uniform(-3, 3, hops)
    for pause in pauses:
        levels[pause - 25 : pause + 25] -= 40
    return levels


def test_levels_are_those_of_each_ten_milliseconds():
    wave = np.concatenate([np.full(80, 0.5), np.full(80, -0.1), np.zeros(80), np.full(40, 1.0)])
    assert hop_levels(wave, 8000) == pytest.approx([-6.0206, -20, -120, 0])
    assert len(hop_levels(np.zeros(0), 8000)) == 0


def test_a_cut_lies_in_each_pause():
    pauses = [600, 1300, 2050, 2600]
    cuts = cut(speech(3100, pauses), 100, 800)
    assert cuts[1:-1] == pytest.approx(pauses, abs=20)


def test_of_two_pauses_the_quieter_is_cut():
    levels = speech(1500, [700, 900])
    levels[675:725] -= 10
    assert cut(levels, 100, 1000)[1] == pytest.approx(700, abs=20)


@pytest.mark.parametrize(("least", "most"), [(100, 200), (100, 1500), (10, 333), (99.5, 200.3)])
def test_pieces_are_neither_too_short_nor_too_long_whatever_is_said(least, most):
    for hops in (*range(200, 420, 7), 1999, 3001, 20000):
        cuts = cut(speech(hops), least, most)
        pieces = np.diff(cuts)
        assert (cuts[0], cuts[-1]) == (0, hops)
        assert pieces.max() <= most
        if hops > most:
            assert pieces.min() >= least
        assert pieces[:-1].min(initial=most) >= most / 2


def test_equal_places_are_cut_as_late_as_can_be():
    assert cut(np.full(1000, -30.0), 100, 400) == [0, 400, 800, 1000]
    assert cut(np.full(850, -30.0), 100, 400) == [0, 400, 750, 850]


def test_what_is_forty_db_softer_than_the_loudest_is_no_speech():
    assert is_active(np.array([-10.0, -49.9, -50.1, -120])).tolist() == [True, True, False, False]
    assert not is_active(np.full(5, -120.0)).any()


@pytest.mark.parametrize("block", [1, 77, 8000, 20_001, 10**6])
def test_the_cuts_of_a_stream_are_those_of_the_whole_recording(block):
    wave = (rng.standard_normal(100_003) * np.repeat(rng.uniform(0, 0.3, 1001), 100)[:100_003]).astype(np.float32)
    if block == 1:  # sample by sample, so a short one
        wave = wave[:25_000]
    blocks = (wave[start : start + block] for start in range(0, len(wave), block))
    pieces = list(cut_at_pauses(blocks, 8000, 0.5, 2.0))
    levels = hop_levels(wave, 8000)
    assert np.array_equal(np.concatenate([piece for piece, _ in pieces]), wave)
    assert np.array_equal(np.concatenate([levels for _, levels in pieces]), levels)
    assert np.cumsum([0] + [len(levels) for _, levels in pieces]).tolist() == cut(levels, 50, 200)


def test_activity_is_counted_between_two_samples():
    packed = np.packbits([1, 1, 0, 0, 1, 0, 0, 0]).tobytes()
    assert active_seconds(packed, 0, 640, 8000) == pytest.approx(0.03)
    assert active_seconds(packed, 80, 320, 8000) == pytest.approx(0.01)
    assert agreement(packed, packed) == 1.0
    assert agreement(packed, np.packbits([1, 0, 0, 0, 1, 0, 0, 0]).tobytes()) == 0.875
