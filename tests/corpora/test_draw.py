from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest

from sepclip.corpora.speakers.draw import Group, combinations_of, draw, split_groups
from sepclip.corpora.speakers.survey import Utterance, VoiceSurvey
from sepclip.corpora.speakers.voice_settings import VoiceSettings
from sepclip.mixing.chance import generator
from tests.mixing.conftest import used

EVEN = {"tr": 0.8, "cv": 0.1, "tt": 0.1}


def utterances(voice, files, pieces=1, rms=0.1, peak=0.5, name="{voice}/{file}.wav"):
    return [
        Utterance(name.format(voice=voice, file=file), voice, piece * 16000, 16000, 16000, 8000 + 100 * file, rms, peak)
        for file in range(files)
        for piece in range(pieces)
    ]


def voices(count, files=5, **options):
    return {f"v{index:02}": utterances(f"v{index:02}", files, **options) for index in range(count)}


def split(survey, sources=2, unseen=(), by_voice=False, fractions=EVEN, seed=0):
    """Return the voices of each split and group."""
    counts = {"tr": 10, "cv": 5, "tt": 3}
    settings = VoiceSettings(counts, fractions, tuple(unseen), sources, seed=seed)
    groups = split_groups(survey, settings, by_voice=by_voice)
    assert all(group.count == counts[group.split] for group in groups)
    return {f"{group.split} {group.name}": group.voices for group in groups}


def drawn(voices, split="tr", count=300, sources=2, seed=0, mode="min"):
    settings = VoiceSettings({}, EVEN, sources=sources, seed=seed, mode=mode)
    return draw(Group(split, "seen", voices, count), settings, {})


def distinct(recipes):
    return len({frozenset((source.path, source.offset) for source in recipe.sources) for recipe in recipes})


def test_generators_depend_on_seed_purpose_and_index_alone():
    assert generator(0, "draw").random() == 0.13541503209479733  # on every platform and version of Python
    values = [generator(*key).random() for key in product((0, 1, -1), ("draw", "split"), (0, 1))]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize(("count", "sources"), [(6, 2), (13, 2), (51, 2), (9, 3)])
def test_split_by_voices_puts_no_voice_into_two_splits(count, sources):
    parts = split(VoiceSurvey(voices(count)), sources, by_voice=True)
    assert list(parts) == ["tr seen", "cv unseen", "tt unseen"]
    assert sorted(voice for part in parts.values() for voice in part) == sorted(voices(count))
    least = max(sources, round(count / 10))
    assert [len(part) for part in parts.values()] == [count - 2 * least, least, least]


@pytest.mark.parametrize("files", [3, 4, 10, 25])
def test_split_within_voices_puts_no_file_into_two_splits(files):
    parts = split(VoiceSurvey(voices(4, files, pieces=3)))
    assert list(parts) == ["tr seen", "cv seen", "tt seen"]
    assert all(sorted(part) == sorted(voices(4)) for part in parts.values())
    paths = [{u.path for found in part.values() for u in found} for part in parts.values()]
    assert sum(map(len, paths)) == len(set.union(*paths)) == 4 * files


@pytest.mark.parametrize("total", [3, 4, 5, 7, 20])
@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.1, 0.45, 0.45), (0.1, 0.8, 0.1), (0.98, 0.01, 0.01)])
def test_every_split_has_its_share_of_every_voice(total, fractions):
    parts = split(VoiceSurvey(voices(3, total)), fractions=dict(zip(EVEN, fractions, strict=True)))
    for voice in voices(3):
        shares = [len(part[voice]) for part in parts.values()]
        assert sum(shares) == total
        assert min(shares) >= 1
        assert shares == pytest.approx(np.multiply(fractions, total), abs=2)


def test_pieces_of_a_single_file_are_divided():
    offsets = [{u.offset for u in part["v00"]} for part in split(VoiceSurvey(voices(3, files=1, pieces=10))).values()]
    assert [len(found) for found in offsets] == [8, 1, 1]
    assert len(set.union(*offsets)) == 10


def test_voices_of_too_few_utterances_are_left_out():
    survey = VoiceSurvey({**voices(3), "poor": utterances("poor", 2)})
    assert all(sorted(part) == sorted(voices(3)) for part in split(survey).values())
    assert survey.left_out == dict.fromkeys(
        ["poor/0.wav", "poor/1.wav"], "its voice has too few utterances to split (2 of 3)"
    )


def test_splits_are_those_of_the_seed():
    for by_voice in (True, False):
        first, again, other = (split(VoiceSurvey(voices(12)), by_voice=by_voice, seed=seed) for seed in (1, 1, 2))
        assert first == again
        assert first != other


@pytest.mark.parametrize("sources", [2, 3])
def test_combinations_are_counted_as_by_listing_them(sources):
    found = {f"v{index}": utterances(f"v{index}", index) for index in range(6)}
    listed = sum(1 for chosen in combinations(found, sources) for _ in product(*(found[voice] for voice in chosen)))
    assert combinations_of(found, sources) == listed
    # thousands of voices have too many to list
    assert combinations_of(dict.fromkeys(range(2500), [0] * 10), 3) == 2500 * 2499 * 2498 // 6 * 1000


@pytest.mark.parametrize("sources", [2, 3])
def test_voices_of_a_mixture_differ_and_are_drawn_alike_often(sources):
    recipes = drawn(voices(6, 50), count=2000, sources=sources)
    assert all(len(used([recipe], "voice")) == sources for recipe in recipes)
    often = Counter(source.voice for recipe in recipes for source in recipe.sources)
    assert all(abs(count - 2000 * sources / 6) < 150 for count in often.values())


def test_recipes_are_those_of_the_seed_and_the_split_however_many_follow():
    drafts = [drawn(voices(4), *pair, seed=seed) for pair in (("tr", 20), ("cv", 20), ("tt", 20)) for seed in (1, 2)]
    assert len({draft[0] for draft in drafts}) == 6
    assert drafts[::2] == [drawn(voices(4), name, 60, seed=1)[:20] for name in EVEN]


def test_no_combination_comes_twice_and_all_come_when_asked_for():
    for name in ("cv", "tt"):
        recipes = drawn(voices(3, files=2), name, count=1000)
        assert len(recipes) == distinct(recipes) == 12


def test_training_repeats_only_when_it_must():
    assert distinct(drawn(voices(5, 10), count=300)) == 300  # of 1000
    assert len(drawn(voices(2, 1), count=30)) == 30  # of 1


@pytest.mark.parametrize("sources", [2, 3])
def test_levels_are_0_to_5_db_apart_either_way(sources):
    recipes = drawn(voices(4), count=500, sources=sources)
    levels = np.array([[source.level_db for source in recipe.sources] for recipe in recipes])
    apart = levels.max(1) - levels.min(1)
    assert apart.max() <= 5
    assert np.quantile(apart, [0.25, 0.5, 0.75]) == pytest.approx([1.25, 2.5, 3.75], abs=0.4)  # uniform
    assert levels.sum(1) == pytest.approx(0, abs=1e-3)
    louder = Counter(levels.argmax(1))
    assert all(abs(louder[index] - 500 / sources) < 60 for index in range(sources))


def test_recordings_of_any_level_come_to_level_unless_they_would_exceed_the_peak():
    quiet, loud = utterances("a", 5, rms=0.001, peak=0.003), utterances("b", 5, rms=0.3, peak=0.9)
    spiky = utterances("c", 5, rms=0.01, peak=0.9)
    for recipe in drawn({"a": quiet, "b": loud, "c": spiky}, count=60):
        rms = {"a": 0.001, "b": 0.3, "c": 0.01}
        peaks = {"a": 0.003, "b": 0.9, "c": 0.9}
        level = [20 * np.log10(s.gain * rms[s.voice]) - s.level_db for s in recipe.sources]
        peak = sum(s.gain * peaks[s.voice] for s in recipe.sources)
        assert level[0] == pytest.approx(level[1], abs=1e-3)
        if "c" in used([recipe], "voice"):
            assert peak == pytest.approx(0.9)
        else:
            assert level[0] == pytest.approx(-25, abs=1e-3)
            assert peak < 0.9


def test_a_mixture_is_as_long_as_its_shortest_or_longest_source():
    found = voices(4)
    lengths = {u.path: u.samples for part in found.values() for u in part}
    for mode, pick in (("min", min), ("max", max)):
        recipes = drawn(found, mode=mode)
        assert [r.length for r in recipes] == [pick(lengths[s.path] for s in r.sources) for r in recipes]


@pytest.mark.parametrize("name", ["{voice}/{file}.wav", "{voice}/語語{file}.wav", "a b/ü&'$(x)\n{voice}-{file}.wav"])
def test_names_are_distinct_plain_and_short_enough(name):
    recipes = drawn(voices(4, pieces=12, name=name.replace("語", "語" * 40)), sources=3, count=100)
    names = [recipe.name for recipe in recipes]
    assert len(set(names)) == 100
    assert all(len(f"{name}.wav".encode()) <= 255 for name in names)
    assert all(character.isalnum() or character in "-_@." for name in names for character in name)
