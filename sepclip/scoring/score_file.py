"""The scores of one separated file: every number in ``scores.json`` passes through :func:`score_file`.

Where each score is computed:

- pairs of estimates and references: ``pairing.best_order``, from ``Ratios.pairwise_si_sdr``;
- SI-SDR, SI-SIR, SI-SAR, SNR and SD-SDR: ``ratios.Ratios.score``;
- SDR, ISR, SIR and SAR (BSSEval v4) and the v3 scores: ``engines.decompose_file``, which runs museval
  (``museval_adapter.py``) or the fast engine (``bsseval.py``);
- ideal masks: ``oracles.oracle_estimates``, then the same scores;
- PESQ and ESTOI: ``perceptual.score``; other metrics may bring a function in ``table.METRICS``.

docs/SCORES.md lists what happens to everything that cannot be scored.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from sepclip.audio.arrays import Float64, FloatWaves
from sepclip.scoring import perceptual
from sepclip.scoring.engines import decompose_file
from sepclip.scoring.items import ScoreRow, ScoringPlan, Waves
from sepclip.scoring.museval_adapter import Unscorable, window_sdr
from sepclip.scoring.pairing import best_order
from sepclip.scoring.ratios import Ratios
from sepclip.scoring.table import METRICS, columns

WindowScores = dict[str, Float64]  # BSSEval v4 scores of every window of 1 s by name, (S, windows)
_FILTERED = ("v4", "v3")  # the families of BSSEval


def score_file(rows: list[ScoreRow], waves: Waves | str, plan: ScoringPlan) -> WindowScores:
    """Write all scores of one file into ``rows``, with a reason for each missing one; return the v4 scores per window.

    Sources are paired once, by the best mean SI-SDR over the whole file, and all scores use that order. With
    ``waves.fixed_order`` they are not paired. ``waves`` is a text if the file could not be loaded: the reason.
    """
    for row in rows:
        row.scores = dict.fromkeys(columns(plan.metrics, plan.oracles, plan.improvements))
    windows: WindowScores = {}
    if isinstance(waves, str):
        _set_reason(rows, waves)
    elif not np.isfinite(waves.est).all():
        _set_reason(rows, "NaN or infinite estimate")
    elif not (np.isfinite(waves.ref).all() and np.isfinite(waves.mixture).all()):
        _set_reason(rows, "NaN or infinite reference or mixture")
    elif waves.mixture_missing is None:
        windows = _score_waves(rows, waves, plan)
    else:
        # everything that needs no mixture; the reason last, so that the one of a score that is missing anyway stays
        windows = _score_waves(rows, waves, replace(plan, improvements=False, oracles=()))
        _set_reason(rows, f"no score that needs the mixture: {waves.mixture_missing}")
    for row in rows:
        _set_status(row, plan.metrics)
    return windows


def _score_waves(rows: list[ScoreRow], waves: Waves, plan: ScoringPlan) -> WindowScores:
    """Pair the sources, then compute each family of scores in turn."""
    for row in rows:
        row.notes.extend(waves.notes)
    # pair once for all scores: pairing by each score would let every number choose its own order
    if not waves.fixed_order:
        pairwise = Ratios(est=waves.est, ref=waves.ref).pairwise_si_sdr()
        waves = replace(waves, est=waves.est[best_order(pairwise)])  # (S, T, C), in the order of the references
    # silence has no score in any family; its reason comes first, so that no later reason replaces it
    for index, row in enumerate(rows):
        if waves.missing and waves.missing[index]:
            row.reason = waves.missing[index]
        elif not waves.ref[index].any():
            row.reason = "silent reference"
        elif not waves.est[index].any():
            row.reason = "silent estimate"
    mixture_si_sdr = _score_ratios(rows, waves, plan)
    mixture_sdr = _mixture_sdr(waves, plan)
    windows = _score_bsseval(rows, waves, plan)
    _score_oracles(rows, waves, plan, mixture_si_sdr, mixture_sdr)
    _score_by_functions(rows, waves, plan)
    return windows


def _score_ratios(rows: list[ScoreRow], waves: Waves, plan: ScoringPlan) -> Sequence[float]:
    """Write the scores without filters; returns the SI-SDR of the mixture as the estimate of each source."""
    count = len(rows)
    # the mixture is one more estimate, number ``count``, so that one pass over the samples serves both
    has_mixture = waves.mixture_missing is None
    ratios = Ratios(est=[*waves.est, *([waves.mixture] if has_mixture else [])], ref=waves.ref)
    names = [name for name in plan.metrics if METRICS[name].family == "ratios"]
    mixture_names = list(dict.fromkeys([*names, *(("si_sdr",) if plan.oracles else ())]))
    scores = ratios.score([(index, index) for index in range(count)], names)
    if has_mixture:
        mixture_scores = ratios.score([(count, index) for index in range(count)], mixture_names)
    else:
        mixture_scores = {name: np.full(count, np.nan) for name in mixture_names}
    for index, row in enumerate(rows):
        for name in names:
            _set_score_and_improvement(row, name, scores[name][index], mixture_scores[name][index])
        if "snr" in names:
            _set_score(row, "input_snr", mixture_scores["snr"][index], METRICS["snr"].infinite_above)
    return mixture_scores["si_sdr"].tolist() if "si_sdr" in mixture_scores else [math.nan] * count


def _mixture_sdr(waves: Waves, plan: ScoringPlan) -> Float64:
    """Return v4's SDR of the mixture for each source (S,), for the oracles' improvements; NaN if there is none.

    v4's SDR needs no filters, so this costs next to nothing beside BSSEval.
    """
    result = np.full(len(waves.ref), np.nan)
    if "sdr" not in plan.metrics or not plan.oracles or waves.ref.shape[1] < waves.rate_hz:
        return result
    audible = waves.ref.any((1, 2))
    if audible.any():
        ref = waves.ref[audible]
        result[audible] = window_sdr(est=np.broadcast_to(waves.mixture, ref.shape), ref=ref, rate_hz=waves.rate_hz)
    return result


def _score_bsseval(rows: list[ScoreRow], waves: Waves, plan: ScoringPlan) -> WindowScores:
    """Write the scores of BSSEval (v4 and v3); returns the v4 scores per window, NaN for silent sources."""
    names = [name for name in plan.metrics if METRICS[name].family in _FILTERED]
    # silent references are left out: museval raises for them, and the scores of the other sources do not depend on them
    audible = [index for index in range(len(rows)) if waves.ref[index].any()]
    if not names or not audible:
        return {}
    try:
        result = decompose_file(waves, audible, plan)
    except Unscorable as error:
        _set_reason(rows, f"BSSEval: {error}")
        return {}
    for note in result.notes:
        for index in audible:
            rows[index].notes.append(note)
    for name in names:
        scores, mixture_scores = result.scores[name], result.mixture.get(name)
        for place, index in enumerate(audible):
            if not waves.est[index].any():
                continue
            mixture_score = math.nan if mixture_scores is None else float(mixture_scores[place])
            _set_score_and_improvement(rows[index], name, float(scores[place]), mixture_score)
            if METRICS[name].family == "v4" and math.isnan(scores[place]):
                _set_reason([rows[index]], "BSSEval: no window of 1 s in which all sources sound")
    # bring the windows back to all S sources
    windows = {}
    for name, scores in result.frames.items():
        windows[name] = np.full((len(rows), scores.shape[1]), np.nan)
        windows[name][audible] = scores
        # decompose_file puts the reference in the place of a silent estimate: that score means nothing
        windows[name][[not wave.any() for wave in waves.est]] = np.nan
    return windows


def _score_oracles(
    rows: list[ScoreRow],
    waves: Waves,
    plan: ScoringPlan,
    mixture_si_sdr: Sequence[float],
    mixture_sdr: Float64,
) -> None:
    """Write how much the ideal masks improve SI-SDR and SDR over the mixture."""
    if not plan.oracles:
        return
    from sepclip.scoring.oracles import default_stft, oracle_estimates  # importing torch takes a second per process

    stft = plan.stft or default_stft(waves.rate_hz)
    audible = [index for index in range(len(rows)) if waves.ref[index].any()]
    has_windows = bool(np.isfinite(mixture_sdr).any())
    # one oracle at a time, because its estimates are as large as the references
    for name, estimate in oracle_estimates(plan.oracles, mixture=waves.mixture, ref=waves.ref, stft=stft):
        if "si_sdr" in plan.metrics:
            pairs = [(index, index) for index in range(len(rows))]
            scores = Ratios(est=estimate, ref=waves.ref).score(pairs, ("si_sdr",))["si_sdr"]
            for row, score, mixture_score in zip(rows, scores, mixture_si_sdr, strict=True):
                if np.isfinite(mixture_score):  # it is not finite for a silent reference
                    _set_score(row, f"{name}_si_sdr_improvement", float(score - mixture_score))
        if "sdr" in plan.metrics and has_windows:
            # window_sdr is the SDR of museval's v4 in a hundredth of the time
            scores = window_sdr(est=estimate[audible], ref=waves.ref[audible], rate_hz=waves.rate_hz)
            for index, score in zip(audible, scores, strict=True):
                _set_score(rows[index], f"{name}_sdr_improvement", float(score - mixture_sdr[index]))


def _score_by_functions(rows: list[ScoreRow], waves: Waves, plan: ScoringPlan) -> None:
    """Write PESQ, ESTOI and metrics with a function, or the function's reason for not scoring."""
    for name in plan.metrics:
        if METRICS[name].family not in ("perceptual", "function"):
            continue
        for index, row in enumerate(rows):
            if not (waves.ref[index].any() and waves.est[index].any()):
                continue
            # the mixture last: that it has no score, for the improvement, costs the estimate nothing
            values = [math.nan, math.nan]
            try:
                values[0] = _function_score(name, waves.est[index], waves, index)
                if plan.improvements and METRICS[name].improves:
                    values[1] = _function_score(name, waves.mixture, waves, index)
            except ValueError as error:
                of_mixture = " of the mixture" if math.isfinite(values[0]) else ""
                _set_reason([row], f"{METRICS[name].title}{of_mixture}: {error}")
            _set_score_and_improvement(row, name, *values)


def _function_score(name: str, est: FloatWaves, waves: Waves, source: int) -> float:
    """Return a score of ``est`` (T, C) against one of the references."""
    function = METRICS[name].function or partial(perceptual.score, name)
    return function(est=est, ref=waves.ref[source], rate_hz=waves.rate_hz)


def _set_score_and_improvement(row: ScoreRow, name: str, score: float, mixture_score: float) -> None:
    """Write a score, and its improvement over the mixture if both are finite and the plan has that column."""
    metric = METRICS[name]
    if metric.infinite_is_perfect and score > metric.infinite_above:
        row.status = "perfect"
    _set_score(row, name, score, metric.infinite_above)
    if f"{name}_improvement" in row.scores and max(score, mixture_score) <= metric.infinite_above:
        _set_score(row, f"{name}_improvement", score - mixture_score)


def _set_score(row: ScoreRow, column: str, value: float, infinite_above: float = math.inf) -> None:
    """Write a score, unless it is NaN or counts as infinite: JSON has neither."""
    if math.isfinite(value) and value <= infinite_above:
        row.scores[column] = float(value)


def _set_reason(rows: list[ScoreRow], reason: str) -> None:
    """Write into each row why scores are missing; the first reason stays."""
    for row in rows:
        row.reason = row.reason or reason


def _set_status(row: ScoreRow, metrics: Sequence[str]) -> None:
    """Write the status of a row once its scores are written, and a reason if scores are missing without one."""
    missing = [METRICS[name].title for name in metrics if row.scores[name] is None]
    if row.status == "perfect":
        return
    if missing and not row.reason:
        constant = METRICS["si_sdr"].title in missing
        row.reason = "constant or orthogonal estimate" if constant else f"infinite {', '.join(missing)}"
    if row.reason:
        row.status = "excluded" if len(missing) == len(metrics) else "partial"
