import json
import shutil

import numpy as np
import pytest
import soundfile

from sepclip.errors import UserError
from sepclip.mixing.mixture import SPLITS, MixtureSet, Recipe, Source, mono_at_rate, render, to_int16, with_mixture
from tests.mixing.conftest import every_recipe, level_db, make_corpus, prepare, write_wave

RAMP = np.arange(-1000, 1000, dtype=np.int16)


def source(path="a.wav", voice="a", sex=None, offset=0, length=100, rate_hz=8000, gain=1.0):
    return Source(path, voice, sex, offset, length, rate_hz, 0.0, gain)


def recipe(*sources, length=100):
    return Recipe("00000_a_b", "seen", length, sources)


@pytest.mark.parametrize(
    "path", ["a/b.wav", 'quo"te\\.wav', "Zürich/語.wav", "line\u2028and\x85page.wav", "new\nline.wav"]
)
def test_a_recipe_is_one_line_and_comes_back_as_it_was(path):
    written = recipe(source(path, gain=0.1 + 0.2), source("b.wav", "b", "f"))
    assert "\n" not in written.to_line()
    assert Recipe.from_line(written.to_line()) == written


@pytest.mark.parametrize(("sexes", "want"), [("mf", "fm"), ("ff", "ff"), ("m", "m"), (("f", None), None)])
def test_sexes_of_a_mixture(sexes, want):
    assert recipe(*[source(sex=sex) for sex in sexes]).sexes == want


def test_rendering_is_offset_length_and_gain(tmp_path):
    write_wave(tmp_path / "a.wav", RAMP)
    made = render(recipe(source(offset=1100, length=100), source(offset=1990, length=10, gain=-0.5)), tmp_path, 8000)
    assert np.array_equal(made[0], np.arange(100, 200))
    assert np.array_equal(made[1], np.pad(np.rint(-0.5 * np.arange(990, 1000)), (0, 90)))


def test_longer_sources_are_cut(tmp_path):
    write_wave(tmp_path / "a.wav", RAMP)
    made = render(recipe(source(length=2000), source(length=100)), tmp_path, 8000)
    assert np.array_equal(made, [RAMP[:100], RAMP[:100]])


def test_sixteen_bits_round_and_saturate():
    assert to_int16(np.array([0.4, 0.6, 32767.4, 40000, -40000]) / 32768).tolist() == [0, 1, 32767, 32767, -32768]


def test_a_mixture_is_the_sum_and_does_not_wrap():
    sources = np.array([[1, 30000, -30000], [2, 10000, -10000]], np.int16)
    assert with_mixture(sources).tolist() == [[3, 32767, -32768], [1, 30000, -30000], [2, 10000, -10000]]


def test_channels_are_averaged():
    assert mono_at_rate(np.array([[1, 0], [0, 0.5]], np.float32), 8000, 8000).tolist() == [0.5, 0.25]


@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_a_tone_keeps_its_pitch_and_level_at_another_rate(rate_hz):
    tones = [0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32) for rate in (rate_hz, 8000)]
    resampled = mono_at_rate(tones[0][None], rate_hz, 8000)
    assert resampled.shape == (8000,)
    assert np.abs(resampled - tones[1])[100:-100].max() < 1e-3


def test_layout_is_that_of_wsj0_2mix(mixtures):
    for split, count in zip(SPLITS, (20, 6, 4), strict=True):
        names = [f"{recipe.name}.wav" for recipe in mixtures.recipes(split)]
        assert len(set(names)) == count
        assert sorted(path.name for path in (mixtures.path / split).iterdir()) == ["mix", "s1", "s2"]
        for part in ("mix", "s1", "s2"):
            assert sorted(path.name for path in (mixtures.path / split / part).iterdir()) == sorted(names)


def test_mixtures_are_the_exact_sums_of_their_sources_and_leave_room(mixtures):
    for split, recipe in every_recipe(mixtures):
        read = [
            soundfile.read(mixtures.wave_path(split, part, recipe.name), dtype="int16") for part in ("mix", "s1", "s2")
        ]
        mix, *sources = [wave.astype(int) for wave, _ in read]
        assert {rate for _, rate in read} == {8000}
        assert np.array_equal(mix, sum(sources))
        assert np.abs(mix).max() <= 0.9 * 32768
        assert np.array_equal(mixtures.waves(split, recipe), [mix, *sources])


def test_levels_are_those_of_the_recipes(mixtures):
    differences = []
    for split, recipe in every_recipe(mixtures):
        _, *waves = mixtures.waves(split, recipe)
        first, second = [level_db(wave[: s.length]) for wave, s in zip(waves, recipe.sources, strict=True)]
        differences.append(first - second)
        assert first - second == pytest.approx(recipe.sources[0].level_db - recipe.sources[1].level_db, abs=0.01)
    assert max(np.abs(differences)) <= 5.01
    assert min(differences) < -1
    assert max(differences) > 1  # either voice is the louder


def test_sources_are_the_sentences_of_the_corpus(mixtures, corpus):
    _, recipe = every_recipe(mixtures)[0]
    for wave, source in zip(mixtures.waves("tr", recipe)[1:], recipe.sources, strict=True):
        sentence = soundfile.read(corpus / source.path, dtype="int16")[0]
        assert len(sentence) == source.length
        assert np.abs(wave[: source.length] - source.gain * sentence).max() <= 0.51
        assert not wave[source.length :].any()


def test_recipes_render_to_the_samples_that_were_written(mixtures, corpus, tmp_path):
    recipes_only = prepare(corpus, tmp_path / "out", tr=20, cv=6, tt=4, mode="max", audio=False)
    assert sorted(path.name for path in recipes_only.path.iterdir()) == ["cv.jsonl", "set.json", "tr.jsonl", "tt.jsonl"]
    assert recipes_only.digest == mixtures.digest
    for split, recipe in every_recipe(mixtures):
        assert np.array_equal(recipes_only.waves(split, recipe), mixtures.waves(split, recipe))


def test_corpus_and_set_may_move(tmp_path):
    made = prepare(make_corpus(tmp_path / "voices"), tmp_path / "out", audio=False)
    recipes = every_recipe(made)
    want = [made.waves(*pair) for pair in recipes]
    (tmp_path / "voices").rename(tmp_path / "elsewhere")
    (tmp_path / "out").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="say with --root"):
        MixtureSet.open(tmp_path / "moved").waves(*recipes[0])
    moved = MixtureSet.open(tmp_path / "moved", tmp_path / "elsewhere")
    for wave, pair in zip(want, every_recipe(moved), strict=True):
        assert np.array_equal(moved.waves(*pair), wave)


def test_written_waves_need_no_corpus(tmp_path):
    made = prepare(make_corpus(tmp_path / "voices"), tmp_path / "out")
    want = [made.waves(*pair) for pair in every_recipe(made)]
    shutil.rmtree(tmp_path / "voices")
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = MixtureSet.open(tmp_path / "moved")
    assert all(np.array_equal(moved.waves(*pair), wave) for wave, pair in zip(want, every_recipe(moved), strict=True))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (None, "no such folder"),
        ({}, "holds no mixture set"),
        ({"unfinished.json": "{}"}, "is unfinished"),
        ({"set.json": "{"}, "is damaged"),
        ({"set.json": "[]"}, "is damaged"),
        ({"set.json": '{"format": 1}'}, "is damaged"),
        ({"set.json": '{"format": 99}'}, "newer than this sepclip reads"),
    ],
)
def test_what_is_no_set_is_told(tmp_path, files, words):
    if files is not None:
        (tmp_path / "out").mkdir()
        for name, text in files.items():
            (tmp_path / "out" / name).write_text(text)
    with pytest.raises(UserError, match=words):
        MixtureSet.open(tmp_path / "out")


@pytest.fixture
def own_set(mixtures, tmp_path):
    """Return a copy of a set, to be damaged."""
    return MixtureSet.open(shutil.copytree(mixtures.path, tmp_path / "own"))


def test_unknown_split_is_told(own_set):
    with pytest.raises(UserError, match="choose one of tr, cv, tt"):
        own_set.recipes("../tr")


def test_damaged_recipes_are_told(own_set):
    (own_set.path / "tr.jsonl").write_text('{"name": ')
    with pytest.raises(UserError, match=r"tr\.jsonl is damaged"):
        own_set.recipes("tr")
    (own_set.path / "tr.jsonl").unlink()
    with pytest.raises(UserError, match="No such file"):
        own_set.recipes("tr")


def test_a_wave_of_another_length_is_told(own_set):
    recipe = own_set.recipes("tr")[0]
    write_wave(own_set.wave_path("tr", "s2", recipe.name), np.zeros(recipe.length - 1, np.int16))
    with pytest.raises(UserError, match="samples long, as its recipe says"):
        own_set.waves("tr", recipe)


@pytest.mark.parametrize("change", [lambda wave: (wave[:-10], 8000), lambda wave: (wave, 16000)])
def test_a_corpus_that_changed_is_told(tmp_path, change):
    made = prepare(make_corpus(tmp_path / "voices"), tmp_path / "out", audio=False)
    recipe = made.recipes("tr")[0]
    wave, rate_hz = change(soundfile.read(made.root / recipe.sources[0].path)[0])
    write_wave(made.root / recipe.sources[0].path, wave, rate_hz)
    with pytest.raises(UserError, match="is not the file that the recipes were made from"):
        made.waves("tr", recipe)


def test_set_file_says_what_the_set_is(mixtures, corpus):
    about = json.loads((mixtures.path / "set.json").read_text())
    assert about["counts"] == {"tr": 20, "cv": 6, "tt": 4}
    assert (about["root"], about["rate_hz"], about["source_count"]) == (str(corpus.resolve()), 8000, 2)
