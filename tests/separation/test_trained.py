"""Separating from Python."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import sepclip
from sepclip.errors import UserError
from tests.conftest import SPEECH
from tests.conftest import sepclip as command


@pytest.fixture(scope="module")
def separator(tiny_run: Path) -> "sepclip.Separator":
    return sepclip.Separator.load(tiny_run, device="cpu", precision="fp32")


def test_separator_returns_what_the_command_writes(separator, tiny_run: Path, tmp_path: Path) -> None:
    wave, rate_hz = soundfile.read(SPEECH / "en-f" / "0000.flac", dtype="float32")
    soundfile.write(tmp_path / "in.wav", np.stack([wave, wave[::-1]], 1), rate_hz, subtype="FLOAT")
    process = command("separate", tiny_run, tmp_path / "in.wav", "--out", tmp_path, "--precision", "fp32")
    assert process.returncode == 0, process.stderr
    waves = separator.separate(np.stack([wave, wave[::-1]]), rate_hz)
    assert separator.names == ("s1", "s2")
    for name, estimate in zip(separator.names, waves, strict=True):
        np.testing.assert_allclose(soundfile.read(tmp_path / f"in_{name}.wav")[0].T, estimate, rtol=0, atol=1e-6)


def test_shape_and_kind_of_the_wave_are_kept(separator) -> None:
    wave = 0.1 * np.random.default_rng(0).normal(size=3000)
    mono, stereo = separator.separate(wave, 11025), separator.separate(torch.from_numpy(np.stack([wave, wave])), 11025)
    assert isinstance(mono, np.ndarray)
    assert (mono.dtype, mono.shape) == (np.float32, (2, 3000))
    assert (stereo.dtype, stereo.shape) == (torch.float32, (2, 2, 3000))
    np.testing.assert_allclose(stereo[:, 0].numpy(), mono, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "wave", [np.zeros((1, 1, 5)), np.zeros((0, 5)), np.zeros(0), np.full(5, np.nan), np.array([np.inf])]
)
def test_wrong_shapes_and_values_of_waves_raise(separator, wave: np.ndarray) -> None:
    with pytest.raises(UserError, match="wave"):
        separator.separate(wave, 8000)


def noise(samples: int = 3000) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.1, (2, samples)).clip(-1, 1)


def test_channels_last_gives_the_transposed_result(separator) -> None:
    stereo = noise()
    expected = separator.separate(stereo, 8000)  # (S, C, T)
    for wave in (stereo.T, torch.from_numpy(stereo.T)):
        result = separator.separate(wave, 8000, channels_last=True)  # (S, T, C)
        assert type(result) is type(wave)
        np.testing.assert_array_equal(np.swapaxes(np.asarray(result), 1, 2), expected)
    one_channel = separator.separate(stereo[:1].T, 8000, channels_last=True)
    assert one_channel.shape == (2, 3000, 1)
    mono = separator.separate(stereo[0], 8000, channels_last=True)
    np.testing.assert_array_equal(mono, one_channel[..., 0])


def test_layout_with_more_channels_than_samples_is_refused_with_the_remedy(separator) -> None:
    stereo = noise()
    with pytest.raises(UserError, match=r"3000 channels of 2 samples: pass channels_last=True"):
        separator.separate(stereo.T, 8000)
    with pytest.raises(UserError, match=r"3000 channels of 1 samples: pass channels_last=True"):
        separator.separate(torch.from_numpy(stereo[:1].T), 8000)
    with pytest.raises(UserError, match=r"3000 channels of 2 samples: pass channels_last=False"):
        separator.separate(stereo, 8000, channels_last=True)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "int32", ">i2", ">i4"])
def test_integers_are_scaled_to_full_scale(kind: str, separator) -> None:
    dtype = np.dtype(kind)
    steps, offset = 2.0 ** (8 * dtype.itemsize - 1), 128 if kind == "uint8" else 0
    integers = (np.rint(noise() * (steps - 1)) + offset).astype(dtype)
    floats = (integers.astype(np.float64) - offset) / steps
    expected = separator.separate(floats, 8000)
    result = separator.separate(integers, 8000)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected)
    if dtype.isnative:  # torch has no other byte order
        np.testing.assert_array_equal(separator.separate(torch.from_numpy(integers), 8000).numpy(), expected)


@pytest.mark.parametrize("kind", ["int64", "uint16", "bool", "complex64", "str", "object"])
def test_samples_without_a_full_scale_are_refused(kind: str, separator) -> None:
    with pytest.raises(UserError, match=r"pass floats in \[-1, 1\], or integers of int8"):
        separator.separate(np.zeros(3000).astype(kind), 8000)


def test_views_lists_and_other_floats_give_the_result_of_the_array(separator) -> None:
    wave = noise()[0].astype(np.float32)
    expected = separator.separate(wave, 8000)
    np.testing.assert_array_equal(separator.separate(wave[::-1].copy()[::-1], 8000), expected)
    np.testing.assert_array_equal(separator.separate(wave.tolist(), 8000), expected)
    np.testing.assert_array_equal(separator.separate(wave.astype(">f8"), 8000.0), expected)
    tensor = torch.from_numpy(wave).requires_grad_()
    np.testing.assert_array_equal(separator.separate(tensor, np.int64(8000)).numpy(), expected)
    assert separator.separate(torch.from_numpy(wave).bfloat16(), 8000).dtype == torch.float32


def test_path_instead_of_a_wave_is_refused_with_what_to_pass(separator, tmp_path: Path) -> None:
    for path in ("song.wav", tmp_path / "song.wav"):
        with pytest.raises(UserError, match=r"song\.wav.* is a path.*soundfile\.read.*channels_last=True"):
            separator.separate(path)


@pytest.mark.parametrize("rate_hz", [None, 0, -8000, 8000.5, float("nan"), "8000", True])
def test_wrong_rates_are_refused(rate_hz: object, separator) -> None:
    with pytest.raises(UserError, match="rate_hz is"):
        separator.separate(noise(), rate_hz)


def test_wrong_options_and_missing_runs_raise(tiny_run: Path, tmp_path: Path) -> None:
    for problem, options in (("--masks soft", {"masks": "soft"}), ("device", {"device": "cuda:99"})):
        with pytest.raises(UserError, match=problem):
            sepclip.Separator.load(tiny_run, **options)
    with pytest.raises(UserError, match="no such run"):
        sepclip.Separator.load(tmp_path / "none")
    with pytest.raises(AttributeError, match="Separators"):
        sepclip.Separators  # noqa: B018
