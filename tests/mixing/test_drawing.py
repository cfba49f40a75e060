from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest

from sepclip.errors import UserError
from sepclip.mixing.drawing import Group, combinations_of, draw, generator, split_groups
from sepclip.mixing.survey import Survey, Utterance, survey_voices
from tests.mixing.conftest import heard

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
    """Return the groups of a survey by their split and name."""
    counts = {"tr": 10, "cv": 5, "tt": 3}
    groups = split_groups(
        survey, sources=sources, counts=counts, unseen=unseen, by_voice=by_voice, fractions=fractions, seed=seed
    )
    assert all(group.count == counts[group.split] for group in groups)
    return {(group.split, group.name): group.voices for group in groups}


def group(voices, split="tr", count=300):
    return Group(split, "seen", voices, count)


def drawn(voices, split="tr", count=300, sources=2, seed=0, mode="min"):
    return draw(group(voices, split, count), sources=sources, seed=seed, mode=mode, rate_hz=8000)


def paths(group_voices):
    return {u.path for found in group_voices.values() for u in found}


def combination(recipe):
    return frozenset((source.path, source.offset) for source in recipe.sources)


def test_generators_depend_on_seed_purpose_and_index_alone():
    # the same on every platform and version of Python, as sets must be the same everywhere
    assert generator(0, "draw").random() == pytest.approx(0.13541503209479733, abs=1e-15)
    values = [generator(*key).random() for key in product((0, 1, -1), ("draw", "split"), (0, 1))]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize(("count", "sources"), [(6, 2), (13, 2), (51, 2), (9, 3)])
def test_split_by_voices_puts_no_voice_into_two_splits(count, sources):
    parts = split(Survey(voices(count)), sources, by_voice=True)
    assert sorted(parts) == [("cv", "unseen"), ("tr", "seen"), ("tt", "unseen")]
    assert sorted(voice for part in parts.values() for voice in part) == sorted(voices(count))
    assert min(len(part) for part in parts.values()) >= sources
    assert len(parts["cv", "unseen"]) == len(parts["tt", "unseen"]) == max(sources, round(count / 10))
    assert all(part[voice] == voices(count)[voice] for part in parts.values() for voice in part)


@pytest.mark.parametrize("files", [3, 4, 10, 25])
def test_split_within_voices_puts_no_file_into_two_splits(files):
    parts = split(Survey(voices(4, files, pieces=3)))
    assert sorted(parts) == [("cv", "seen"), ("tr", "seen"), ("tt", "seen")]
    assert all(sorted(part) == sorted(voices(4)) for part in parts.values())
    assert (
        sum(len(paths(part)) for part in parts.values()) == len(set().union(*map(paths, parts.values()))) == 4 * files
    )
    assert len(paths(parts["cv", "seen"])) == 4 * max(1, round(files / 10))


@pytest.mark.parametrize("total", [3, 4, 5, 7, 20])
@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.1, 0.45, 0.45), (0.1, 0.8, 0.1), (0.98, 0.01, 0.01)])
def test_every_split_has_something_of_every_voice(total, fractions):
    parts = split(Survey(voices(3, total)), fractions=dict(zip(EVEN, fractions, strict=True)))
    for voice in voices(3):
        shares = [len(parts[name, "seen"][voice]) for name in EVEN]
        assert sum(shares) == total
        assert min(shares) >= 1
        if total == 20:
            assert shares == pytest.approx(np.multiply(fractions, 20), abs=2)


def test_pieces_of_a_single_file_are_divided():
    parts = split(Survey(voices(3, files=1, pieces=10)))
    offsets = [{u.offset for u in parts[name, "seen"]["v00"]} for name in EVEN]
    assert [len(found) for found in offsets] == [8, 1, 1]
    assert len(set.union(*offsets)) == 10


def test_voices_of_too_few_utterances_are_left_out():
    survey = Survey({**voices(3), "poor": utterances("poor", 2)})
    parts = split(survey)
    assert all(sorted(part) == sorted(voices(3)) for part in parts.values())
    assert sorted(survey.left_out) == ["poor/0.wav", "poor/1.wav"]
    assert survey.left_out["poor/0.wav"] == "its voice has too few utterances to split (2 of 3)"


def test_unseen_voices_are_a_test_group_of_their_own():
    parts = split(Survey(voices(5)), unseen=("v01", "v03"))
    assert sorted(parts) == [("cv", "seen"), ("tr", "seen"), ("tt", "seen"), ("tt", "unseen")]
    assert parts["tt", "unseen"] == {voice: voices(5)[voice] for voice in ("v01", "v03")}
    assert all(sorted(parts[name, "seen"]) == ["v00", "v02", "v04"] for name in EVEN)


def test_splits_are_those_of_the_seed():
    for by_voice in (True, False):
        first, again, other = (split(Survey(voices(12)), by_voice=by_voice, seed=seed) for seed in (1, 1, 2))
        assert first == again
        assert first != other


@pytest.mark.parametrize(
    ("found", "options", "words"),
    [
        (Survey(), {}, "need 2 voices .* found none. Every file was left out"),
        (Survey(left_out={"a.wav": "not in a voice's folder"}), {}, "Put each voice into a sub-folder of its own"),
        (Survey(voices(1)), {}, "found 1: v00. Each sub-folder of ROOT is taken as one voice"),
        (Survey(voices(2)), {"sources": 3}, "need 3 voices with utterances enough, found 2: v00, v01. Add recordings"),
        (Survey(voices(2, files=2)), {}, "lower --min-seconds"),
        (Survey(voices(5)), {"by_voice": True}, "needs 6 voices or more .* found 5: use --split within"),
        (Survey(voices(8)), {"by_voice": True, "sources": 3}, "needs 9 voices or more"),
        (Survey(voices(3)), {"unseen": ("v00", "x")}, "--unseen x: no such voice; there are v00, v01, v02"),
        (Survey(voices(4)), {"unseen": ("v00",)}, "--unseen needs 2 voices or more"),
        (Survey(voices(3)), {"unseen": ("v00", "v01")}, "Name fewer voices in --unseen"),
    ],
)
def test_too_few_voices_are_told(found, options, words):
    with pytest.raises(UserError, match=words):
        split(found, **options)


@pytest.mark.parametrize("sources", [2, 3])
def test_combinations_are_counted_as_by_listing_them(sources):
    found = {f"v{index}": utterances(f"v{index}", index) for index in range(6)}
    listed = sum(1 for chosen in combinations(found, sources) for _ in product(*(found[voice] for voice in chosen)))
    assert combinations_of(found, sources) == listed


def test_thousands_of_voices_are_counted_at_once():
    assert combinations_of(dict.fromkeys(range(2500), [0] * 10), 3) == 2500 * 2499 * 2498 // 6 * 1000


@pytest.mark.parametrize("sources", [2, 3])
def test_voices_of_a_mixture_differ_and_are_drawn_alike_often(sources):
    recipes = drawn(voices(6, 50), count=2000, sources=sources)
    assert all(len(heard([recipe], "voice")) == sources for recipe in recipes)
    often = Counter(source.voice for recipe in recipes for source in recipe.sources)
    assert all(abs(count - 2000 * sources / 6) < 150 for count in often.values())


def test_first_recipes_do_not_depend_on_how_many_follow():
    for name in EVEN:
        assert drawn(voices(4), name, 20) == drawn(voices(4), name, 60)[:20]


def test_recipes_are_those_of_the_seed_and_the_split():
    assert drawn(voices(4), seed=1) == drawn(voices(4), seed=1)
    levels = [[r.sources[0].level_db for r in drawn(voices(4), *pair)] for pair in (("tr", 9), ("cv", 9), ("tt", 9))]
    levels.append([r.sources[0].level_db for r in drawn(voices(4), "tr", 9, seed=1)])
    assert len(set(map(tuple, levels))) == 4


@pytest.mark.parametrize("name", ["cv", "tt"])
def test_no_combination_comes_twice_and_all_come_when_asked_for(name):
    recipes = drawn(voices(3, files=2), name, count=1000)
    assert len({combination(recipe) for recipe in recipes}) == len(recipes) == 12


def test_training_repeats_only_when_it_must():
    assert len({combination(recipe) for recipe in drawn(voices(5, 10), count=300)}) == 300  # of 1000
    assert len(drawn(voices(2, 1), count=30)) == 30  # of 1


@pytest.mark.parametrize("sources", [2, 3])
def test_levels_are_0_to_5_db_apart_either_way(sources):
    recipes = drawn(voices(4), count=500, sources=sources)
    levels = np.array([[source.level_db for source in recipe.sources] for recipe in recipes])
    gains = np.array([[source.gain for source in recipe.sources] for recipe in recipes])
    assert 20 * np.log10(gains[:, 0] / gains[:, 1]) == pytest.approx(levels[:, 0] - levels[:, 1], abs=1e-3)
    apart = levels.max(1) - levels.min(1)
    assert apart.max() <= 5
    assert np.quantile(apart, [0.25, 0.5, 0.75]) == pytest.approx([1.25, 2.5, 3.75], abs=0.4)  # uniform
    assert levels.sum(1) == pytest.approx(0, abs=1e-3)
    louder = Counter(levels.argmax(1))
    assert all(abs(louder[index] - 500 / sources) < 60 for index in range(sources))


def test_mixtures_leave_room_and_keep_their_relative_levels():
    spiky, flat = {"a": utterances("a", 5, rms=0.01, peak=0.9)}, {"b": utterances("b", 5, rms=0.5, peak=0.7)}
    for recipe in drawn(spiky | flat, count=50):
        (loud,) = [source for source in recipe.sources if source.voice == "a"]
        (other,) = [source for source in recipe.sources if source.voice == "b"]
        assert loud.gain * 0.9 + other.gain * 0.7 == pytest.approx(0.9)
        assert 20 * np.log10(loud.gain * 0.01 / (other.gain * 0.5)) == pytest.approx(
            loud.level_db - other.level_db, abs=1e-3
        )


def test_quiet_and_loud_recordings_come_to_the_same_level():
    found = {"a": utterances("a", 5, rms=0.001, peak=0.003), "b": utterances("b", 5, rms=0.3, peak=0.9)}
    for recipe in drawn(found, count=50):
        for source in recipe.sources:
            rms = source.gain * (0.001 if source.voice == "a" else 0.3)
            assert 20 * np.log10(rms) == pytest.approx(-25 + source.level_db, abs=1e-3)


@pytest.mark.parametrize(("mode", "pick"), [("min", min), ("max", max)])
def test_length_of_a_mixture(mode, pick):
    found = voices(4)
    samples = {u.path: u.samples for part in found.values() for u in part}
    recipes = drawn(found, mode=mode)
    assert [r.length for r in recipes] == [pick(samples[s.path] for s in r.sources) for r in recipes]


@pytest.mark.parametrize(
    "name", ["{voice}/{file}.wav", "{voice}/" + "語" * 80 + "{file}.wav", "a b/ü&'$(x)\n{voice}-{file}.wav"]
)
def test_names_are_distinct_plain_and_short_enough(name):
    recipes = drawn(voices(4, pieces=12, name=name), sources=3, count=100)
    names = [recipe.name for recipe in recipes]
    assert len(set(names)) == 100
    assert all(len(f"{name}.wav".encode()) <= 255 for name in names)
    assert all(name.replace("-", "").replace("_", "").replace("@", "").replace(".", "").isalnum() for name in names)


def test_sexes_and_groups_are_told(corpus):
    found = survey_voices(corpus, rate_hz=8000, speaker_from=None, min_seconds=1, max_seconds=15)
    parts = split(found, unseen=("en-f", "fr-m"))
    recipes = draw(
        Group("tt", "unseen", parts["tt", "unseen"], 4), sources=2, seed=0, mode="min", rate_hz=8000, first=3
    )
    assert {(recipe.group, recipe.sexes) for recipe in recipes} == {("unseen", "fm")}
    assert [recipe.name[:6] for recipe in recipes] == ["00003_", "00004_", "00005_", "00006_"]
    assert {(s.voice, s.sex) for r in recipes for s in r.sources} == {("en-f", "f"), ("fr-m", "m")}
