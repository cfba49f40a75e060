import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from sepclip.scoring.bsseval import IllConditioned, decompose
from sepclip.scoring.museval_adapter import bsseval_frames, bsseval_whole
from tests.conftest import SPEECH

RATE = 8000


def speech(seconds=5.0, channels=1):
    """Return two real voices (2, T, C); the channels differ by gains and a delay, as in a room."""
    waves = [
        np.resize(soundfile.read(SPEECH / voice / "0000.flac")[0], int(RATE * seconds)) for voice in ("en-f", "ca-m")
    ]
    mono = np.stack(waves)
    chance = np.random.default_rng(3)
    if channels == 1:
        return mono[..., None]
    right = np.stack([0.5 * np.roll(mono[0], 3), 1.1 * np.roll(mono[1], 2)])
    return np.stack([mono, right], -1) + chance.normal(0, 1e-3, (2, mono.shape[1], 2))


def noise(like, size=0.005, seed=0):
    return np.random.default_rng(seed).normal(0, size, like.shape)


def assert_equal_to_museval(est, ref, rate_hz, tolerance=1e-6):
    found = decompose(est=est, ref=ref, rate_hz=rate_hz)
    for name, want in bsseval_frames(est=est, ref=ref, rate_hz=rate_hz).items():
        np.testing.assert_allclose(found.frames[name], want, rtol=0, atol=tolerance, err_msg=name)
    for name, want in bsseval_whole(est=est, ref=ref).items():
        np.testing.assert_allclose(found.whole[name], want, rtol=0, atol=tolerance, err_msg=name)


CASES = {
    "leak and noise": lambda ref: ref + 0.2 * ref[::-1] + noise(ref),
    "swapped": lambda ref: ref[::-1] + noise(ref),
    "negated and scaled": lambda ref: -0.3 * ref + noise(ref, 1e-3),
    "one sample late": lambda ref: np.roll(ref, 1, 1) + noise(ref, 1e-3),
    "the mixture and noise": lambda ref: ref.sum(0) + noise(ref, 1e-3),
    "noise alone": noise,
}


@pytest.mark.parametrize("case", CASES)
def test_scores_equal_museval_on_real_voices(case):
    ref = speech()  # longer than a block
    assert_equal_to_museval(CASES[case](ref), ref, RATE)


def test_scores_equal_museval_in_stereo():
    ref = speech(2.2, channels=2)
    assert_equal_to_museval(CASES["leak and noise"](ref), ref, RATE)


def test_scores_equal_museval_if_a_window_is_silent_or_cancels():
    ref = speech(3.0, channels=2)
    ref[0, :RATE] = 0
    ref[1, RATE : 2 * RATE, 1] = -ref[1, RATE : 2 * RATE, 0]
    est = ref + noise(ref)
    assert np.isnan(decompose(est=est, ref=ref, rate_hz=RATE).frames["sdr"][:, :2]).all()
    assert_equal_to_museval(est, ref, RATE)


def test_one_estimate_of_all_sources_is_that_estimate_for_each():
    ref = speech(2.0)
    mixture = ref.sum(0, keepdims=True) + noise(ref[:1])
    once, each = (decompose(est=est, ref=ref, rate_hz=RATE) for est in (mixture, np.repeat(mixture, 2, 0)))
    for part in ("frames", "whole"):
        for name, want in getattr(each, part).items():
            np.testing.assert_allclose(getattr(once, part)[name], want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["repeated", "panned", "band-limited"])
def test_references_that_depend_on_each_other_are_an_error(kind):
    ref = speech(2.0)
    if kind == "repeated":
        ref[1] = ref[0]
    elif kind == "panned":
        ref = np.concatenate([ref, 0.5 * ref], -1)
    else:
        ref = resample_poly(ref, 12, 1, axis=1)
    with pytest.raises(IllConditioned, match="depend on each other"):
        decompose(est=ref + noise(ref), ref=ref, rate_hz=RATE)


def test_isolated_impulses_have_known_scores():
    # further apart than the filters reach from both sides, so that each tap but one is 0
    own, leak, artefact = 0.8, 0.1, 0.05
    ref, est = np.zeros((2, 2, RATE, 1))
    first, second, third = 1000, 3000, 5000
    ref[0, first] = ref[1, second] = 1
    est[0, [first, second, third], 0] = own, leak, artefact
    est[1, [second, first, third], 0] = own, leak, artefact
    found = decompose(est=est, ref=ref, rate_hz=RATE)
    want = {
        "sdr": own**2 / (leak**2 + artefact**2),
        "sir": own**2 / leak**2,
        "sar": (own**2 + leak**2) / artefact**2,
    }
    for name, ratio in want.items():
        np.testing.assert_allclose(found.whole[name], 10 * np.log10(ratio), atol=1e-9)
    frames = {**want, "sdr": 1 / ((1 - own) ** 2 + leak**2 + artefact**2), "isr": 1 / (1 - own) ** 2}
    for name, ratio in frames.items():
        np.testing.assert_allclose(found.frames[name], 10 * np.log10(ratio), atol=1e-9)
    assert_equal_to_museval(est, ref, RATE, 1e-9)


def test_whole_file_scores_equal_mir_eval():
    separation = pytest.importorskip("mir_eval.separation")
    ref = speech(3.0)
    est = CASES["leak and noise"](ref)
    sdr, sir, sar, _ = separation.bss_eval_sources(ref[..., 0], est[..., 0], compute_permutation=False)
    found = decompose(est=est, ref=ref, rate_hz=RATE, frames=False)
    assert found.frames == {}
    for name, want in (("sdr", sdr), ("sir", sir), ("sar", sar)):
        np.testing.assert_allclose(found.whole[name], want, atol=5e-5)
