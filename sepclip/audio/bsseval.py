"""BSSEval v4 by museval, imported here alone.

``import museval`` reaches musdb and stempeg, which raise without ffmpeg, although only the MUSDB reader needs it.
``museval/metrics.py`` needs neither, so where the plain import fails that one file is loaded by its location.
"""

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from sepclip.errors import UserError

Floats = NDArray[np.float64]
SCORES = ("sdr", "isr", "sir", "sar")


@lru_cache(maxsize=1)
def load_museval_metrics() -> ModuleType:
    """Return the module ``museval.metrics``, whether or not ffmpeg is installed.

    Raises UserError when museval is not installed at all.
    """
    try:
        from museval import metrics

        return metrics  # type: ignore[no-any-return]
    except (ImportError, RuntimeError, OSError):
        for name in [name for name in sys.modules if name.split(".")[0] == "museval"]:
            del sys.modules[name]  # half-imported: a later import must not find it
    package = importlib.util.find_spec("museval")
    if package is None or not package.submodule_search_locations:
        raise UserError("museval is not installed: pip install museval")
    path = Path(package.submodule_search_locations[0]) / "metrics.py"
    spec = importlib.util.spec_from_file_location("sepclip_museval_metrics", path)
    if spec is None or spec.loader is None:
        raise UserError(f"museval has no {path}: pip install --force-reinstall museval")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bsseval_v4(*, est: Floats, ref: Floats, rate_hz: int) -> dict[str, Floats]:
    """Return SDR, ISR, SIR and SAR in dB, each the median over windows of 1 s (S,).

    ``est`` and ``ref`` are (S, T, C) at ``rate_hz``, already in the same order: museval permutes nothing here. The
    hop is 1 s too, as in SiSEC 2018; a tail shorter than a window is dropped. Windows in which a source or an
    estimate is silent have no score and do not count; a source without any gives NaN. Raises ValueError for
    less than one second, and where a whole reference or estimate is silent.
    """
    if ref.shape[1] < rate_hz:
        raise ValueError(f"shorter than 1 s ({ref.shape[1] / rate_hz:.2f} s)")
    sdr, isr, sir, sar, _ = load_museval_metrics().bss_eval(
        ref, est, window=rate_hz, hop=rate_hz, compute_permutation=False
    )
    return {name: _median_over_windows(frames) for name, frames in zip(SCORES, (sdr, isr, sir, sar), strict=True)}


def _median_over_windows(frames: Floats) -> Floats:
    """Return the median (S,) of the scores (S, windows) without NaN; a row of NaN alone gives NaN."""
    return np.array([np.nan if np.isnan(row).all() else np.nanmedian(row) for row in frames])


def window_sdr(*, est: Floats, ref: Floats, rate_hz: int) -> Floats:
    """Return the SDR alone of :func:`bsseval_v4` (S,), in a hundredth of the time.

    The SDR of BSSEval v4 ("images") is the plain ratio of the reference's energy to the error's: its 512-tap filters
    serve ISR, SIR and SAR only. A source that is silent throughout gives NaN here.
    """
    windows = ref.shape[1] // rate_hz
    if windows < 1:
        raise ValueError(f"shorter than 1 s ({ref.shape[1] / rate_hz:.2f} s)")
    # (S, windows, rate_hz, C)
    ref, est = (wave[:, : windows * rate_hz].reshape(len(wave), windows, rate_hz, -1) for wave in (ref, est))
    # one silent source leaves the whole window out; as in museval, channels that cancel are silent
    silent = ~(ref.sum(-1).any(-1) & est.sum(-1).any(-1)).all(0)  # (windows,)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = 10 * np.log10(np.square(ref).sum((-2, -1)) / np.square(ref - est).sum((-2, -1)))  # (S, windows)
    scores[:, silent] = np.nan
    return _median_over_windows(scores)
