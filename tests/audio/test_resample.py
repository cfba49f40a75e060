import math

import pytest
import torch

from sepclip.audio.resample import _resample_by_table, resample
from tests.audio.fresh import broken, not_installed, python

RESAMPLE = """
import torch
from sepclip.audio.resample import load_torchaudio, resample
from sepclip.errors import UserError
try: print([round(x, 3) for x in resample(torch.ones(1000), 8000, 16000)[999:1001].tolist()])
except UserError as error: print(error)
"""


def sine(hertz, rate_hz, seconds=1.0):
    return torch.sin(2 * math.pi * hertz * torch.arange(int(rate_hz * seconds), dtype=torch.float64) / rate_hz)


@pytest.mark.parametrize(("low", "high"), [(8000, 16000), (11025, 44100), (44100, 48000), (8000, 44100)])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.85])
def test_resampling_keeps_a_sine_below_the_band_edge(low, high, share):
    hertz = share * low / 2
    edge = 400  # samples near the ends, where the filter reaches the zeros beyond
    for from_hz, to_hz in ((low, high), (high, low)):
        error = resample(sine(hertz, from_hz), from_hz, to_hz) - sine(hertz, to_hz)
        assert error[edge:-edge].abs().max() < 1e-6


@pytest.mark.parametrize("hertz", [4050, 4500, 7900])
def test_alias_is_below_100_db(hertz):
    alias = resample(sine(hertz, 16000), 16000, 8000)[400:-400]
    assert 20 * math.log10(alias.square().mean().sqrt() * 2**0.5) < -100


@pytest.mark.parametrize(("from_hz", "to_hz"), [(8000, 16000), (16000, 8000), (44100, 8000), (8000, 11025), (7, 5)])
@pytest.mark.parametrize("samples", [1, 2, 3, 10, 1001])
def test_length_is_rounded_up(samples, from_hz, to_hz):
    assert resample(torch.ones(samples), from_hz, to_hz).shape == (math.ceil(samples * to_hz / from_hz),)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(44101, 8000), (8000, 44101), (22254, 8000), (44099, 48000)])
def test_odd_rates_keep_a_sine_and_have_no_alias(from_hz, to_hz):
    for share in (0.02, 0.4, 0.85):
        hertz = share * min(from_hz, to_hz) / 2
        got = resample(sine(hertz, from_hz).float(), from_hz, to_hz)
        assert len(got) == to_hz
        assert (got - sine(hertz, to_hz))[1000:-1000].abs().max() < 2e-6
    if from_hz > 2 * to_hz:
        alias = resample(sine(0.6 * to_hz, from_hz), from_hz, to_hz)[400:-400]
        assert 20 * math.log10(alias.square().mean().sqrt() * 2**0.5) < -100


@pytest.mark.parametrize(("from_hz", "to_hz"), [(44100, 8000), (8000, 11025)])
def test_table_of_phases_equals_the_filter_bank(from_hz, to_hz):
    waves = torch.randn(2, 3, 5000, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(
        _resample_by_table(waves, from_hz, to_hz), resample(waves, from_hz, to_hz), atol=2e-6, rtol=0
    )


def test_equal_rates_and_empty_waves_are_returned_unchanged():
    wave = torch.randn(2, 10)
    assert torch.equal(resample(wave, 8000, 8000), wave)
    assert resample(torch.zeros(2, 0), 8000, 44100).shape == (2, 0)


def test_channels_do_not_mix_in_any_memory_layout():
    waves = torch.randn(50, 3, 2, generator=torch.Generator().manual_seed(0)).permute(2, 1, 0)  # (2, 3, 50)
    got = resample(waves, 8000, 16000)
    assert got.shape == (2, 3, 100)
    torch.testing.assert_close(got[1, 2], resample(waves[1, 2].clone(), 8000, 16000))


def test_resample_works_with_the_installed_torchaudio():
    assert python(RESAMPLE) == "[1.0, 1.0]"


def test_resample_works_without_the_compiled_part():
    assert python(broken("torchaudio._extension", "OSError") + RESAMPLE) == "[1.0, 1.0]"


def test_normal_import_is_tried_first(tmp_path):
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio/__init__.py").write_text("from . import functional")
    (tmp_path / "torchaudio/functional.py").write_text("def resample(wave, *_, **__): return wave.repeat(2) + 41")
    assert python(RESAMPLE, first=tmp_path) == "[42.0, 42.0]"


def test_missing_torchaudio_is_reported():
    assert python(not_installed("torchaudio") + RESAMPLE) == "torchaudio is not installed: pip install torchaudio"


def test_unusable_torchaudio_is_reported(tmp_path):
    (tmp_path / "torchaudio.py").write_text("raise OSError('no libcudart')")
    printed = python(RESAMPLE, first=tmp_path)
    assert printed.startswith("torchaudio cannot be imported beside this torch (no libcudart): install")
