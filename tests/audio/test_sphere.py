"""SPHERE files compressed by shorten, as the LDC delivers WSJ0, decoded by the real ffmpeg."""

import shutil

import numpy as np
import pytest

from sepclip.audio.files import BadSound
from sepclip.audio.sphere import ShortenHeader, read_speech, shorten_header
from tests.audio.shorten import write_compressed

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def noise(samples):
    return np.rint(3000 * np.random.default_rng(samples).standard_normal(samples)).astype(np.int16)


@needs_ffmpeg
@pytest.mark.parametrize("version", ["v1.09", "v2.00"])
@pytest.mark.parametrize("samples", [1, 100, 256, 20000])
def test_decoded_samples_equal_the_original(tmp_path, version, samples):
    wave = noise(samples)
    path = write_compressed(tmp_path / "a.wv1", wave, version)
    assert path.stat().st_size < 1100 + 2 * samples
    assert shorten_header(path) == ShortenHeader(samples, 16000, 1)
    sound = read_speech(path)
    assert (sound.rate_hz, sound.samples.dtype) == (16000, np.float32)
    assert np.array_equal(sound.samples, wave[None] / np.float32(32768))
    assert np.array_equal(read_speech(path, start=50, frames=30).samples[0] * 32768, wave[50:80])


@needs_ffmpeg
def test_full_scale_and_silence_are_decoded(tmp_path):
    wave = np.repeat(np.array([0, 32767, -32768, 0], np.int16), 300)
    assert np.array_equal(read_speech(write_compressed(tmp_path / "a.wv1", wave)).samples[0] * 32768, wave)


@needs_ffmpeg
@pytest.mark.parametrize("samples", [19999, 20001, 10**12])
def test_wrong_sample_count_in_the_header_is_reported(tmp_path, samples):
    path = write_compressed(tmp_path / "a.wv1", noise(20000), samples=samples)
    with pytest.raises(BadSound, match="promises another number of samples"):
        read_speech(path)


@needs_ffmpeg
def test_damaged_file_is_reported(tmp_path):
    path = write_compressed(tmp_path / "a.wv1", noise(20000))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(BadSound, match="promises another number of samples"):
        read_speech(path)
    path.write_bytes(path.read_bytes()[:1024] + b"nothing of the kind" * 50)
    with pytest.raises(BadSound):
        read_speech(path)
