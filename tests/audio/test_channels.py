"""One channel of several: the mean, unless the channels cancel in it, and without a constant offset."""

import numpy as np
import pytest
import soundfile

from sepclip.audio import mono
from sepclip.audio.channels import ChannelMeter, mono_at_rate, one_channel
from sepclip.audio.mono import MonoSound

RATE = 8000
rng = np.random.default_rng(0)


def talk(seconds=4.0, level=0.1):
    """Return noise that comes and goes, as speech does."""
    count = round(seconds * RATE)
    return (level * rng.standard_normal(count) * (np.sin(np.arange(count) * 2 * np.pi * 2 / RATE) > 0)).astype("f4")


def measured(*channels, block=10**9):
    meter, samples = ChannelMeter(len(channels), RATE), np.stack(channels)
    for start in range(0, samples.shape[1], block):
        meter.add(samples[:, start : start + block])
    return meter


def noise(level, like):
    return (level * rng.standard_normal(len(like))).astype("f4")


@pytest.mark.parametrize("noise_db", [-200, -60, -30, -12])
def test_one_channel_is_taken_if_the_channels_cancel_up_to_noise(noise_db):
    voice = talk()
    level = float(voice.std()) * 10 ** (noise_db / 20)
    assert measured(voice + noise(level, voice), -voice + noise(level, voice)).channel == 0


def test_the_louder_channel_is_taken_if_it_is_clearly_louder():
    voice = talk()
    assert measured(0.5 * voice, -voice).channel == 1
    assert measured(0.9 * voice, -voice).channel == 0
    assert measured(np.zeros_like(voice), voice, -voice, np.zeros_like(voice)).channel == 1


@pytest.mark.parametrize("block", [999, RATE, 10**9])
def test_channels_that_cancel_for_a_part_of_the_time_count(block):
    voice = talk(10)
    other = np.where(np.arange(len(voice)) < 7 * RATE, voice, -voice)
    assert measured(voice, other, block=block).channel == 0


def test_the_mean_is_taken_of_all_other_channels():
    voice, other, silence = talk(), talk(), np.zeros(4 * RATE, np.float32)
    for channels in ([voice], [voice, voice], [voice, silence], [voice, other], [voice, -0.4 * voice + other]):
        assert measured(*channels).channel is None
    assert measured(silence, silence).channel is None
    assert measured(*[silence] * 5, voice).channel is None  # six channels, one of them used
    assert measured(silence[:0], silence[:0]).channel is None


def test_an_offset_neither_hides_that_channels_cancel_nor_looks_like_it():
    voice = talk()
    assert measured(voice + 0.3, 0.3 - voice).channel == 0
    assert measured(voice + 0.3, voice - 0.3).channel is None


@pytest.mark.parametrize(("offset", "removed"), [(0.3, True), (-0.05, True), (0.02, False), (0.0, False)])
def test_an_offset_is_removed_if_it_changes_the_level(offset, removed):
    voice = talk()
    voice -= voice.mean()
    dc = measured(voice + np.float32(offset)).dc
    assert dc == (pytest.approx(offset, abs=1e-4) if removed else None)
    assert measured(0.05 * voice + np.float32(offset)).dc == (pytest.approx(offset, abs=1e-4) if offset else None)


def test_the_offset_is_that_of_the_channel_that_is_taken():
    voice = talk()
    meter = measured(voice + np.float32(0.3), -voice - np.float32(0.1))
    assert meter.dc == pytest.approx(0.3 + voice.mean(), abs=1e-4)
    taken = one_channel(np.stack([voice + np.float32(0.3), -voice]), meter.channel, meter.dc)
    assert taken == pytest.approx(voice - voice.mean(), abs=1e-4)


@pytest.mark.parametrize("rate_hz", [8000, 11025, 44100])
def test_a_long_file_gives_the_samples_of_a_short_one(tmp_path, monkeypatch, rate_hz):
    wave = 0.1 * rng.standard_normal((5 * rate_hz, 2)).astype("f4")
    wave[:, 1] = -wave[:, 0]
    soundfile.write(tmp_path / "a.wav", wave + 0.1, rate_hz, subtype="FLOAT")
    whole = MonoSound(tmp_path / "a.wav")
    monkeypatch.setattr(mono, "_BLOCK_VALUES", 30_000)
    monkeypatch.setattr(mono, "_WHOLE_VALUES", 60_000)
    blocks = MonoSound(tmp_path / "a.wav")
    assert (blocks.samples, blocks.channel, blocks.digest()) == (5 * rate_hz, 0, whole.digest())
    assert blocks.dc == pytest.approx(whole.dc)
    expected = mono_at_rate(wave.T + np.float32(0.1), rate_hz, 8000, 0, whole.dc)
    assert np.array_equal(np.concatenate(list(whole.at_rate(8000))), expected)
    assert np.concatenate(list(blocks.at_rate(8000))) == pytest.approx(expected, abs=1e-6)
    assert len(list(blocks.at_rate(8000))) > 2
