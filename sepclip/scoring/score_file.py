"""The scores of one separated file, with a policy for whatever cannot be scored (docs/SCORES.md)."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sepclip.audio.arrays import FloatWaves
from sepclip.scoring import perceptual
from sepclip.scoring.engines import decompose_file
from sepclip.scoring.items import ScoreRow, ScoringPlan, Waves
from sepclip.scoring.museval_adapter import Unscorable, window_sdr
from sepclip.scoring.pairing import best_order
from sepclip.scoring.ratios import Ratios
from sepclip.scoring.table import METRICS, columns

Frames = dict[str, np.ndarray]  # scores of v4's windows by name, (S, windows)


def score_file(rows: list[ScoreRow], waves: Waves | str, plan: ScoringPlan) -> Frames:
    """Enter all scores of one file into its rows, and the reason wherever there is none; returns v4's windows.

    Sources are paired by the best mean SI-SDR over all of them, once, for all scores; not in a fixed order.
    """
    for row in rows:
        row.scores = dict.fromkeys(columns(plan.metrics, plan.oracles, plan.improvements))
    frames: Frames = {}
    if isinstance(waves, str):
        _explain(rows, waves)
    elif not np.isfinite(waves.est).all():
        _explain(rows, "NaN or infinite estimate")
    elif not (np.isfinite(waves.ref).all() and np.isfinite(waves.mixture).all()):
        _explain(rows, "NaN or infinite reference or mixture")
    else:
        frames = _score_waves(rows, waves, plan)
    for row in rows:
        _settle(row, plan.metrics)
    return frames


def _score_waves(rows: list[ScoreRow], waves: Waves, plan: ScoringPlan) -> Frames:
    for row in rows:
        row.notes.extend(waves.notes)
    est = waves.est
    if not waves.fixed_order:
        pairwise = Ratios(est=est, ref=waves.ref).pairwise_si_sdr()
        est = est[best_order(pairwise)]  # (S, T, C), in the order of the references
    mixture, waves = waves.mixture, replace(waves, est=est)
    for index, row in enumerate(rows):
        if not waves.ref[index].any():
            row.reason = "silent reference"
        elif not est[index].any():
            row.reason = "silent estimate"
    mixture_si_sdr = _enter_ratios(rows, waves, mixture, plan)
    mixture_sdr = _mixture_sdr(waves, mixture, plan)
    frames = _enter_bsseval(rows, waves, plan)
    _enter_oracles(rows, waves, mixture, plan, mixture_si_sdr, mixture_sdr)
    _enter_perceptual(rows, waves, mixture, plan)
    return frames


def _enter_ratios(rows: list[ScoreRow], waves: Waves, mixture: FloatWaves, plan: ScoringPlan) -> Sequence[float]:
    """Enter the scores without filters; returns the SI-SDR of the mixture for each source."""
    count = len(rows)
    ratios = Ratios(est=[*waves.est, mixture], ref=waves.ref)
    names = [name for name in plan.metrics if METRICS[name].family == "ratios"]
    wanted = list(dict.fromkeys([*names, *(("si_sdr",) if plan.oracles else ())]))
    ours = ratios.score([(index, index) for index in range(count)], names)
    before = ratios.score([(count, index) for index in range(count)], wanted)
    for index, row in enumerate(rows):
        for name in names:
            _enter_with_improvement(row, name, ours[name][index], before[name][index])
        if "snr" in names:
            _enter(row, "input_snr", before["snr"][index], METRICS["snr"].infinite)
    return before["si_sdr"].tolist() if "si_sdr" in before else [math.nan] * count


def _mixture_sdr(waves: Waves, mixture: FloatWaves, plan: ScoringPlan) -> np.ndarray:
    """Return v4's SDR of the mixture for each source (S,), which takes no filters; NaN where there is none."""
    if "sdr" not in plan.metrics or not plan.oracles or waves.ref.shape[1] < waves.rate_hz:
        return np.full(len(waves.ref), np.nan)
    sounding = waves.ref.any((1, 2))
    found = np.full(len(waves.ref), np.nan)
    if sounding.any():
        ref = waves.ref[sounding]
        found[sounding] = window_sdr(est=np.broadcast_to(mixture, ref.shape), ref=ref, rate_hz=waves.rate_hz)
    return found


def _enter_bsseval(rows: list[ScoreRow], waves: Waves, plan: ScoringPlan) -> Frames:
    """Enter the scores of BSSEval. Silent references are left out, which changes nothing for the others."""
    if not any(METRICS[name].family in ("v4", "v3") for name in plan.metrics):
        return {}
    sounding = [index for index in range(len(rows)) if waves.ref[index].any()]
    if not sounding:
        return {}
    try:
        found = decompose_file(waves, sounding, plan)
    except Unscorable as error:
        _explain(rows, f"BSSEval: {error}")
        return {}
    for note in found.notes:
        for index in sounding:
            rows[index].notes.append(note)
    frames = {}
    for name in plan.metrics:
        if METRICS[name].family in ("v4", "v3"):
            ours, before = found.scores[name], found.mixture.get(name)
            for place, index in enumerate(sounding):
                if waves.est[index].any():
                    mixed = math.nan if before is None else float(before[place])
                    _enter_with_improvement(rows[index], name, float(ours[place]), mixed)
                    if METRICS[name].family == "v4" and math.isnan(ours[place]):
                        _explain([rows[index]], "BSSEval: no window of 1 s in which all sources sound")
    for name, values in found.frames.items():
        frames[name] = np.full((len(rows), values.shape[1]), np.nan)
        frames[name][sounding] = values
        frames[name][[not one.any() for one in waves.est]] = np.nan  # something stood in their place
    return frames


def _enter_oracles(
    rows: list[ScoreRow],
    waves: Waves,
    mixture: FloatWaves,
    plan: ScoringPlan,
    mixture_si_sdr: Sequence[float],
    mixture_sdr: np.ndarray,
) -> None:
    if not plan.oracles:
        return
    from sepclip.scoring.oracles import default_stft, oracle_estimates  # torch takes a second in every process

    stft = plan.stft or default_stft(waves.rate_hz)
    sounding = [index for index in range(len(rows)) if waves.ref[index].any()]
    with_windows = bool(np.isfinite(mixture_sdr).any())
    for name, estimate in oracle_estimates(plan.oracles, mixture=mixture, ref=waves.ref, stft=stft):
        if "si_sdr" in plan.metrics:
            pairs = [(index, index) for index in range(len(rows))]
            ours = Ratios(est=estimate, ref=waves.ref).score(pairs, ("si_sdr",))["si_sdr"]
            for row, score, before in zip(rows, ours, mixture_si_sdr, strict=True):
                if np.isfinite(before):  # that of a silent reference is not
                    _enter(row, f"{name}_si_sdr_improvement", float(score - before))
        if "sdr" in plan.metrics and with_windows:
            scores = window_sdr(est=estimate[sounding], ref=waves.ref[sounding], rate_hz=waves.rate_hz)
            for index, score in zip(sounding, scores, strict=True):
                _enter(rows[index], f"{name}_sdr_improvement", float(score - mixture_sdr[index]))


def _enter_perceptual(rows: list[ScoreRow], waves: Waves, mixture: FloatWaves, plan: ScoringPlan) -> None:
    for name in plan.metrics:
        if METRICS[name].family != "perceptual":
            continue
        for index, row in enumerate(rows):
            if row.reason in ("silent reference", "silent estimate"):
                continue
            try:
                ours = perceptual.score(name, est=waves.est[index], ref=waves.ref[index], rate_hz=waves.rate_hz)
                before = math.nan
                if plan.improvements:
                    before = perceptual.score(name, est=mixture, ref=waves.ref[index], rate_hz=waves.rate_hz)
            except ValueError as error:
                _explain([row], f"{METRICS[name].title}: {error}")
                continue
            _enter_with_improvement(row, name, ours, before)


def _enter_with_improvement(row: ScoreRow, name: str, ours: float, before: float) -> None:
    metric = METRICS[name]
    if metric.distortion and ours > metric.infinite:
        row.status = "perfect"
    _enter(row, name, ours, metric.infinite)
    if f"{name}_improvement" in row.scores and max(ours, before) <= metric.infinite:
        _enter(row, f"{name}_improvement", ours - before)


def _enter(row: ScoreRow, column: str, value: float, infinite: float = math.inf) -> None:
    """Enter a score that is finite and below what counts as infinite."""
    if math.isfinite(value) and value <= infinite:
        row.scores[column] = float(value)


def _explain(rows: list[ScoreRow], reason: str) -> None:
    """Say of every row why it lacks scores, unless it has a reason of its own."""
    for row in rows:
        row.reason = row.reason or reason


def _settle(row: ScoreRow, metrics: Sequence[str]) -> None:
    """Sum the row up in its status, with a reason for every score that is missing."""
    missing = [METRICS[name].title for name in metrics if row.scores[name] is None]
    if row.status == "perfect":
        return
    if missing and not row.reason:
        constant = METRICS["si_sdr"].title in missing
        row.reason = "constant or orthogonal estimate" if constant else f"infinite {', '.join(missing)}"
    if row.reason:
        row.status = "excluded" if len(missing) == len(metrics) else "partial"
