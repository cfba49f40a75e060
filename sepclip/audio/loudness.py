"""Measures of the loudness of an utterance, by which the sources of a mixture are scaled.

Each function takes a wave (T,) with full scale 1 and its rate, and returns an amplitude. 20 log10 of the amplitude is a
level in dB relative to full scale (that of a square wave), or in LUFS. The amplitude of silence is 0.
"""

import math
from collections.abc import Callable

import numpy as np

from sepclip.audio.arrays import RealArray

_GATING_SECONDS = 0.4  # the gating block of ITU-R BS.1770


def rms(wave: RealArray, rate_hz: int) -> float:
    """Return the root mean square over the whole wave, including pauses."""
    return float(np.sqrt(np.square(wave, dtype=np.float64).mean())) if len(wave) else 0.0


def active_speech(wave: RealArray, rate_hz: int) -> float:
    """Return the root of the active level of ITU-T P.56, the power while somebody speaks."""
    from sepclip.audio.active_level import active_level  # scipy takes a second, and RMS does not need it

    return math.sqrt(active_level(wave, rate_hz))


def lufs(wave: RealArray, rate_hz: int) -> float:
    """Return the integrated loudness of ITU-R BS.1770-4, by pyloudnorm. Waves below 0.4 s are padded with zeros."""
    import pyloudnorm

    block = math.ceil(_GATING_SECONDS * rate_hz)
    padded = np.pad(np.asarray(wave, np.float64), (0, max(0, block - len(wave))))
    return float(10 ** (pyloudnorm.Meter(rate_hz).integrated_loudness(padded) / 20))


LAWS: dict[str, Callable[[RealArray, int], float]] = {"rms": rms, "p56": active_speech, "lufs": lufs}
