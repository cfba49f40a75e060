"""BSSEval of one file by museval or by the fast engine, both on the same terms."""

from dataclasses import dataclass

import numpy as np

from sepclip.audio.arrays import Float64, FloatWaves
from sepclip.scoring.bsseval import TAPS, BSSEval, IllConditioned, decompose
from sepclip.scoring.items import STRETCH, ScoringPlan, Waves
from sepclip.scoring.museval_adapter import Unscorable, bsseval_frames, bsseval_whole, median_over_windows
from sepclip.scoring.table import METRICS

ENGINES = ("museval", "fast")
TOO_LONG = "too long for museval in this memory: scored by the fast engine, in blocks"
SILENT_WINDOWS = "windows of 1 s in which a source or estimate is silent left out of v4"
_TURN = 0.3  # radians: no channels in use cancel after it
# What a process takes, as benchmarks/eval_memory.py measured it (docs/RESULTS.md)
_PROCESS_BYTES = 200 << 20  # Python and its libraries
_FAST_BYTES = 28  # by source, channel and sample: waves as they are read, their copies, the mixture
_ORACLE_BYTES = 210  # by source (and mixture, and what is left of it), channel and sample of a transform's stretch
_MUSEVAL_BYTES = 44  # by source, channel and sample: waves in float64, padded


@dataclass(frozen=True)
class Decomposed:
    """Scores by metric (S,) of the estimates and of the mixture, v4's windows, and what was done to have them."""

    scores: dict[str, Float64]
    mixture: dict[str, Float64]
    frames: dict[str, Float64]
    notes: list[str]


def memory_needed(engine: str, samples: int, sources: int, channels: int, *, oracles: bool = True) -> int:
    """Return the bytes that a process takes to score a file of ``samples`` by an engine.

    museval transforms all references at once, to the next power of two, and copies the Gram matrix of their filters;
    the fast engine works in blocks. The oracles work in stretches of a longer file.
    """
    signals = sources * channels
    gram = 8 * (signals * TAPS) ** 2
    stretch = _ORACLE_BYTES * (sources + 2) * channels * min(samples, STRETCH) if oracles else 0
    if engine == "fast":
        return _PROCESS_BYTES + _FAST_BYTES * signals * samples + max(gram * 3 // 2, stretch)
    points = 1 << (samples + TAPS - 2).bit_length()
    transforms = points * (24 * signals + 16 * channels + 64)  # of all references; of an estimate; of a product
    return _PROCESS_BYTES + _MUSEVAL_BYTES * signals * samples + max(transforms + 4 * gram, stretch)


def decompose_file(waves: Waves, sounding: list[int], plan: ScoringPlan) -> Decomposed:
    """Score the sources ``sounding`` of a file by BSSEval.

    Raises Unscorable with the reason where that cannot be done: less than a second of sound, or references that depend
    on each other.
    """
    if waves.ref.shape[1] < waves.rate_hz:
        raise Unscorable(f"shorter than 1 s ({waves.ref.shape[1] / waves.rate_hz:.2f} s)")
    ref, est, mixture, notes = waves.ref[sounding], waves.est[sounding], waves.mixture[None], []
    silent = np.array([not one.any() for one in est])
    if silent.any():  # it has no scores itself; whatever stands in its place, the others keep theirs
        est = np.where(silent[:, None, None], ref, est)
    if any((wave.sum(-1) == 0).all(-1).any() for wave in (ref, est)):
        ref, est, mixture = _turned(ref), _turned(est), _turned(mixture)
        notes.append("channels cancel, which museval takes for silence: all channels turned, which changes no score")
    found, note = _by_engine(ref, est, waves.rate_hz, plan)
    before = _of_mixture(ref, mixture, waves.rate_hz, plan)
    notes += [*note, *_silent_windows(found.frames)]
    return Decomposed(_by_metric(found, plan), _by_metric(before, plan), found.frames, notes)


def _silent_windows(frames: dict[str, Float64]) -> list[str]:
    """Return what to note of windows that count in no median; where that is all of them, a reason says so."""
    if not frames:
        return []
    left_out, windows = int(np.isnan(frames["sdr"]).all(0).sum()), frames["sdr"].shape[1]
    return [f"{SILENT_WINDOWS} ({left_out} of {windows})"] if 0 < left_out < windows else []


def _turned(waves: FloatWaves) -> FloatWaves:
    """Turn the first two channels of (S, T, C) into each other: all projections turn along."""
    turned = waves.copy()
    turned[..., 0] = np.cos(_TURN) * waves[..., 0] + np.sin(_TURN) * waves[..., 1]
    turned[..., 1] = np.cos(_TURN) * waves[..., 1] - np.sin(_TURN) * waves[..., 0]
    return turned


def _wanted(plan: ScoringPlan, *, improvements: bool = False) -> dict[str, bool]:
    names = [name for name in plan.metrics if METRICS[name].improves or not improvements]
    families = {METRICS[name].family for name in names}
    return {"frames": "v4" in families, "whole": "v3" in families}


def _by_engine(ref: FloatWaves, est: FloatWaves, rate_hz: int, plan: ScoringPlan) -> tuple[BSSEval, list[str]]:
    wanted = _wanted(plan)
    if plan.engine == "museval" and not plan.in_blocks:
        return _museval(ref, est, rate_hz, wanted), []
    try:
        return decompose(est=est, ref=ref, rate_hz=rate_hz, **wanted), []
    except IllConditioned as error:
        if plan.in_blocks:
            raise
        return _museval(ref, est, rate_hz, wanted), [f"scored by museval: {error}"]


def _museval(ref: FloatWaves, est: FloatWaves, rate_hz: int, wanted: dict[str, bool]) -> BSSEval:
    exact = {"est": est.astype(np.float64), "ref": ref.astype(np.float64)}
    return BSSEval(
        bsseval_frames(**exact, rate_hz=rate_hz) if wanted["frames"] else {},
        bsseval_whole(**exact) if wanted["whole"] else {},
    )


def _of_mixture(ref: FloatWaves, mixture: FloatWaves, rate_hz: int, plan: ScoringPlan) -> BSSEval:
    """Score the mixture as the estimate of every source, by the fast engine, which is equal and takes it once."""
    wanted = _wanted(plan, improvements=True)
    if not plan.improvements or not any(wanted.values()) or not mixture.any():
        return BSSEval({}, {})
    try:
        return decompose(est=mixture, ref=ref, rate_hz=rate_hz, **wanted)
    except IllConditioned:
        if plan.in_blocks:
            raise
        return _museval(ref, np.broadcast_to(mixture, ref.shape), rate_hz, wanted)


def _by_metric(found: BSSEval, plan: ScoringPlan) -> dict[str, Float64]:
    scores = {name: median_over_windows(frames) for name, frames in found.frames.items()}
    scores |= {f"bss_{name}": values for name, values in found.whole.items()}
    return {name: values for name, values in scores.items() if name in plan.metrics}
