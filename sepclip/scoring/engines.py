"""BSSEval of one file by museval or by the fast engine, with the same treatment of silence and of short files.

``score_file.py`` calls :func:`decompose_file`. The scores themselves are computed by museval
(``museval_adapter.bsseval_frames`` and ``bsseval_whole``) or by our own engine (``bsseval.decompose``).
"""

from dataclasses import dataclass

import numpy as np

from sepclip.audio.arrays import Float64, FloatWaves
from sepclip.scoring.bsseval import TAPS, BSSEvalScores, IllConditioned, decompose
from sepclip.scoring.items import STRETCH, ScoringPlan, Waves
from sepclip.scoring.museval_adapter import Unscorable, bsseval_frames, bsseval_whole, median_over_windows
from sepclip.scoring.table import METRICS

TOO_LONG = "too long for museval in this memory: scored by the fast engine, in blocks"
SILENT_WINDOWS = "windows of 1 s in which a source or estimate is silent left out of v4"
_ROTATION = 0.3  # radians: channels that cancel do not cancel after it
# Memory of a process, as measured by benchmarks/eval_memory.py (docs/RESULTS.md)
_PROCESS_BYTES = 200 << 20  # Python and its libraries
_FAST_BYTES = 28  # per source, channel and sample: waves as they are read, their copies, the mixture
_ORACLE_BYTES = 210  # per source (and mixture, and residual), channel and sample of a stretch
_MUSEVAL_BYTES = 44  # per source, channel and sample: waves in float64, padded


@dataclass(frozen=True)
class BSSEvalResult:
    """BSSEval of one file: scores by metric (S,) of estimates and mixture, the v4 scores per window, and notes."""

    scores: dict[str, Float64]
    mixture: dict[str, Float64]
    frames: dict[str, Float64]
    notes: list[str]


def memory_needed(engine: str, samples: int, sources: int, channels: int, *, oracles: bool = True) -> int:
    """Return the bytes that a process needs to score a file of ``samples`` by an engine.

    museval transforms all references at once, padded to a power of two, and copies the Gram matrix of their filters;
    the fast engine works in blocks. The oracles work in stretches of a longer file.
    """
    signals = sources * channels
    gram = 8 * (signals * TAPS) ** 2  # float64
    stretch = _ORACLE_BYTES * (sources + 2) * channels * min(samples, STRETCH) if oracles else 0
    if engine == "fast":
        return _PROCESS_BYTES + _FAST_BYTES * signals * samples + max(gram * 3 // 2, stretch)
    points = 1 << (samples + TAPS - 2).bit_length()
    transforms = points * (24 * signals + 16 * channels + 64)  # of all references; of an estimate; of a product
    # the oracles run after BSSEval has freed its memory, so the larger of the two counts
    return _PROCESS_BYTES + _MUSEVAL_BYTES * signals * samples + max(transforms + 4 * gram, stretch)


def decompose_file(waves: Waves, audible: list[int], plan: ScoringPlan) -> BSSEvalResult:
    """Score those sources of a file by BSSEval whose references are not silent (the indices ``audible``).

    Raises Unscorable with the reason if that is not possible: less than a second of sound, or references that depend
    on each other.
    """
    if waves.ref.shape[1] < waves.rate_hz:
        raise Unscorable(f"shorter than 1 s ({waves.ref.shape[1] / waves.rate_hz:.2f} s)")
    ref, est, mixture = waves.ref[audible], waves.est[audible], waves.mixture[None]
    notes: list[str] = []
    # museval raises for a silent estimate; the reference in its place leaves the scores of the others as they are
    silent = np.array([not wave.any() for wave in est])
    if silent.any():
        est = np.where(silent[:, None, None], ref, est)
    # museval takes the sum over channels for silence; a rotation of the channels keeps all energies and projections
    if any((wave.sum(-1) == 0).all(-1).any() for wave in (ref, est)):
        ref, est, mixture = _rotate_channels(ref), _rotate_channels(est), _rotate_channels(mixture)
        notes.append("channels cancel, which museval takes for silence: all channels turned, which changes no score")
    estimate_scores, engine_notes = _score_estimates(ref, est, waves.rate_hz, plan)
    mixture_scores = _score_mixture(ref, mixture, waves.rate_hz, plan)
    notes += [*engine_notes, *_silent_window_notes(estimate_scores.frames)]
    return BSSEvalResult(
        _by_metric(estimate_scores, plan), _by_metric(mixture_scores, plan), estimate_scores.frames, notes
    )


def _silent_window_notes(frames: dict[str, Float64]) -> list[str]:
    """Return the note on windows that are excluded from medians; if that is all of them, a reason says so instead."""
    if not frames:
        return []
    left_out, windows = int(np.isnan(frames["sdr"]).all(0).sum()), frames["sdr"].shape[1]
    return [f"{SILENT_WINDOWS} ({left_out} of {windows})"] if 0 < left_out < windows else []


def _rotate_channels(waves: FloatWaves) -> FloatWaves:
    """Rotate the first two channels of (S, T, C) into each other."""
    rotated = waves.copy()
    rotated[..., 0] = np.cos(_ROTATION) * waves[..., 0] + np.sin(_ROTATION) * waves[..., 1]
    rotated[..., 1] = np.cos(_ROTATION) * waves[..., 1] - np.sin(_ROTATION) * waves[..., 0]
    return rotated


def _versions(plan: ScoringPlan, *, improvements_only: bool = False) -> dict[str, bool]:
    """Return which versions the plan needs: ``frames`` (v4) and ``whole`` (v3), as :func:`decompose` names them."""
    names = [name for name in plan.metrics if METRICS[name].improves or not improvements_only]
    families = {METRICS[name].family for name in names}
    return {"frames": "v4" in families, "whole": "v3" in families}


def _score_estimates(
    ref: FloatWaves, est: FloatWaves, rate_hz: int, plan: ScoringPlan
) -> tuple[BSSEvalScores, list[str]]:
    """Score the estimates by the engine of the plan, with a note if museval had to replace the fast engine."""
    versions = _versions(plan)
    if plan.engine == "museval" and not plan.in_blocks:
        return _run_museval(ref, est, rate_hz, versions), []
    try:
        return decompose(est=est, ref=ref, rate_hz=rate_hz, **versions), []
    except IllConditioned as error:
        # rounding decides such scores, so museval's rounding is used; in blocks there is no memory for museval
        if plan.in_blocks:
            raise
        return _run_museval(ref, est, rate_hz, versions), [f"scored by museval: {error}"]


def _run_museval(ref: FloatWaves, est: FloatWaves, rate_hz: int, versions: dict[str, bool]) -> BSSEvalScores:
    """Score the estimates by museval, in float64: it computes in the precision that it is given."""
    exact = {"est": est.astype(np.float64), "ref": ref.astype(np.float64)}
    return BSSEvalScores(
        bsseval_frames(**exact, rate_hz=rate_hz) if versions["frames"] else {},
        bsseval_whole(**exact) if versions["whole"] else {},
    )


def _score_mixture(ref: FloatWaves, mixture: FloatWaves, rate_hz: int, plan: ScoringPlan) -> BSSEvalScores:
    """Score the mixture (1, T, C) as the estimate of every source, for the improvements.

    Always by the fast engine: its scores are the same, and it takes one estimate for all sources, where museval would
    repeat all its work for each of them.
    """
    versions = _versions(plan, improvements_only=True)
    if not plan.improvements or not any(versions.values()) or not mixture.any():
        return BSSEvalScores({}, {})
    try:
        return decompose(est=mixture, ref=ref, rate_hz=rate_hz, **versions)
    except IllConditioned:
        if plan.in_blocks:
            raise
        return _run_museval(ref, np.broadcast_to(mixture, ref.shape), rate_hz, versions)


def _by_metric(result: BSSEvalScores, plan: ScoringPlan) -> dict[str, Float64]:
    """Return scores (S,) by the names of the table, those of v4 as medians over windows."""
    scores = {name: median_over_windows(frames) for name, frames in result.frames.items()}
    scores |= {f"bss_{name}": values for name, values in result.whole.items()}
    return {name: values for name, values in scores.items() if name in plan.metrics}
