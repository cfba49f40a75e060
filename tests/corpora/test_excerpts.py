"""Voices with long silences in their recordings: which part of an utterance a mixture uses."""

import json

import numpy as np
import pytest

from sepclip.audio.activity import hop_levels, is_active
from sepclip.corpora.speakers.excerpts import choose_heard_parts, count_barely_heard, heard_seconds
from sepclip.corpora.speakers.measurement import Utterance
from sepclip.mixing.chance import generator
from sepclip.mixing.recipe import SPLITS, Recipe, Source
from tests.mixing.conftest import prepare, write_wave

RATE = 8000


def talk(seconds, seed, before=0.0, after=0.0):
    """Return modulated noise, active all of the time, with digital silence before and after it."""
    wave = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return np.concatenate([np.zeros(round(before * RATE)), wave, np.zeros(round(after * RATE))])


def drawn(*spans, length):
    """Return a recipe of utterances active in ``spans`` of hops, its utterances, and their activity."""
    utterances, activity = [], {}
    for index, (first, last, hops) in enumerate(spans):
        utterances.append(Utterance(f"{index}", f"{index}", 0, 80 * hops, RATE, 80 * hops, 0.1, 0.5))
        active = np.zeros(hops, bool)
        active[first:last] = True
        activity[f"{index}", 0] = np.packbits(active).tobytes()
    sources = tuple(Source(u.path, u.voice, None, 0, u.length, RATE, 0.0, 1.0) for u in utterances)
    return Recipe("r", "seen", length, sources), utterances, activity


@pytest.mark.parametrize("seed", range(5))
def test_a_voice_that_is_silent_at_first_gets_another_part(seed):
    recipe, utterances, activity = drawn((250, 600, 600), (0, 150, 150), length=12000)
    changed = choose_heard_parts(recipe, utterances, activity, RATE, generator(seed, "parts"))
    assert changed.sources[1] == recipe.sources[1]
    start, skip, used = changed.sources[0].turn
    assert (start, used) == (0, 12000)
    assert 0 < skip <= 48000 - 12000
    assert heard_seconds(changed.sources[0], changed, activity, RATE) >= 1.0
    assert count_barely_heard([recipe, changed], activity, RATE) == 1


def test_voices_that_are_heard_for_a_second_keep_their_parts():
    recipe, utterances, activity = drawn((50, 400, 400), (0, 150, 150), length=12000)
    assert choose_heard_parts(recipe, utterances, activity, RATE, generator(0, "parts")) == recipe


def test_a_voice_that_never_speaks_for_a_second_has_its_best_part_and_is_counted():
    recipe, utterances, activity = drawn((300, 340, 400), (0, 150, 150), length=12000)
    changed = choose_heard_parts(recipe, utterances, activity, RATE, generator(0, "parts"))
    assert heard_seconds(changed.sources[0], changed, activity, RATE) == pytest.approx(0.4)
    assert count_barely_heard([changed], activity, RATE) == 1


@pytest.mark.parametrize(("before", "after"), [(2.0, 0.0), (0.0, 4.0), (3.0, 3.0)])
@pytest.mark.parametrize("overlap", [None, ["0.2,0.9"]])
def test_no_mixture_lacks_a_voice_whatever_silence_surrounds_it(tmp_path, capsys, before, after, overlap):
    for index, (voice, seconds, silence) in enumerate(
        [("a", 3, (before, after)), ("b", 1.5, (0, 0)), ("c", 4, (0, 0))]
    ):
        for take in range(6):
            wave = talk(seconds, 10 * index + take, *silence)
            write_wave(tmp_path / "voices" / voice / f"{take}.wav", wave)
    made = prepare(tmp_path / "voices", tmp_path / "out", tr=30, overlap=overlap)
    for split in SPLITS:
        for recipe in made.recipes(split):
            for wave in made.waves(split, recipe)[1:]:
                assert is_active(hop_levels(wave / np.float32(32768), RATE)).sum() >= 98  # of 10 ms; fades take two
    assert "barely_heard" not in json.loads((made.path / "set.json").read_text())
    assert "less than 1 s" not in capsys.readouterr().out


def test_mixtures_with_a_voice_for_less_than_a_second_are_counted(tmp_path, capsys):
    for voice, seconds in (("a", 0.5), ("b", 3), ("c", 4)):
        for take in range(6):
            write_wave(tmp_path / "voices" / voice / f"{take}.wav", talk(seconds, take, before=1))
    made = prepare(tmp_path / "voices", tmp_path / "out", tr=30)
    count = sum("a" in {source.voice for source in recipe.sources} for recipe in made.recipes("tr"))
    assert json.loads((made.path / "set.json").read_text())["barely_heard"]["tr"] == count > 0
    assert f"tr: a voice speaks for less than 1 s in {count} of 30 mixtures" in capsys.readouterr().out
