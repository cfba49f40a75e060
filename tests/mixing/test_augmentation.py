"""Effects on dynamic mixtures: known responses, levels and bounds."""

import random

import numpy as np
import pytest

from sepclip.mixing.augmentation import coloured_noise, draw_equaliser, equalise, fade, telephone

RATE = 8000
rng = np.random.default_rng(5)


def tone(frequency, seconds=1.0, rate_hz=RATE):
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate_hz)) / rate_hz).astype(np.float32)


def level_db(wave):
    return 20 * np.log10(np.sqrt(np.square(wave[500:-500], dtype=np.float64).mean()))


def test_flat_equaliser_changes_nothing():
    wave = rng.normal(0, 0.1, 7001).astype(np.float32)
    np.testing.assert_allclose(equalise(wave, [3.0] * 6, RATE), wave, atol=1e-6)  # one gain for all is no colour


def test_equaliser_has_its_gains_at_its_frequencies():
    gains = [6.0, -6.0, 3.0, 0.0, -3.0, 1.0]
    both = tone(150) + tone(400)
    equal = equalise(both, gains, RATE)
    spectrum = np.abs(np.fft.rfft(equal)), np.abs(np.fft.rfft(both))
    change = [20 * np.log10(spectrum[0][f] / spectrum[1][f]) for f in (150, 400)]
    assert change[1] - change[0] == pytest.approx(9, abs=0.3)
    assert np.square(equal).mean() == pytest.approx(np.square(both).mean(), rel=1e-4)


def test_equaliser_stays_within_its_range():
    chance = random.Random(0)
    gains = np.array([draw_equaliser(chance, 6.0) for _ in range(200)])
    assert np.abs(gains).max() <= 6
    assert np.abs(gains).max() > 5.5


@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_telephone_passes_its_band_alone(rate_hz):
    for frequency, loss_db in ((1000, 0), (400, 0), (3000, 0), (100, 60), (3950, 60)):
        wave = tone(frequency, rate_hz=rate_hz)
        loss = level_db(wave) - level_db(telephone(wave, rate_hz))
        assert loss == pytest.approx(0, abs=0.1) if not loss_db else loss > 30


def test_telephone_is_linear_so_that_sources_add_up():
    waves = rng.normal(0, 0.1, (2, 5000)).astype(np.float32)
    mixed = telephone(waves.sum(0), RATE)
    np.testing.assert_allclose(mixed, telephone(waves, RATE).sum(0), atol=1e-6)


def test_coloured_noise_has_rms_1_and_slopes_from_white_to_brown():
    slopes = []
    for seed in range(40):
        noise = coloured_noise(random.Random(seed), 16384)
        assert np.sqrt(np.square(noise).mean()) == pytest.approx(1, rel=1e-5)
        power = np.square(np.abs(np.fft.rfft(noise)))
        low, high = power[64:128].mean(), power[2048:4096].mean()
        slopes.append(np.log(low / high) / np.log(32))
    assert min(slopes) > -0.3
    assert max(slopes) < 2.3
    assert max(slopes) - min(slopes) > 1


def test_fade_leaves_the_ends_of_the_wave_alone():
    wave = np.ones(100, np.float32)
    fade(wave, 0, 100, 10)
    assert wave.min() == 1
    fade(wave, 20, 80, 10)
    assert wave[20] < 0.1
    assert wave[79] < 0.1
    assert wave[35:65].min() == 1
    assert wave[:20].min() == 1
