import numpy as np
import pytest
import torch

from sepclip.audio.si_sdr import pairwise_si_sdr
from sepclip.scoring import ratios
from sepclip.scoring.ratios import Ratios

ALL = ("snr", "sd_sdr", "si_sdr", "si_sir", "si_sar")
OWN = [(0, 0), (1, 1)]


def waves(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_scores_have_golden_values():
    ref, est = np.array([[1, -1, 2, -2.0]])[..., None], np.array([[1, -0.5, 2, -1.5]])[..., None]
    found = Ratios(est=est, ref=ref).score([(0, 0)], ALL)
    assert found["si_sdr"] == pytest.approx(24.608978, abs=1e-6)
    assert found["snr"] == pytest.approx(13.010300, abs=1e-6)
    assert found["sd_sdr"] == pytest.approx(13.010300 + 20 * np.log10(0.85), abs=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
def test_si_sdr_is_that_of_training(channels):
    ref, error = waves(2, 90001, channels), waves(2, 90001, channels, seed=1)  # more than a block
    est = ref[::-1] + 0.3 * error + 0.2
    flat = [torch.from_numpy(np.ascontiguousarray(wave)).reshape(1, 2, -1) for wave in (est, ref)]
    want = pairwise_si_sdr(est=flat[0], ref=flat[1])[0]
    np.testing.assert_allclose(Ratios(est=est, ref=ref).pairwise_si_sdr(), want, atol=1e-9)


def test_blocks_change_nothing(monkeypatch):
    ref, est = waves(2, 5000, 2), waves(2, 5000, 2, seed=1)
    whole = Ratios(est=est, ref=ref).score(OWN, ALL)
    monkeypatch.setattr(ratios, "_BLOCK", 777)
    for name, values in Ratios(est=est, ref=ref).score(OWN, ALL).items():
        np.testing.assert_allclose(values, whole[name], atol=1e-9)


def test_scores_equal_torchmetrics():
    audio = pytest.importorskip("torchmetrics.functional.audio")
    ref, est = waves(2, 8000), waves(2, 8000, seed=1) * 0.1
    est += ref
    found = Ratios(est=est[..., None], ref=ref[..., None]).score(OWN, ALL)
    both = torch.from_numpy(est), torch.from_numpy(ref)
    want = audio.scale_invariant_signal_distortion_ratio(*both, zero_mean=True)
    np.testing.assert_allclose(found["si_sdr"], want, atol=1e-6)
    np.testing.assert_allclose(found["snr"], audio.signal_noise_ratio(*both), atol=1e-6)


def orthogonal():
    """Return two sources and an artefact, orthogonal, of energy 1 and without means (3, 6, 1)."""
    rows = np.array([[1, -1, 0, 0, 0, 0], [0, 0, 1, -1, 0, 0], [0, 0, 0, 0, 1, -1]]) / np.sqrt(2)
    return rows[..., None]


def test_interference_and_artefacts_are_separate_scores():
    first, second, artefact = orthogonal()
    est = np.stack([0.8 * first + 0.1 * second + 0.05 * artefact, second])
    found = Ratios(est=est, ref=np.stack([first, second])).score([(0, 0)], ALL)
    want = {
        "snr": 1 / (0.2**2 + 0.1**2 + 0.05**2),
        "sd_sdr": 0.8**2 / (0.2**2 + 0.1**2 + 0.05**2),
        "si_sdr": 0.8**2 / (0.1**2 + 0.05**2),
        "si_sir": 0.8**2 / 0.1**2,
        "si_sar": 0.8**2 / 0.05**2,
    }
    for name, ratio in want.items():
        assert found[name] == pytest.approx(10 * np.log10(ratio), abs=1e-9), name


def test_a_repeated_or_silent_reference_adds_nothing():
    first, second, artefact = orthogonal()
    est = (0.8 * first + 0.1 * second + 0.05 * artefact)[None]
    want = Ratios(est=est, ref=np.stack([first, second])).score([(0, 0)], ALL)
    for more in (second, 0 * second):
        found = Ratios(est=est, ref=np.stack([first, second, more])).score([(0, 0)], ALL)
        for name in ALL:
            assert found[name] == pytest.approx(want[name], abs=1e-9), name


def test_silence_has_no_score_and_perfection_an_infinite_one():
    ref = waves(2, 500, 1)
    found = Ratios(est=np.stack([ref[0], 0 * ref[1]]), ref=ref).score(OWN, ALL)
    for name in ALL:
        assert np.isposinf(found[name][0])
        assert np.isnan(found[name][1])
    constant = Ratios(est=np.full_like(ref, 0.1), ref=ref).score(OWN, ALL)
    assert np.isnan(constant["si_sdr"]).all()
    assert np.isfinite(constant["snr"]).all()
