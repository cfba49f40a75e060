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


def test_wrong_options_and_missing_runs_raise(tiny_run: Path, tmp_path: Path) -> None:
    for problem, options in (("--masks soft", {"masks": "soft"}), ("device", {"device": "cuda:99"})):
        with pytest.raises(UserError, match=problem):
            sepclip.Separator.load(tiny_run, **options)
    with pytest.raises(UserError, match="no such run"):
        sepclip.Separator.load(tmp_path / "none")
    with pytest.raises(AttributeError, match="Separators"):
        sepclip.Separators  # noqa: B018
