"""How loud an utterance is, by the laws that bring the sources of a mixture to level.

Each takes a wave (T,) of full scale 1 and its rate, and returns an amplitude: 20 log10 of it are dB below full scale
(of a square wave), or LUFS. Silence has 0.
"""

import math
from collections.abc import Callable

import numpy as np

from sepclip.audio.arrays import RealArray

_GATING_SECONDS = 0.4  # a block of ITU-R BS.1770


def rms(wave: RealArray, rate_hz: int) -> float:
    """Return the root of the mean square, pauses and all."""
    return float(np.sqrt(np.square(wave, dtype=np.float64).mean())) if len(wave) else 0.0


def active_speech(wave: RealArray, rate_hz: int) -> float:
    """Return the root of the active level of ITU-T P.56: the power where somebody speaks."""
    from sepclip.audio.active_level import active_level  # a second of start-up that RMS does not need

    return math.sqrt(active_level(wave, rate_hz))


def lufs(wave: RealArray, rate_hz: int) -> float:
    """Return the integrated loudness of ITU-R BS.1770-4, by pyloudnorm; less than 0.4 s are filled up with zeros."""
    import pyloudnorm

    block = math.ceil(_GATING_SECONDS * rate_hz)
    padded = np.pad(np.asarray(wave, np.float64), (0, max(0, block - len(wave))))
    return float(10 ** (pyloudnorm.Meter(rate_hz).integrated_loudness(padded) / 20))


LAWS: dict[str, Callable[[RealArray, int], float]] = {"rms": rms, "p56": active_speech, "lufs": lufs}
