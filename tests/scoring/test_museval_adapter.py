import numpy as np
import pytest

from sepclip.scoring.museval_adapter import SCORES, bsseval_v4, window_sdr
from tests.audio.fresh import broken, not_installed, python

RATE = 2000  # Hz: windows of 2000 samples hold museval's 512-tap filters and are fast
SCORE = """
import sys, numpy as np
from sepclip.scoring.museval_adapter import bsseval_v4, load_museval_metrics
ref = np.random.default_rng(0).standard_normal((2, 2000, 1))
print(load_museval_metrics().__name__, bsseval_v4(est=ref / 2, ref=ref, rate_hz=2000)["sdr"].round(3))
"""
LOAD = """
from sepclip.scoring.museval_adapter import *
try: load_museval_metrics()
except UserError as error: print(error)
"""


def waves(seconds=3.0, channels=1, seed=0):
    return np.random.default_rng(seed).standard_normal((2, int(RATE * seconds), channels))


def test_half_the_gain_is_6_db_of_sdr_and_isr_and_nothing_else():
    scores = bsseval_v4(est=waves() / 2, ref=waves(), rate_hz=RATE)
    half = 20 * np.log10(2)
    np.testing.assert_allclose([scores["sdr"], scores["isr"]], half, atol=1e-6)
    assert min(scores["sir"].min(), scores["sar"].min()) > 100  # the filters find no other source, no artefact


def test_a_leak_of_another_source_is_sir_and_not_sar():
    ref = waves()
    scores = bsseval_v4(est=ref + 0.1 * ref[::-1], ref=ref, rate_hz=RATE)
    np.testing.assert_allclose([scores["sdr"], scores["sir"]], 20, atol=0.5)  # 1 s of noise is not exactly unit
    assert scores["sar"].min() > 100


@pytest.mark.parametrize("db", [-10, 0, 20])
def test_sdr_is_the_ratio_to_the_error_in_the_median_window(db):
    # each window's error is made of its own reference; the windows score 90 dB, db and -60 dB
    ref = waves()
    gains = 10 ** (-np.array([90, db, -60]).reshape(1, 3, 1) / 20)
    error = (np.roll(ref.reshape(2, 3, -1), 777, axis=-1) * gains).reshape(ref.shape)
    for score in (window_sdr, lambda **given: bsseval_v4(**given)["sdr"]):
        np.testing.assert_allclose(score(est=ref + error, ref=ref, rate_hz=RATE), db, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("seconds", [1, 3.7])
def test_window_sdr_is_the_sdr_of_museval(seconds, channels):
    ref, error = waves(seconds, channels), waves(seconds, channels, seed=1)
    error *= np.linspace(0.05, 1, ref.shape[1])[:, None]  # windows differ, so that the median is of something
    want = bsseval_v4(est=ref + error, ref=ref, rate_hz=RATE)["sdr"]
    np.testing.assert_allclose(window_sdr(est=ref + error, ref=ref, rate_hz=RATE), want, rtol=1e-9)


@pytest.mark.parametrize("anti_phase", [False, True])
@pytest.mark.parametrize("side", ["est", "ref"])
def test_a_silent_window_of_one_source_counts_for_none(side, anti_phase):
    given = {"ref": waves(channels=2), "est": waves(channels=2) + np.linspace(0.1, 1, 3 * RATE)[:, None]}
    if anti_phase:  # museval takes the sum of the channels for silent
        given[side][0, :RATE, 1] = -given[side][0, :RATE, 0]
    else:
        given[side][0, :RATE] = 0
    later = {name: wave[:, RATE:] for name, wave in given.items()}
    want = window_sdr(**later, rate_hz=RATE)
    np.testing.assert_allclose(bsseval_v4(**given, rate_hz=RATE)["sdr"], want, rtol=1e-9)
    np.testing.assert_allclose(window_sdr(**given, rate_hz=RATE), want, rtol=1e-9)


def test_sources_without_a_common_window_have_no_score():
    ref = waves(2)
    ref[0, :RATE] = 0
    ref[1, RATE:] = 0
    assert np.isnan(window_sdr(est=waves(2, seed=1), ref=ref, rate_hz=RATE)).all()
    scores = bsseval_v4(est=waves(2, seed=1), ref=ref, rate_hz=RATE)
    assert all(np.isnan(scores[name]).all() for name in SCORES)


def test_sources_are_not_permuted():
    scores = bsseval_v4(est=waves()[::-1], ref=waves(), rate_hz=RATE)
    np.testing.assert_allclose(scores["sdr"], -3, atol=0.5)  # two of equal power: -10 log10(2)


@pytest.mark.parametrize("score", [bsseval_v4, window_sdr])
def test_less_than_a_second_has_no_window(score):
    with pytest.raises(ValueError, match=r"shorter than 1 s \(0\.90 s\)"):
        score(est=waves(0.9), ref=waves(0.9), rate_hz=RATE)


@pytest.mark.parametrize("silent", ["est", "ref"])
def test_a_silent_reference_or_estimate_is_an_error(silent):
    with pytest.raises(ValueError, match="should be non-silent"):
        bsseval_v4(**{"est": waves(), "ref": waves(), silent: waves() * [[[1]], [[0]]]}, rate_hz=RATE)


def test_museval_scores_without_ffmpeg():
    assert python(SCORE, PATH="").endswith("[6.021 6.021]")


def test_the_musdb_reader_is_not_imported():
    # it would take more than a second in every process, and raises without ffmpeg
    heavy = "print([n for n in sys.modules if n.split('.')[0] in ('museval', 'musdb', 'stempeg', 'pandas')])"
    printed = python(broken("musdb", "RuntimeError") + SCORE + heavy)
    assert printed.split("\n") == ["sepclip_museval_metrics [6.021 6.021]", "[]"]


def test_a_museval_without_its_metrics_is_an_error(tmp_path):
    (tmp_path / "museval").mkdir()
    (tmp_path / "museval/__init__.py").touch()
    code = LOAD
    assert "pip install --force-reinstall museval" in python(code, first=tmp_path)


def test_missing_museval_is_an_error():
    code = LOAD
    assert python(not_installed("museval") + code) == "museval is not installed: pip install museval"
