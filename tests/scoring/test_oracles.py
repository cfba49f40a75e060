import numpy as np
import pytest
import soundfile

from sepclip.audio.stft import STFT
from sepclip.scoring import oracles
from sepclip.scoring.oracles import default_stft, oracle_estimates
from sepclip.scoring.ratios import Ratios
from sepclip.scoring.table import ORACLES
from tests.conftest import SPEECH

RATE = 8000


def voices(seconds=3.0):
    waves = [
        np.resize(soundfile.read(SPEECH / name / "0001.flac")[0], int(RATE * seconds)) for name in ("en-f", "ca-m")
    ]
    return np.stack(waves)[..., None]


def estimates(ref, mixture=None, stft=STFT()):
    mixture = ref.sum(0) if mixture is None else mixture
    return dict(oracle_estimates(list(ORACLES), mixture=mixture, ref=ref, stft=stft))


def test_the_better_mask_scores_higher():
    ref = voices()
    scores = {
        name: Ratios(est=estimate, ref=ref).score([(0, 0), (1, 1)], ("si_sdr",))["si_sdr"].mean()
        for name, estimate in estimates(ref).items()
    }
    # phase-sensitive before its cut, before those that leave the phase out (Erdogan et al. 2015)
    assert scores["psm"] > scores["tpsm"] > scores["wiener"] > scores["irm"] > 8


@pytest.mark.parametrize("name", ["irm", "wiener", "psm"])
def test_masks_add_up_to_the_mixture(name):
    ref = voices()
    np.testing.assert_allclose(estimates(ref)[name].sum(0), ref.sum(0), atol=1e-9)


def test_noise_is_taken_for_a_source_of_its_own():
    ref = voices()
    noise = np.random.default_rng(0).normal(0, 0.05, ref.shape[1:])
    noisy = estimates(ref, ref.sum(0) + noise)
    with_it = estimates(np.concatenate([ref, noise[None]]))
    for name in ORACLES:
        np.testing.assert_allclose(noisy[name], with_it[name][:2], atol=1e-9)


@pytest.mark.parametrize("stft", [STFT(), STFT(300, 100), default_stft(44100)])
def test_chunks_change_nothing(stft, monkeypatch):
    ref = voices()
    whole = estimates(ref, stft=stft)
    monkeypatch.setattr(oracles, "STRETCH", 7001)
    for name, estimate in estimates(ref, stft=stft).items():
        np.testing.assert_allclose(estimate, whole[name], atol=1e-6, err_msg=name)  # chunks are put together in float32


def test_the_default_window_is_about_32_ms():
    assert default_stft(8000) == STFT(256, 64)
    assert default_stft(44100) == STFT(1024, 256)
    assert default_stft(96000) == STFT(4096, 1024)
