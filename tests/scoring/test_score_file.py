"""One file's scores, and the policy for each thing that can be wrong with it (docs/SCORES.md)."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from sepclip.scoring.items import ScoreRow, ScoringPlan, Waves
from sepclip.scoring.museval_adapter import bsseval_v4, bsseval_whole
from sepclip.scoring.score_file import score_file
from sepclip.scoring.table import METRICS
from tests.conftest import SPEECH

RATE = 8000
FAST = ScoringPlan(oracles=(), engine="fast")
FILTERED = [name for name, metric in METRICS.items() if metric.family in ("v4", "v3")]


def voices(count=2, seconds=2.0, channels=1):
    names = ("en-f", "ca-m", "fr-m")[:count]
    mono = np.stack([np.resize(soundfile.read(SPEECH / name / "0001.flac")[0], int(RATE * seconds)) for name in names])
    chance = np.random.default_rng(5)
    gains = np.linspace(0.6, 1.0, channels)
    return mono[..., None] * gains + (channels > 1) * chance.normal(0, 1e-3, (*mono.shape, channels))


def noise(like, size=0.01, seed=0):
    return np.random.default_rng(seed).normal(0, size, like.shape)


def scored(est, ref, plan=FAST, *, mixture=None, fixed_order=False):
    rows = [ScoreRow("a", f"s{index + 1}") for index in range(len(ref))]
    frames = score_file(
        rows,
        Waves(RATE, est=est, ref=ref, mixture=ref.sum(0) if mixture is None else mixture, fixed_order=fixed_order),
        plan,
    )
    assert all(value is None or np.isfinite(value) for row in rows for value in row.scores.values())
    return rows, frames


def good(ref):
    return ref + 0.1 * np.roll(ref, 1, 0) + noise(ref)


@pytest.fixture(scope="module")
def usual():
    return scored(good(voices()), voices())[0]


def test_museval_and_the_fast_engine_give_the_same_rows(usual):
    rows, _ = scored(good(voices()), voices(), replace(FAST, engine="museval"))
    for row, fast in zip(rows, usual, strict=True):
        assert (row.status, row.reason, row.notes) == (fast.status, fast.reason, fast.notes) == ("ok", None, [])
        assert row.scores == pytest.approx(fast.scores, abs=1e-6)


def test_every_improvement_is_over_the_same_score_of_the_mixture(usual):
    ref = voices()
    mixture = ref.sum(0)
    mixed = np.broadcast_to(mixture, ref.shape)
    before = {**bsseval_v4(est=mixed, ref=ref, rate_hz=RATE)}
    before |= {f"bss_{name}": values for name, values in bsseval_whole(est=mixed, ref=ref).items()}
    for index, row in enumerate(usual):
        for name in FILTERED:
            if METRICS[name].improves:
                want = row.scores[name] - before[name][index]
                assert row.scores[f"{name}_improvement"] == pytest.approx(want, abs=1e-6), name
        assert row.scores["input_snr"] == pytest.approx(row.scores["snr"] - row.scores["snr_improvement"], abs=1e-9)
        assert not [name for name in row.scores if "sar_improvement" in name]


@pytest.mark.parametrize("order", [(1, 0), (0, 1)])
def test_voices_are_paired_and_stems_are_not(order, usual):
    est = good(voices())[list(order)]
    assert [row.scores for row in scored(est, voices())[0]] == [row.scores for row in usual]
    fixed = scored(est, voices(), fixed_order=True)[0]
    assert (fixed[0].scores == usual[0].scores) == (order == (0, 1))
    assert order == (0, 1) or fixed[0].scores["si_sdr"] < 0


KNOWN = {  # estimate of a voice: what it scores, None for infinite
    "perfect": (lambda ref: ref, dict.fromkeys(("si_sdr", "snr", "sd_sdr", "sdr", "bss_sdr"))),
    "half": (lambda ref: ref / 2, {"si_sdr": None, "snr": 6.0206, "sdr": 6.0206, "sd_sdr": 0.0, "bss_sdr": None}),
    "negated": (lambda ref: -ref, {"si_sdr": None, "snr": -6.0206, "sdr": -6.0206, "sd_sdr": -6.0206, "bss_sdr": None}),
}


@pytest.mark.parametrize("case", KNOWN)
def test_scaled_and_negated_estimates_give_what_the_definitions_say(case):
    make, want = KNOWN[case]
    row = scored(make(voices()), voices())[0][0]
    assert row.status == "perfect"
    for name, value in want.items():
        assert row.scores[name] == (value if value is None else pytest.approx(value, abs=1e-3)), name


def test_one_sample_late_is_nothing_to_filters_and_much_to_si_sdr():
    ref = voices()
    ref[:, -600:] = 0  # so that nothing is lost at the end
    row = scored(np.roll(ref, 1, 1) + noise(ref, 1e-5), ref)[0][0]
    assert row.scores["bss_sdr"] > row.scores["si_sdr"] + 25
    assert row.scores["snr"] < 20


def test_noise_is_sar_and_leak_is_sir():
    ref = voices()
    noisy, leaky = (
        scored(est, ref)[0][0].scores for est in (ref + noise(ref, 1e-3), ref + 0.1 * ref[::-1] + noise(ref, 1e-6))
    )
    for kind in ("si_", "bss_"):  # in a window of 1 s, filters of 512 taps find much of the noise in the other source
        assert noisy[f"{kind}sir"] > noisy[f"{kind}sar"] + 10
    for kind in ("si_", "", "bss_"):
        assert leaky[f"{kind}sar"] > leaky[f"{kind}sir"] + 10


def test_a_silent_reference_changes_nothing_for_the_others(usual):
    ref = np.concatenate([voices(), np.zeros((1, *voices().shape[1:]))])
    est = np.concatenate([good(voices()), noise(ref[:1], 1e-3)])
    rows, _ = scored(est, ref)
    assert (rows[2].status, rows[2].reason) == ("excluded", "silent reference")
    for row, want in zip(rows, usual, strict=False):
        assert (row.status, row.reason) == ("ok", None)
        assert row.scores == pytest.approx(want.scores, abs=1e-9)


@pytest.mark.parametrize("engine", ["museval", "fast"])
def test_a_silent_estimate_changes_nothing_for_the_others(engine, usual):
    est = good(voices())
    est[1] = 0
    rows, frames = scored(est, voices(), replace(FAST, engine=engine))
    assert np.isnan(frames["sdr"]).tolist() == [[False] * 2, [True] * 2]
    assert (rows[1].status, rows[1].reason) == ("excluded", "silent estimate")
    assert rows[1].scores["sdr"] is None
    assert rows[0].status == "ok"
    assert rows[0].scores == pytest.approx(usual[0].scores, abs=1e-6)


@pytest.mark.parametrize("part", ["est", "ref", "mixture"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_or_infinity_excludes_the_file(part, value):
    waves = {"est": good(voices()), "ref": voices(), "mixture": voices().sum(0)}
    waves[part][..., 77, 0] = value
    rows, _ = scored(waves["est"], waves["ref"], mixture=waves["mixture"])
    wanted = "NaN or infinite estimate" if part == "est" else "NaN or infinite reference or mixture"
    assert [(row.status, row.reason) for row in rows] == [("excluded", wanted)] * 2


@pytest.mark.parametrize("engine", ["museval", "fast"])
def test_channels_that_cancel_are_not_silent(engine):
    ref = voices(channels=2)
    ref[0, :, 1] = -ref[0, :, 0]
    est = good(ref)
    with pytest.raises(ValueError, match="non-silent"):
        bsseval_v4(est=est, ref=ref, rate_hz=RATE)
    rows, _ = scored(est, ref, ScoringPlan(FILTERED, (), engine))
    assert all("channels cancel" in row.notes[0] and row.status == "ok" for row in rows)
    # the same with the second channel's sign turned everywhere, which changes no energy
    signs = np.array([1.0, -1.0])
    want, _ = scored(est * signs, ref * signs, ScoringPlan(FILTERED, (), engine))
    for row, plain in zip(rows, want, strict=True):
        assert not any("channels cancel" in note for note in plain.notes)
        assert row.scores == pytest.approx(plain.scores, abs=1e-6)


def test_references_that_depend_on_each_other_are_left_to_museval():
    ref = voices()
    ref[1] = ref[0]
    est = ref + noise(ref)
    fast, plain = (scored(est, ref, ScoringPlan(("sdr", "sir"), (), engine))[0] for engine in ("fast", "museval"))
    assert "scored by museval" in fast[0].notes[0]
    assert [row.scores for row in fast] == [row.scores for row in plain]
    blocks = scored(est, ref, ScoringPlan(("snr", "sdr"), (), in_blocks=True))[0]
    assert blocks[0].reason == "BSSEval: the references depend on each other"
    assert blocks[0].status == "partial"


def test_windows_are_returned_for_the_museval_files():
    rows, frames = scored(good(voices())[::-1], voices())
    assert set(frames) == {"sdr", "isr", "sir", "sar"}
    for name, values in frames.items():
        assert values.shape == (2, 2)
        assert np.median(values, 1) == pytest.approx([row.scores[name] for row in rows])


@pytest.mark.parametrize("engine", ["museval", "fast"])
def test_a_silent_second_swaps_nothing_and_is_noted(engine):
    # museval, asked for the best permutation, gives the identity as soon as one window has no score
    ref = voices(seconds=3)
    ref[0, :RATE] = 0
    est = good(ref)
    rows, frames = scored(est[::-1], ref, replace(FAST, engine=engine))
    want, _ = scored(est, ref, replace(FAST, engine=engine))
    assert np.isnan(frames["sdr"]).tolist() == [[True, False, False]] * 2
    for row, other in zip(rows, want, strict=True):
        assert row.notes == ["windows of 1 s in which a source or estimate is silent left out of v4 (1 of 3)"]
        assert row.scores["sdr"] > 5  # swapped, it would be below 0
        assert row.scores == other.scores
