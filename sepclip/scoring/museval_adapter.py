"""BSSEval by museval, and v4's SDR without it. This is the only module that imports museval.

``import museval`` also imports pandas, musdb and stempeg, which takes more than a second in every process and raises
without ffmpeg, although only the MUSDB reader needs it. ``museval/metrics.py`` needs none of them, so that file alone
is loaded, by its path.
"""

import importlib.util
from functools import lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np

from sepclip.audio.arrays import Float64, FloatWaves
from sepclip.errors import UserError

SCORES = ("sdr", "isr", "sir", "sar")


class Unscorable(ValueError):
    """BSSEval has no scores for a file; the message says why."""


@lru_cache(maxsize=1)
def load_museval_metrics() -> ModuleType:
    """Return the module ``museval.metrics``, whether or not ffmpeg is installed.

    Raises UserError if museval is not installed.
    """
    spec = require_museval()
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def require_museval() -> ModuleSpec:
    """Return the import spec of museval's metrics; raises UserError if museval is not installed."""
    package = importlib.util.find_spec("museval")
    if package is None or not package.submodule_search_locations:
        raise UserError("museval is not installed: pip install museval")
    path = Path(package.submodule_search_locations[0]) / "metrics.py"
    spec = importlib.util.spec_from_file_location("sepclip_museval_metrics", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"museval has no {path}: pip install --force-reinstall museval")
    return spec


def bsseval_frames(*, est: Float64, ref: Float64, rate_hz: int) -> dict[str, Float64]:
    """Return SDR, ISR, SIR and SAR in dB by museval for windows of 1 s (S, windows): BSSEval v4.

    ``est`` and ``ref`` are (S, T, C) at ``rate_hz``, already in the same order: museval permutes nothing here. The
    hop is 1 s too, as in SiSEC 2018; a tail shorter than a window is dropped. Windows in which a source or an
    estimate is silent are NaN. Raises Unscorable for less than one second, and if a whole reference or estimate is
    silent.
    """
    if ref.shape[1] < rate_hz:
        raise Unscorable(f"shorter than 1 s ({ref.shape[1] / rate_hz:.2f} s)")
    scores = _bss_eval(ref, est, window=rate_hz, hop=rate_hz)
    return dict(zip(SCORES, scores, strict=True))


def bsseval_whole(*, est: Float64, ref: Float64) -> dict[str, Float64]:
    """Return SDR, SIR and SAR in dB by museval over the whole file (S,): BSSEval v3 "sources"."""
    sdr, _, sir, sar = _bss_eval(
        ref, est, window=np.inf, hop=np.inf, framewise_filters=True, bsseval_sources_version=True
    )
    return {"sdr": sdr[:, 0], "sir": sir[:, 0], "sar": sar[:, 0]}


def _bss_eval(ref: Float64, est: Float64, **settings: object) -> tuple[Float64, ...]:
    """Return museval's SDR, ISR, SIR and SAR, each (S, windows); raises Unscorable with its message."""
    try:
        scores = load_museval_metrics().bss_eval(ref, est, compute_permutation=False, **settings)
    except (AttributeError, np.linalg.LinAlgError) as error:  # museval 0.4.1 with numpy 2, for singular systems
        raise Unscorable("the references depend on each other") from error
    except ValueError as error:
        raise Unscorable(str(error)) from error
    return tuple(scores[:4])


def bsseval_v4(*, est: Float64, ref: Float64, rate_hz: int) -> dict[str, Float64]:
    """Return the medians over windows (S,) of :func:`bsseval_frames`; NaN for a source without any score."""
    frames = bsseval_frames(est=est, ref=ref, rate_hz=rate_hz)
    return {name: median_over_windows(scores) for name, scores in frames.items()}


def median_over_windows(frames: Float64) -> Float64:
    """Return the median (S,) of the scores (S, windows), NaN left out; NaN for a row that is all NaN."""
    return np.array([np.nan if np.isnan(row).all() else np.nanmedian(row) for row in frames])


def window_sdr(*, est: FloatWaves, ref: FloatWaves, rate_hz: int) -> Float64:
    """Return only the SDR of :func:`bsseval_v4` (S,), in a hundredth of the time.

    The SDR of BSSEval v4 ("images") is the plain ratio of the reference's energy to the error's: only ISR, SIR and SAR
    use its 512-tap filters. The result is NaN if any source is silent throughout. Raises Unscorable for less than one
    second.
    """
    windows = ref.shape[1] // rate_hz
    if windows < 1:
        raise Unscorable(f"shorter than 1 s ({ref.shape[1] / rate_hz:.2f} s)")
    scores = np.full((len(ref), windows), np.nan)
    for window in range(windows):
        part = slice(window * rate_hz, (window + 1) * rate_hz)
        truth, estimate = (wave[:, part].astype(np.float64) for wave in (ref, est))  # (S, rate_hz, C)
        # one silent source leaves the whole window out; channels that cancel count as silent, as in museval
        if truth.sum(-1).any(-1).all() and estimate.sum(-1).any(-1).all():
            with np.errstate(divide="ignore"):
                ratio = np.square(truth).sum((-2, -1)) / np.square(truth - estimate).sum((-2, -1))
                scores[:, window] = 10 * np.log10(ratio)
    return median_over_windows(scores)
