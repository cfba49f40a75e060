import math

import numpy as np
import pytest
from scipy import signal

from sepclip.audio.active_level import _band_pass, _envelope, active_level
from tests.mixing.conftest import samples, sentence

RATES = (8000, 16000)


def sine(rate, seconds, hertz=1000, amplitude=0.1):
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def decibels(power):
    return 10 * math.log10(power)


def bursts(rate, on, off, count):
    return np.concatenate([np.concatenate([sine(rate, on), np.zeros(round(off * rate))]) for _ in range(count)])


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("on", "off", "count"), [(30, 0, 1), (6, 6, 3), (4, 12, 3)])
def test_active_level_of_bursts_is_that_of_their_sine(rate, on, off, count):
    """Bursts are long: the hangover and the smoothing add at most 0.35 s to each, little of the active time."""
    wave = bursts(rate, on, off, count)
    want = decibels(0.1**2 / 2)
    lowered = decibels(on / (on + 0.45))  # the active time is at most this much longer
    assert want + lowered <= decibels(active_level(wave, rate)) <= want + 0.01
    assert decibels(np.square(wave).mean()) == pytest.approx(want + decibels(on / (on + off)), abs=0.01)


def slow_active_level(wave, rate):
    """Compute the definition sample by sample, at 8 kHz, without scipy's filters or the counting in bins."""
    padded = np.concatenate([wave, np.zeros(math.ceil(0.35 * rate))])
    speech = signal.sosfilt(_band_pass(rate), padded)
    pole, once, twice, envelope = math.exp(-1 / (0.03 * rate)), 0.0, 0.0, []
    for value in np.abs(speech):
        once = pole * once + (1 - pole) * value
        twice = pole * twice + (1 - pole) * once
        envelope.append(twice)
    length = math.ceil(0.2 * rate) + 1
    held = [max(envelope[max(0, place - length + 1) : place + 1]) for place in range(len(envelope))]
    top = math.floor(math.log2(max(held) ** 2))  # the highest power of two below the peak
    before = None
    for step in range(20):
        threshold = 2.0 ** (top - 1 - step + 1)
        active = sum(value**2 >= threshold for value in held) if step < 19 else len(held)
        if active == 0:
            continue
        level = decibels(np.square(speech).sum() / active)
        excess = level - decibels(threshold) - 15.9
        if before and before[1] < 0 <= excess:
            return 10 ** ((before[0] + (level - before[0]) * before[1] / (before[1] - excess)) / 10)
        before = level, excess
    raise AssertionError


def test_active_level_of_speech_agrees_with_a_slow_implementation():
    wave = samples(sentence("en-f"))[:16000] / 32768
    assert active_level(wave, 8000) == pytest.approx(slow_active_level(wave, 8000), rel=1e-9)


@pytest.mark.parametrize("rate", RATES)
def test_active_level_of_speech_is_above_its_rms_and_ignores_silence_around_it(rate):
    wave = samples(sentence("en-f")) / 32768
    wave = wave if rate == 8000 else signal.resample_poly(wave, 2, 1)
    level = active_level(wave, rate)
    assert 0 < decibels(level / np.square(wave).mean()) < 6
    around = np.concatenate([np.zeros(5 * rate), wave, np.zeros(5 * rate)])
    assert decibels(active_level(around, rate)) == pytest.approx(decibels(level), abs=0.1)


def test_active_level_follows_the_gain():
    wave = samples(sentence("it-f")) / 32768
    level = active_level(wave, 8000)
    for power in (-9, 3):  # thresholds are powers of two
        assert active_level(wave * 2.0**power, 8000) == pytest.approx(level * 4.0**power, rel=1e-12)
    for gain in (0.3, 0.77, -1, 5):
        assert decibels(active_level(wave * gain, 8000)) == pytest.approx(decibels(level * gain**2), abs=0.2)


def test_active_level_agrees_at_both_rates():
    wave = samples(sentence("it-f")) / 32768
    assert decibels(active_level(signal.resample_poly(wave, 2, 1), 16000)) == pytest.approx(
        decibels(active_level(wave, 8000)), abs=0.1
    )


@pytest.mark.parametrize(("rate", "hertz", "least", "most"), [
    (8000, 50, -99, -25), (8000, 200, -0.5, 0.1), (8000, 3500, -0.1, 0.1),
    (16000, 50, -99, -25), (16000, 5500, -0.5, 0.1), (16000, 7900, -99, -25),
])  # fmt: skip
def test_band_pass_is_200_hz_to_5500_hz(rate, hertz, least, most):
    _, response = signal.freqz_sos(_band_pass(rate), [hertz], fs=rate)
    assert least <= 20 * math.log10(abs(response[0])) <= most


def test_envelope_holds_for_two_tenths_of_a_second_and_never_looks_ahead():
    impulse = np.zeros(8000)
    impulse[100] = 1.0
    envelope = _envelope(impulse, 8000)
    peak = envelope.argmax()
    assert not envelope[:100].any()
    assert peak == pytest.approx(100 + 240, abs=2)  # two smoothers of 30 ms peak after one of them
    assert (envelope[peak : peak + 1600] == envelope[peak]).all()
    assert envelope[peak + 1700] < envelope[peak]


@pytest.mark.parametrize("rate", RATES)
def test_active_level_of_silence_and_short_signals(rate):
    assert active_level(np.zeros(0), rate) == active_level(np.zeros(rate), rate) == 0.0
    for length in (1, 2, 10, 100):
        assert 0 < active_level(np.ones(length), rate) < 1
    assert active_level(np.full(10, 1e-12), rate) > 0
