from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import fftconvolve

from sepclip.audio.loudness import LAWS
from sepclip.config.load import load_config
from sepclip.corpora import corpora
from sepclip.errors import UserError
from sepclip.mixing.batches import training_data
from sepclip.mixing.dynamic_voices import Augmentation, at_speed, stretch
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.render import read_source
from tests.conftest import train_tiny
from tests.mixing.conftest import make_corpus, prepare, samples, write_wave

rng = np.random.default_rng(2)


def data(mixtures, speed=None, noise_snr_db=None, segment=8000, batch_size=6, seed=0, dynamic=True, gib=1.0):
    return training_data(
        mixtures,
        segment=segment,
        batch_size=batch_size,
        dynamic=dynamic,
        seed=seed,
        memory_gib=gib,
        augmentation=Augmentation(speed, noise_snr_db),
    )


def same(one, other):
    return torch.equal(one.mixture, other.mixture) and torch.equal(one.sources, other.sources)


def rms_db(wave):
    return 20 * np.log10(np.sqrt(np.square(wave, dtype=np.float64).mean(-1)))


@pytest.fixture(scope="module")
def scene(corpus, tmp_path_factory):
    """Return a set with noise and rooms, its sources dry, its noise at another rate."""
    folder = tmp_path_factory.mktemp("scene")
    for index in range(3):
        write_wave(folder / "noise" / f"{index}.wav", rng.normal(0, 0.1, 16000 * 8), 16000)
        for place in range(2):
            echo = 0.05 * rng.normal(0, 1, 800) * np.exp(-np.arange(800) / 200)
            echo[0] = 1
            write_wave(folder / "rirs" / f"{index}" / f"{place}.wav", echo * 0.5, 8000, subtype="FLOAT")
    return prepare(
        corpus,
        folder / "set",
        tr=12,
        noise=folder / "noise",
        noise_snr="5,5",
        rirs=folder / "rirs",
        targets="dry",
        audio=False,
    )


def test_a_stretch_is_filled_up_on_both_sides():
    wave = np.array([1, 2, 3], np.int16)
    assert stretch(wave, -2, 4).tolist() == [0, 0, 1, 2]
    assert stretch(wave, 1, 4).tolist() == [2, 3, 0, 0]
    assert stretch(wave, 9, 2).tolist() == stretch(wave, -9, 2).tolist() == [0, 0]


@pytest.mark.parametrize("percent", [50, 90, 97, 105, 110, 200])
def test_speed_moves_pitch_and_length(percent):
    time = np.arange(16000) / 8000
    played = at_speed(np.sin(2 * np.pi * 440 * time).astype(np.float32), percent)
    assert len(played) == -(-16000 * 100 // percent)
    want = np.sin(2 * np.pi * 440 * percent / 100 * np.arange(len(played)) / 8000)
    assert np.abs(played - want)[200:-200].max() < 1e-3
    assert at_speed(played, 100) is played


def test_excerpts_at_another_speed_are_those_of_the_whole_utterance(mixtures):
    voices = {s.path: s for recipe in mixtures.recipes("tr") for s in recipe.sources}
    waves = [read_source(source, mixtures.root, 8000) for source in voices.values()]
    played = [at_speed(wave, 110) for wave in waves]
    for row in data(mixtures, (1.1, 1.1)).batch(0).sources.reshape(-1, 8000).numpy()[:4]:
        assert max(_cosine(wave, row) for wave in played) > 0.97  # it may begin between two samples
    assert same(data(mixtures, (1, 1)).batch(2), data(mixtures, (1.0, 1.0)).batch(2))
    assert not same(data(mixtures, (0.9, 1.1)).batch(2), data(mixtures).batch(2))


def _cosine(wave, row):
    """Return the highest cosine of the angle between ``row`` and any stretch of ``wave``."""
    dots = fftconvolve(wave.astype(np.float64), row[::-1].astype(np.float64), "valid")
    energy = fftconvolve(np.square(wave, dtype=np.float64), np.ones(len(row)), "valid")
    return (np.abs(dots) / np.sqrt(np.maximum(energy, 1e-9))).max() / np.linalg.norm(row)


def test_a_batch_with_all_of_it_depends_on_seed_and_step_alone(scene):
    one, two, other = (data(scene, (0.9, 1.1), (0, 20), seed=seed) for seed in (0, 0, 1))
    straight = [one.batch(step) for step in range(4)]
    scarce = data(scene, (0.9, 1.1), (0, 20), gib=0)
    assert all(same(two.batch(step), straight[step]) for step in (3, 0, 2, 1))
    assert same(scarce.batch(2), straight[2])
    assert not same(other.batch(0), straight[0])


def test_noise_is_that_of_the_recipes_or_as_asked_for(corpus, scene, tmp_path):
    noise = Path(scene.about["noise_root"])
    plain = prepare(corpus, tmp_path / "out", tr=8, noise=noise, noise_snr="5,5", audio=False, mode="max")
    for wanted, asked in ((5, None), (12, (12, 12))):
        batch = data(plain, None, asked, segment=100_000).batch(0)
        added = rms_db((batch.mixture - batch.sources.sum(1)).numpy())
        voices = [
            20 * np.log10(np.sqrt(np.square(np.trim_zeros(row, "b"), dtype=np.float64).mean()))
            for rows in batch.sources.numpy()
            for row in rows
        ]
        louder = np.max(np.reshape(voices, (-1, 2)), 1)
        assert louder - added == pytest.approx(wanted, abs=0.2)


def test_dry_sources_are_in_the_mixture_with_the_echo_of_a_room(scene):
    batch = data(scene, None, (100, 100), segment=16000).batch(0)
    echo = (batch.mixture - batch.sources.sum(1)).numpy()
    # 0.05^2 of the direct sound at first, a hundred samples long in all: a quarter of its energy
    ratio = rms_db(echo) - rms_db(batch.sources.sum(1).numpy())
    assert ((ratio > -10) & (ratio < -2)).all()
    assert batch.mixture.abs().max() <= 0.9 + 1e-6


def test_levels_are_those_of_the_law_of_the_set(corpus, tmp_path):
    made = prepare(corpus, tmp_path / "out", tr=8, level="p56", audio=False)
    levels = []
    for rows in data(made, segment=100_000).batch(0).sources.numpy():
        levels.append([20 * np.log10(LAWS["p56"](np.trim_zeros(row, "b"), 8000)) for row in rows])
    assert np.sum(levels, 1) == pytest.approx(-50, abs=0.2)
    assert np.ptp(levels, axis=1).max() <= 5.2


def test_a_tree_read_in_place_is_mixed_anew_by_the_law_of_wsj0(mixtures, tmp_path):
    corpora()["wsj0-2mix"].prepare(mixtures.path, tmp_path / "place")
    batch = data(MixtureSet.open(tmp_path / "place"), segment=100_000).batch(0)
    levels = [[LAWS["p56"](np.trim_zeros(row), 8000) for row in rows] for rows in batch.sources.numpy()]
    assert np.ptp(20 * np.log10(levels), axis=1).max() <= 5.3
    peaks = torch.cat([batch.mixture[:, None], batch.sources], 1).abs().amax((1, 2))
    assert peaks == pytest.approx(0.9)


def test_sources_of_another_rate_are_resampled_once(tmp_path, monkeypatch, capsys):
    for path in make_corpus(tmp_path / "flac").glob("*/*.flac"):
        write_wave(tmp_path / "voices" / path.parent.name / f"{path.stem}.wav", samples(path), 11025)
    made = prepare(tmp_path / "voices", tmp_path / "out", audio=False)
    want = [data(made).batch(step) for step in range(3)]
    kept = {path: path.stat().st_mtime_ns for path in (made.path / "resampled").iterdir()}
    assert kept
    assert {path.suffix for path in kept} == {".wav"}

    def fail(*_):
        raise AssertionError("read and resampled again")

    monkeypatch.setattr("sepclip.mixing.utterances.read_source", fail)
    again = data(made)
    assert all(same(again.batch(step), want[step]) for step in range(3))
    monkeypatch.undo()
    for path in kept:
        path.unlink()
    (made.path / "resampled").rmdir()
    (made.path / "resampled").write_text("in the way")
    capsys.readouterr()
    assert same(data(made).batch(0), want[0])
    assert capsys.readouterr().err.count("resampled again in every training") == 1


def test_what_cannot_be_varied_is_told(mixtures, scene):
    with pytest.raises(UserError, match=r"data\.noise_snr_db: the recipes of .* name no noise; prepare a set with"):
        data(mixtures, None, (0, 10))
    with pytest.raises(UserError, match="are for dynamic voices"):
        data(mixtures, (0.9, 1.1), dynamic=False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.speed=[0.9,1.1]"], "data.speed.*add data.dynamic=true, or leave it out"),
        (["data.dynamic=true", "data.speed=[1.1,0.9]"], "data.speed.*the lowest and the highest"),
        (["data.dynamic=true", "data.speed=[0.1,1]"], "data.speed"),
        (["data.dynamic=true", "data.speed=[0.971,0.979]"], "contains no whole percent"),
        (["data.dynamic=true", "data.noise_snr_db=[1]"], "data.noise_snr_db"),
    ],
)
def test_settings_that_cannot_be_are_told(settings, words):
    with pytest.raises(UserError, match=f"(?s){words}"):
        load_config(None, settings, {})


def test_settings_that_can_be():
    config = load_config(None, ["data.dynamic=true", "data.speed=[0.9,1.1]", "data.noise_snr_db=[0,20]"], {})
    assert (config.data.speed, config.data.noise_snr_db) == ((0.9, 1.1), (0, 20))


def test_a_run_is_trained_with_noise_rooms_and_speeds_by_the_command_line(scene, tmp_path):
    more = ("--dynamic", "--set", "data.speed=[0.95,1.05]", "--set", "data.noise_snr_db=[0,20]")
    trained = train_tiny(scene.path, tmp_path / "run", *more)
    assert trained.returncode == 0, trained.stderr
