"""Resampling as in the scripts of wsj0-2mix and LibriMix: scipy's ``resample_poly`` with its defaults."""

import importlib
import math
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sepclip.audio.arrays import RealArray

Real = TypeVar("Real", bound=np.floating[Any])


def load() -> None:
    """Import scipy's filters before processes are forked, or each process would spend half a second on it."""
    importlib.import_module("scipy.signal")


@lru_cache(maxsize=32)
def _filter(rate: int, dtype: np.dtype[Any]) -> RealArray:
    """Return the low-pass filter that ``resample_poly`` designs in every call, a quarter of its time for a short sound.

    ``rate`` is the larger of the two rates, divided by their greatest common divisor.
    """
    from scipy.signal import firwin

    # scipy's own design: 10 zero crossings to either side, Kaiser window with beta 5
    low_pass: RealArray = firwin(20 * rate + 1, 1.0 / rate, window=("kaiser", 5.0)).astype(dtype)
    return low_pass


def resample(wave: NDArray[Real], from_hz: int, to_hz: int) -> NDArray[Real]:
    """Return ``wave`` (T,) at ``to_hz``, bit-equal to ``scipy.signal.resample_poly(wave, to_hz, from_hz)``."""
    if from_hz == to_hz:
        return wave
    from scipy.signal import resample_poly  # takes half a second, and --help does not need it

    # up / down in lowest terms, because the length of the filter grows with the larger of the two
    common = math.gcd(from_hz, to_hz)
    up, down = to_hz // common, from_hz // common
    # a filter given as an array is used as it is, so only its design is saved, and the result is the same
    resampled: NDArray[Real] = resample_poly(wave, up, down, window=_filter(max(up, down), wave.dtype))
    return resampled
