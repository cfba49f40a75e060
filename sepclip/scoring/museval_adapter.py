"""BSSEval v4 by museval, imported here alone.

``import museval`` reaches pandas, musdb and stempeg, which take more than a second in every process and raise without
ffmpeg, although only the MUSDB reader needs it. ``museval/metrics.py`` needs none of them, so that one file is loaded
by its location.
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
    """Why BSSEval has no scores for a file."""


@lru_cache(maxsize=1)
def load_museval_metrics() -> ModuleType:
    """Return the module ``museval.metrics``, whether or not ffmpeg is installed.

    Raises UserError when museval is not installed at all.
    """
    spec = require_museval()
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def require_museval() -> ModuleSpec:
    """Return from where museval's metrics are loaded; raises UserError when museval is not installed."""
    package = importlib.util.find_spec("museval")
    if package is None or not package.submodule_search_locations:
        raise UserError("museval is not installed: pip install museval")
    path = Path(package.submodule_search_locations[0]) / "metrics.py"
    spec = importlib.util.spec_from_file_location("sepclip_museval_metrics", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"museval has no {path}: pip install --force-reinstall museval")
    return spec


def bsseval_frames(*, est: Float64, ref: Float64, rate_hz: int) -> dict[str, Float64]:
    """Return SDR, ISR, SIR and SAR in dB by museval for windows of 1 s (S, windows).

    ``est`` and ``ref`` are (S, T, C) at ``rate_hz``, already in the same order: museval permutes nothing here. The
    hop is 1 s too, as in SiSEC 2018; a tail shorter than a window is dropped. Windows in which a source or an
    estimate is silent are NaN. Raises ValueError for less than one second, and where a whole reference or estimate is
    silent.
    """
    if ref.shape[1] < rate_hz:
        raise Unscorable(f"shorter than 1 s ({ref.shape[1] / rate_hz:.2f} s)")
    found = _bss_eval(ref, est, window=rate_hz, hop=rate_hz)
    return dict(zip(SCORES, found, strict=True))


def bsseval_whole(*, est: Float64, ref: Float64) -> dict[str, Float64]:
    """Return SDR, SIR and SAR in dB by museval, BSSEval v3 "sources" over the whole file (S,)."""
    sdr, _, sir, sar = _bss_eval(
        ref, est, window=np.inf, hop=np.inf, framewise_filters=True, bsseval_sources_version=True
    )
    return {"sdr": sdr[:, 0], "sir": sir[:, 0], "sar": sar[:, 0]}


def _bss_eval(ref: Float64, est: Float64, **how: object) -> tuple[Float64, ...]:
    try:
        found = load_museval_metrics().bss_eval(ref, est, compute_permutation=False, **how)
    except (AttributeError, np.linalg.LinAlgError) as error:  # on numpy 2, museval 0.4.1 fails on singular systems so
        raise Unscorable("the references depend on each other") from error
    except ValueError as error:
        raise Unscorable(str(error)) from error
    return tuple(found[:4])


def bsseval_v4(*, est: Float64, ref: Float64, rate_hz: int) -> dict[str, Float64]:
    """Return the medians over windows (S,) of :func:`bsseval_frames`; a source without a window gives NaN."""
    frames = bsseval_frames(est=est, ref=ref, rate_hz=rate_hz)
    return {name: median_over_windows(scores) for name, scores in frames.items()}


def median_over_windows(frames: Float64) -> Float64:
    """Return the median (S,) of the scores (S, windows) without NaN; a row of NaN alone gives NaN."""
    return np.array([np.nan if np.isnan(row).all() else np.nanmedian(row) for row in frames])


def window_sdr(*, est: FloatWaves, ref: FloatWaves, rate_hz: int) -> Float64:
    """Return the SDR alone of :func:`bsseval_v4` (S,), in a hundredth of the time.

    The SDR of BSSEval v4 ("images") is the plain ratio of the reference's energy to the error's: its 512-tap filters
    serve ISR, SIR and SAR only. A source that is silent throughout gives NaN here.
    """
    windows = ref.shape[1] // rate_hz
    if windows < 1:
        raise Unscorable(f"shorter than 1 s ({ref.shape[1] / rate_hz:.2f} s)")
    scores = np.full((len(ref), windows), np.nan)
    for window in range(windows):
        part = slice(window * rate_hz, (window + 1) * rate_hz)
        truth, estimate = (wave[:, part].astype(np.float64) for wave in (ref, est))  # (S, rate_hz, C)
        # one silent source leaves the whole window out; as in museval, channels that cancel are silent
        if truth.sum(-1).any(-1).all() and estimate.sum(-1).any(-1).all():
            with np.errstate(divide="ignore"):
                ratio = np.square(truth).sum((-2, -1)) / np.square(truth - estimate).sum((-2, -1))
                scores[:, window] = 10 * np.log10(ratio)
    return median_over_windows(scores)
