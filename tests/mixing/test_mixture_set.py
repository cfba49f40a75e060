import shutil

import numpy as np
import pytest

from sepclip.audio.channels import mono_at_rate
from sepclip.errors import UserError
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.recipe import SPLITS, Recipe, Source
from sepclip.mixing.render import SetFolders, render_scene, to_int16, with_mixture
from tests.mixing.conftest import WHOLE, every_recipe, make_corpus, prepare, samples, write_wave

RAMP = np.arange(-1000, 1000, dtype=np.int16)


def source(path="a.wav", sex=None, offset=0, length=100, gain=1.0):
    return Source(path, "a", sex, offset, length, 8000, 0.0, gain)


def recipe(*sources, length=100):
    return Recipe("00000_a_b", "seen", length, sources)


@pytest.mark.parametrize(
    "path", ["a/b.wav", 'quo"te\\.wav', "Zürich/語.wav", "page\u2028break\x85.wav", "new\nline.wav"]
)
def test_a_recipe_is_one_line_and_comes_back_as_it_was(path):
    written = recipe(source(path, gain=0.1 + 0.2), source(sex="f"))
    assert "\n" not in written.to_line()
    assert Recipe.from_line(written.to_line()) == written


@pytest.mark.parametrize(("sexes", "want"), [("mf", "fm"), ("ff", "ff"), (("f", None), None)])
def test_sexes_of_a_mixture(sexes, want):
    assert recipe(*[source(sex=sex) for sex in sexes]).sexes == want


def test_rendering_is_offset_length_and_gain(tmp_path):
    write_wave(tmp_path / "a.wav", RAMP)
    sources = source(offset=1100), source(offset=1990, length=10, gain=-0.5), source(length=2000)
    mix, *made = render_scene(recipe(*sources), SetFolders(tmp_path), 8000)
    assert np.array_equal(mix, np.sum(made, 0))
    assert np.array_equal(made[0], np.arange(100, 200))
    assert np.array_equal(made[1], np.pad(np.rint(-0.5 * np.arange(990, 1000)), (0, 90)))
    assert np.array_equal(made[2], RAMP[:100])


def test_sixteen_bits_round_and_saturate_and_sums_do_not_wrap():
    assert to_int16(np.array([0.4, 0.6, 32767.4, 40000, -40000]) / 32768).tolist() == [0, 1, 32767, 32767, -32768]
    sources = np.array([[1, 30000, -30000], [2, 10000, -10000]], np.int16)
    assert with_mixture(sources).tolist() == [[3, 32767, -32768], *sources.tolist()]


def test_channels_are_averaged():
    assert mono_at_rate(np.array([[1, 0], [0, 0.5]], np.float32), 8000, 8000).tolist() == [0.5, 0.25]


def test_layout_is_that_of_wsj0_2mix(mixtures):
    for split, count in zip(SPLITS, (20, 6, 4), strict=True):
        names = sorted(f"{recipe.name}.wav" for recipe in mixtures.recipes(split))
        assert len(set(names)) == count
        folders = [part for part in (mixtures.path / split).iterdir() if part.is_dir()]
        found = {part.name: sorted(path.name for path in part.iterdir()) for part in folders}
        assert found == dict.fromkeys(("mix", "s1", "s2"), names)


def test_mixtures_are_exact_sums_of_gained_sentences_and_leave_room(mixtures, corpus):
    for split, recipe in every_recipe(mixtures):
        mix, *sources = [
            samples(mixtures.wave_path(split, part, recipe.name)).astype(int) for part in ("mix", "s1", "s2")
        ]
        assert np.array_equal(mix, sum(sources))
        assert np.abs(mix).max() <= 0.9 * 32768
        assert np.array_equal(mixtures.waves(split, recipe), [mix, *sources])
        for wave, source in zip(sources, recipe.sources, strict=True):
            assert np.abs(wave[: source.length] - source.gain * samples(corpus / source.path)).max() <= 0.51
            assert not wave[source.length :].any()


def test_whole_sentences_have_the_levels_of_the_recipes(mixtures):
    apart = []
    for split, recipe in every_recipe(mixtures):
        power = [
            np.square(wave / 32768).sum() / source.length
            for wave, source in zip(mixtures.waves(split, recipe)[1:], recipe.sources, strict=True)
        ]
        apart.append(10 * np.log10(power[0] / power[1]))
        assert apart[-1] == pytest.approx(recipe.sources[0].level_db - recipe.sources[1].level_db, abs=0.01)
    assert np.abs(apart).max() <= 5.01
    assert min(apart) < -1
    assert max(apart) > 1  # either voice is the louder


def test_recipes_render_to_the_samples_that_were_written(mixtures, corpus, tmp_path):
    recipes_only = prepare(corpus, tmp_path / "out", **WHOLE, audio=False)
    assert sorted(path.name for path in recipes_only.path.iterdir()) == ["cv.jsonl", "set.json", "tr.jsonl", "tt.jsonl"]
    assert recipes_only.digest == mixtures.digest
    for split, recipe in every_recipe(mixtures):
        assert np.array_equal(recipes_only.waves(split, recipe), mixtures.waves(split, recipe))


@pytest.mark.parametrize("audio", [True, False])
def test_corpus_and_set_may_move(tmp_path, audio):
    made = prepare(make_corpus(tmp_path / "voices"), tmp_path / "out", audio=audio)
    recipes = every_recipe(made)
    want = [made.waves(*pair) for pair in recipes]
    (tmp_path / "voices").rename(tmp_path / "elsewhere")
    (tmp_path / "out").rename(tmp_path / "moved")
    if not audio:
        with pytest.raises(UserError, match="say with --root where"):
            MixtureSet.open(tmp_path / "moved").waves(*recipes[0])
    moved = MixtureSet.open(tmp_path / "moved", None if audio else tmp_path / "elsewhere")
    assert all(np.array_equal(moved.waves(*pair), wave) for wave, pair in zip(want, every_recipe(moved), strict=True))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "contains no mixture set"),
        ({"unfinished.json": "{}"}, "is unfinished"),
        ({"set.json": "{"}, "is damaged"),
        ({"set.json": "[]"}, "is damaged"),
        ({"set.json": '{"format": 1}'}, "is damaged"),
        ({"set.json": '{"format": 99}'}, "newer than this sepclip reads"),
    ],
)
def test_what_is_no_set_is_told(tmp_path, files, words):
    with pytest.raises(UserError, match="no such folder"):
        MixtureSet.open(tmp_path / "missing")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        MixtureSet.open(tmp_path)


def test_damaged_sets_are_told(mixtures, tmp_path):
    own = MixtureSet.open(shutil.copytree(mixtures.path, tmp_path / "own"))
    recipe = own.recipes("tr")[0]
    write_wave(own.wave_path("tr", "s2", recipe.name), np.zeros(recipe.length - 1, np.int16))
    with pytest.raises(UserError, match="samples of 1 channel at 8000 Hz, as its recipe says"):
        own.waves("tr", recipe)
    (own.path / "tr.jsonl").write_text('{"name": ')
    (own.path / "cv.jsonl").unlink()
    for split, words in (("tr", "is damaged"), ("cv", "No such file"), ("../tr", "choose one of tr, cv, tt")):
        with pytest.raises(UserError, match=words):
            own.recipes(split)


@pytest.mark.parametrize("change", [lambda wave: (wave[:-10], 8000), lambda wave: (wave, 16000)])
def test_a_corpus_that_changed_is_told(tmp_path, change):
    made = prepare(make_corpus(tmp_path / "voices"), tmp_path / "out", audio=False)
    recipe = made.recipes("tr")[0]
    path = made.root / recipe.sources[0].path
    write_wave(path, *change(samples(path)))
    with pytest.raises(UserError, match="is not the file that the recipes were made from"):
        made.waves("tr", recipe)
