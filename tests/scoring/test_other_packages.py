"""Scores of real voices separated by masks, held against the packages that others score with."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import resample_poly

from sepclip.audio.resample import resample
from sepclip.scoring.items import ScoreRow, ScoringPlan, Waves
from sepclip.scoring.museval_adapter import load_museval_metrics
from sepclip.scoring.oracles import default_stft, oracle_estimates
from sepclip.scoring.perceptual import score as perceptual_score
from sepclip.scoring.score_file import score_file
from tests.conftest import SPEECH

RATE = 8000
PAIRS = [("en-f", "ca-m"), ("fr-f", "ru-m"), ("en-f", "fr-f")]


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def separated(request):
    """Return references, estimates by a ratio mask of 16 ms in 16 bits (2, T), and the rows by either engine."""
    ref = np.stack([np.resize(soundfile.read(SPEECH / voice / "0002.flac")[0], 4 * RATE) for voice in request.param])
    given = {"mixture": ref.sum(0)[:, None], "ref": ref[..., None], "stft": default_stft(RATE // 2)}
    ((_, est),) = oracle_estimates(["irm"], **given)
    est = np.round(est[..., 0] * 32768) / 32768
    rows = {}
    for engine in ("museval", "fast"):
        rows[engine] = [ScoreRow("a", "s1"), ScoreRow("a", "s2")]
        waves = Waves(RATE, est=est[::-1, :, None], ref=ref[..., None], mixture=given["mixture"])
        score_file(rows[engine], waves, ScoringPlan(oracles=(), engine=engine))
    return ref, est, rows


def assert_scores(rows, name, want, tolerance):
    found = {engine: [row.scores[name] for row in of_engine] for engine, of_engine in rows.items()}
    for engine, values in found.items():
        np.testing.assert_allclose(values, want, rtol=0, atol=tolerance, err_msg=f"{name} by {engine}")


def test_v4_is_that_of_museval(separated):
    ref, est, rows = separated
    scores = load_museval_metrics().bss_eval(ref[..., None], est[..., None], window=RATE, hop=RATE)[:4]
    for name, windows in zip(("sdr", "isr", "sir", "sar"), scores, strict=True):
        assert_scores(rows, name, np.nanmedian(windows, 1), 1e-6)


def test_v3_is_that_of_mir_eval(separated):
    separation = pytest.importorskip("mir_eval.separation")
    ref, est, rows = separated
    *scores, _ = separation.bss_eval_sources(ref, est, compute_permutation=False)
    for name, want in zip(("bss_sdr", "bss_sir", "bss_sar"), scores, strict=True):
        assert_scores(rows, name, want, 5e-5)


def test_si_sdr_snr_and_v3_are_those_of_torchmetrics(separated):
    audio = pytest.importorskip("torchmetrics.functional.audio")
    ref, est, rows = separated
    both = torch.from_numpy(est), torch.from_numpy(ref)
    assert_scores(rows, "si_sdr", audio.scale_invariant_signal_distortion_ratio(*both, zero_mean=True), 1e-6)
    assert_scores(rows, "snr", audio.signal_noise_ratio(*both), 1e-6)
    # one at a time: torch 2.13 solves several systems at once wrongly on more than one thread of some CPUs
    filtered = [float(audio.signal_distortion_ratio(*pair)) for pair in zip(*both, strict=True)]
    assert_scores(rows, "bss_sdr", filtered, 5e-4)


def spoken(rate_hz, channels):
    """Return a voice at a rate, and the same with noise (T, C)."""
    ref = resample_poly(soundfile.read(SPEECH / "en-f" / "0003.flac")[0], rate_hz, RATE)[:, None]
    ref = ref * np.linspace(1, 0.5, channels)
    return ref, ref + np.random.default_rng(0).normal(0, 0.02, ref.shape)


def perceptual(metric, est, ref, rate_hz):
    (row,) = rows = [ScoreRow("a", "s1")]
    score_file(rows, Waves(rate_hz, est=est[None], ref=ref[None], mixture=2 * est - ref), ScoringPlan((metric,), ()))
    return row


CASES = [(8000, 1), (8000, 2), (16000, 1), (44100, 2)]


@pytest.mark.parametrize(("rate_hz", "channels"), CASES)
def test_pesq_is_that_of_its_package(rate_hz, channels):
    package = pytest.importorskip("pesq")
    ref, est = spoken(rate_hz, channels)
    rate, mode = (8000, "nb") if rate_hz == 8000 else (16000, "wb")

    def want(wave):
        at_rate = [resample(torch.from_numpy(one.T.astype(np.float32)), rate_hz, rate).numpy() for one in (ref, wave)]
        return np.mean([package.pesq(rate, truth, noisy, mode) for truth, noisy in zip(*at_rate, strict=True)])

    row = perceptual("pesq", est, ref, rate_hz)
    assert row.scores["pesq"] == pytest.approx(want(est), abs=1e-4)  # the package rounds to 16 bits
    assert row.scores["pesq_improvement"] == pytest.approx(want(est) - want(2 * est - ref), abs=1e-4)
    assert row.scores["pesq_improvement"] > 0
    short = perceptual("pesq", est[:1000], ref[:1000], rate_hz)
    assert (short.status, (short.reason or "")[:6]) == ("excluded", "PESQ: ")


@pytest.mark.parametrize(("rate_hz", "channels"), CASES)
def test_estoi_is_that_of_its_package(rate_hz, channels):
    package = pytest.importorskip("pystoi")
    ref, est = spoken(rate_hz, channels)

    def want(wave):
        scores = [package.stoi(*both, rate_hz, extended=True) for both in zip(ref.T, wave.T, strict=True)]
        return np.mean(scores)

    row = perceptual("estoi", est, ref, rate_hz)
    assert row.scores["estoi"] == pytest.approx(want(est), abs=1e-9)
    assert row.scores["estoi_improvement"] == pytest.approx(want(est) - want(2 * est - ref), abs=1e-9)
    assert 0 < row.scores["estoi_improvement"] < 1
    short = perceptual("estoi", est[: rate_hz // 8], ref[: rate_hz // 8], rate_hz)
    assert (short.status, (short.reason or "")[:24]) == ("excluded", "ESTOI: too little speech")


def plain_estoi(ref, est):
    """Return ESTOI at 10 kHz of sounds without pauses, written from the paper (Jensen and Taal 2016, section II)."""
    frames = []
    for wave in (ref, est):
        starts = range(0, len(wave) - 256, 128)
        spectra = [np.abs(np.fft.rfft(np.hanning(258)[1:-1] * wave[start : start + 256], 512)) for start in starts]
        # third octaves from 150 Hz: from one edge to the next, each at the nearest bin
        edges = [round(150 * 2 ** ((2 * band - 1) / 6) / 10_000 * 512) for band in range(16)]
        frames.append([[np.linalg.norm(one[low:high]) for low, high in itertools.pairwise(edges)] for one in spectra])
    correlations = []
    for first in range(len(frames[0]) - 29):
        units = []
        for wave in frames:
            segment = np.array(wave[first : first + 30])  # (30, 15)
            segment = segment - segment.mean(0)
            segment = segment / np.linalg.norm(segment, axis=0)
            segment = segment - segment.mean(1, keepdims=True)
            units.append(segment / np.linalg.norm(segment, axis=1, keepdims=True))
        correlations.append((units[0] * units[1]).sum(1).mean())
    return np.mean(correlations)


def test_estoi_equals_the_formula_of_its_paper_also_if_negative():
    pytest.importorskip("pystoi")
    rng = np.random.default_rng(3)
    noise, other = rng.standard_normal((2, 20_000))
    bumps = np.abs(np.sin(np.arange(20_000) * np.pi / 2500)) + 0.1  # in the first, where the second is quiet
    ref, opposite = noise * bumps, other * (1.2 - bumps)
    scores = {}
    for name, est in {"same": ref, "negated": -ref, "noisy": ref + other, "opposite": opposite}.items():
        scores[name] = perceptual_score("estoi", est=est[:, None], ref=ref[:, None], rate_hz=10_000)
        # pystoi's steps remove quiet frames by adding windows that overlap, which loses the first and the last half
        assert scores[name] == pytest.approx(plain_estoi(*tapered(ref, est)), abs=1e-9), name
    assert scores["same"] == pytest.approx(1)
    assert scores["negated"] == pytest.approx(1)
    assert scores["opposite"] < 0 < scores["noisy"] < 1


def tapered(*waves):
    """Return waves as the overlapping Hann windows of 256 samples, from which no frame is missing, add them."""
    window = np.hanning(258)[1:-1]
    result = []
    for wave in waves:
        total = np.zeros(len(wave))
        starts = range(0, len(wave) - 256, 128)
        for start in starts:
            total[start : start + 256] += window * wave[start : start + 256]
        result.append(total[: starts[-1] + 256])
    return result


def test_estoi_of_a_wrong_voice_is_a_number():
    pytest.importorskip("pystoi")
    voices = [soundfile.read(SPEECH / voice / "0002.flac")[0][: 3 * RATE, None] for voice in ("en-f", "ca-m", "fr-f")]
    length = min(map(len, voices))
    scores = []
    for ref in voices:
        for est in voices:
            if ref is not est:
                row = perceptual("estoi", est[:length], ref[:length], RATE)
                assert row.status == "ok"
                scores.append(row.scores["estoi"])
    assert min(scores) < 0  # pystoi's own value for too little speech is 1e-5


def test_estoi_neither_uses_nor_changes_the_global_generator():
    """An estimate that is zero for 1 s: its bands are constant there, and the added noise decides the score."""
    package = pytest.importorskip("pystoi")
    ref, est = (wave[: 3 * RATE] for wave in spoken(RATE, 1))
    est = np.concatenate([np.zeros((RATE, 1)), est[RATE:]])
    np.random.seed(5)
    state = np.random.get_state()[1].copy()
    with ThreadPoolExecutor(4) as pool:
        scores = set(pool.map(lambda _: perceptual_score("estoi", est=est, ref=ref, rate_hz=RATE), range(8)))
    assert len(scores) == 1
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    others = {package.stoi(ref[:, 0], est[:, 0], RATE, extended=True) for _ in range(3)}
    assert len(others) == 3  # pystoi itself uses it
    np.random.seed(0)
    assert scores == {package.stoi(ref[:, 0], est[:, 0], RATE, extended=True)}


def test_reasons_of_pesq_are_words():
    pytest.importorskip("pesq")
    ref, est = spoken(RATE, 1)
    for wave, reason in ((1e-39 * est, "silent in single precision"), (est[:1500], "shorter than 0.25 s")):
        row = perceptual("pesq", wave, ref[: len(wave)], RATE)
        assert row.status == "excluded"
        assert reason in row.reason
    # a mixture without a score costs only the improvement
    (row,) = rows = [ScoreRow("a", "s1")]
    waves = Waves(RATE, est=est[None], ref=ref[None], mixture=1e-39 * est)
    score_file(rows, waves, ScoringPlan(("pesq",), ()))
    assert row.scores["pesq"] > 1
    assert row.scores["pesq_improvement"] is None
    assert (row.status, row.reason[:20]) == ("partial", "PESQ of the mixture:")
