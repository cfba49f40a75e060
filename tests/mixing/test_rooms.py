import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sepclip.errors import UserError
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.recipe import SPLITS, Recipe, Source
from sepclip.mixing.rooms import in_room, read_noise, read_response
from tests.conftest import sepclip
from tests.mixing.conftest import every_recipe, prepare, samples, tree, write_wave

rng = np.random.default_rng(1)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Return six recordings of noise at another rate, of two channels and different levels."""
    folder = tmp_path_factory.mktemp("noise")
    for index in range(6):
        level = 0.02 * (1 + index)
        write_wave(folder / f"{index}.wav", rng.normal(0, level, (16000 * 5, 2)), 16000, subtype="FLOAT")
    return folder


@pytest.fixture(scope="module")
def rirs(tmp_path_factory):
    """Return three rooms of three impulse responses each, with the direct sound at the fifth sample."""
    folder = tmp_path_factory.mktemp("rirs")
    for room in "abc":
        for index in range(3):
            echo = 0.2 * rng.normal(0, 1, 1200) * np.exp(-np.arange(1200) / 300)
            echo[:5], echo[5] = 0, -1.5  # the sign is taken out too
            write_wave(folder / room / f"{index}.wav", 0.4 * echo, 8000, subtype="FLOAT")
    return folder


def of_noise(offset, length, rate_hz=8000):
    return Source("1.wav", "noise", None, offset, length, rate_hz, 0.0, 1.0)


def test_a_response_begins_with_the_direct_sound_which_keeps_level_and_time(tmp_path):
    path = write_wave(tmp_path / "1.wav", np.array([[0, 0.1], [0, 0.2], [-0.5, 0.3], [0, 0.4], [0.25, 0.5]]))
    assert read_response(path, 8000) == pytest.approx([1, 0, -0.5], abs=1e-4)  # of the first channel
    wave = rng.normal(0, 1, 50).astype(np.float32)
    assert in_room(wave, np.array([1, 0, -0.5], np.float32)) == pytest.approx(
        np.convolve(wave, [1, 0, -0.5])[:50], abs=1e-5
    )
    assert in_room(wave, np.ones(1, np.float32)) == pytest.approx(wave, abs=1e-6)
    with pytest.raises(UserError, match="silent: no impulse response"):
        read_response(write_wave(tmp_path / "2.wav", np.zeros(100)), 8000)


@pytest.mark.parametrize(("offset", "length"), [(0, 8), (3, 5), (3, 8), (7, 30)])
def test_noise_that_ends_begins_anew(tmp_path, offset, length):
    wave = np.arange(1, 11) / 20
    write_wave(tmp_path / "1.wav", wave, subtype="FLOAT")
    want = [wave[(offset + index) % 10] for index in range(length)]
    assert read_noise(of_noise(offset, length), tmp_path, 8000) == pytest.approx(want)
    with pytest.raises(UserError, match="is not the file that the recipes were made from"):
        read_noise(of_noise(offset, length, 16000), tmp_path, 8000)


def test_noise_comes_at_the_snr_asked_for_and_is_all_that_is_added(corpus, noise, tmp_path):
    made = prepare(corpus, tmp_path / "out", tr=8, noise=noise, noise_snr="3,9", mode="max")
    assert not made.additive
    apart = []
    for split, recipe in every_recipe(made):
        mix, *sources = made.waves(split, recipe).astype(float)
        added = mix - sum(sources)
        rms = [np.sqrt(np.square(wave[: s.length]).mean()) for wave, s in zip(sources, recipe.sources, strict=True)]
        snr = 20 * np.log10(max(rms) / np.sqrt(np.square(added).mean()))
        wanted = max(s.level_db for s in recipe.sources) - recipe.noise.level_db
        assert snr == pytest.approx(wanted, abs=0.3)  # noise is measured second by second, to the last whole one
        apart.append(wanted)
    assert 3 <= min(apart) < 5 < 7 < max(apart) <= 9
    told = made.about["statistics"]["tr"]["snr_db"]
    assert 3 <= told["least"] <= told["median"] <= told["most"] <= 9


def test_recipes_alone_make_the_same_mixtures_and_every_split_has_its_own_noise_and_rooms(
    corpus, noise, rirs, tmp_path
):
    options = {"tr": 12, "noise": noise, "rirs": rirs, "targets": "dry"}
    made = prepare(corpus, tmp_path / "out", **options)
    recipes = prepare(corpus, tmp_path / "recipes", **options, audio=False)
    for (split, recipe), (_, same) in zip(every_recipe(made), every_recipe(recipes), strict=True):
        assert Recipe.from_line(recipe.to_line()) == recipe == same
        assert np.array_equal(made.waves(split, recipe), recipes.waves(split, same))
        assert len({s.rir.split("/")[0] for s in recipe.sources}) == 1  # one room a mixture
        assert len({s.rir for s in recipe.sources}) == 2
    heard = [{recipe.noise.path for recipe in made.recipes(split)} for split in SPLITS]
    rooms = [{s.rir for recipe in made.recipes(split) for s in recipe.sources} for split in SPLITS]
    for found in (heard, rooms):
        assert sum(map(len, found)) == len(set.union(*found))
    again = prepare(corpus, tmp_path / "again", **options, jobs=1)
    assert tree(again.path) == tree(made.path)


def test_reverberant_sources_add_up_and_dry_ones_are_the_voices_themselves(corpus, rirs, tmp_path):
    wet = prepare(corpus, tmp_path / "wet", rirs=rirs)
    dry = prepare(corpus, tmp_path / "dry", rirs=rirs, targets="dry")
    assert (wet.additive, dry.additive) == (True, False)
    for (split, recipe), (_, same) in zip(every_recipe(wet), every_recipe(dry), strict=True):
        assert recipe == same
        mix, *sources = wet.waves(split, recipe).astype(int)
        assert np.array_equal(mix, sum(sources))
        for wave, source in zip(dry.waves(split, same)[1:].astype(float), same.sources, strict=True):
            voice = samples(corpus / source.path)[: len(wave)].astype(float)
            assert np.corrcoef(wave[: len(voice)], voice)[0, 1] > 0.9999
        # the mixture is that of the reverberant sources, up to the common gain of each set
        assert np.corrcoef(dry.waves(split, same)[0], mix)[0, 1] > 0.9999


def test_folders_of_splits_are_kept_and_few_recordings_shared(corpus, noise, tmp_path, capsys):
    for index, split in enumerate(SPLITS):
        (tmp_path / "noise" / split).mkdir(parents=True)
        (tmp_path / "noise" / split / "n.wav").write_bytes((noise / f"{index}.wav").read_bytes())
    made = prepare(corpus, tmp_path / "out", noise=tmp_path / "noise", audio=False)
    for split in SPLITS:
        assert {recipe.noise.path for recipe in made.recipes(split)} == {f"{split}/n.wav"}
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "n.wav").write_bytes((noise / "0.wav").read_bytes())
    (tmp_path / "one" / "bad.wav").write_text("no sound")
    write_wave(tmp_path / "one" / "short.wav", np.ones(100))
    write_wave(tmp_path / "one" / "silent.wav", np.zeros(16000))
    prepare(corpus, tmp_path / "shared", noise=tmp_path / "one", audio=False)
    told = capsys.readouterr().err
    assert "--noise has 1 recording for tr, cv and tt: they share all of them" in told
    for words in ("left out 3 files of --noise", "bad.wav: not readable", "short.wav: shorter", "silent.wav: silent"):
        assert words in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--noise {tmp}/nowhere", "nowhere: no such folder"),
        ("--noise {tmp}/empty", "contains no sound file that can be used"),
        ("--noise {corpus}/en-f", "where it would be taken for a voice"),
        ("--noise {tmp}", "is inside --noise"),
        ("--noise {noise} --noise-snr 5", "--noise-snr 5: give the lowest and the highest in dB, such as 0,20"),
        ("--noise {noise} --noise-snr 5,1", "give the lowest and the highest"),
        ("--noise {noise} --noise-snr nan,1", "give the lowest and the highest"),
        ("--noise-snr 0,5", "--noise-snr goes with --noise"),
        ("--targets dry", "--targets goes with --rirs"),
        ("--rirs {noise} --targets wet", "--targets wet: choose reverberant or dry"),
        ("--rirs {tmp}/nowhere", "--rirs"),
    ],
)
def test_scenes_that_cannot_be_are_told(corpus, noise, tmp_path, options, words, capsys):
    from sepclip.cli import main

    (tmp_path / "empty").mkdir()
    arguments = options.format(tmp=tmp_path, corpus=corpus, noise=noise).split()
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "speakers", str(corpus), str(tmp_path / "out"), *arguments])
    assert ended.value.code == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["/etc/x.wav", "a/../../x.wav"])
def test_noise_and_rooms_of_a_recipe_do_not_lead_out_of_their_folders(place):
    voice = Source("a/1.wav", "a", None, 0, 10, 8000, 0.0, 1.0)
    for made in (
        Recipe("1", "seen", 10, (replace(voice, rir=place),)),
        Recipe("1", "seen", 10, (voice,), noise=replace(voice, path=place)),
    ):
        with pytest.raises(ValueError, match="leads out of the corpus"):
            Recipe.from_line(made.to_line())


def test_noise_that_has_moved_is_told(corpus, noise, tmp_path):
    moved = (tmp_path / "noise").resolve()
    moved.mkdir()
    for index in range(3):
        (moved / f"{index}.wav").write_bytes((noise / f"{index}.wav").read_bytes())
    made = sepclip("prepare", "speakers", corpus, tmp_path / "out", "--tr", 4, "--noise", moved, "--no-audio")
    assert made.returncode == 0, made.stderr
    about = json.loads((tmp_path / "out" / "set.json").read_text())
    assert (about["noise_root"], about["additive"]) == (str(moved), False)
    moved.rename(tmp_path / "elsewhere")
    mixtures = MixtureSet.open(tmp_path / "out")
    with pytest.raises(UserError, match="noise"):
        mixtures.waves("tr", mixtures.recipes("tr")[0])


def test_the_script_for_rooms_writes_rooms_that_can_be_used(tmp_path: Path) -> None:
    pytest.importorskip("pyroomacoustics")
    script = Path(__file__).parents[2] / "benchmarks" / "make_rooms.py"
    subprocess.run([sys.executable, script, tmp_path, "--rooms", "2", "--rate", "8000"], check=True)
    for room in ("0000", "0001"):
        responses = [read_response(path, 8000) for path in sorted((tmp_path / room).iterdir())]
        assert len(responses) == 3
        for response in responses:
            assert response[0] == 1
            # the energy falls by 60 dB within the longest reverberation time, half a second; there is an echo before
            energy = np.cumsum(np.square(response[::-1], dtype=np.float64))[::-1]
            assert energy[200] > 1e-3 * energy[0]
            assert energy[4000:].max(initial=0) < 1e-4 * energy[0]
