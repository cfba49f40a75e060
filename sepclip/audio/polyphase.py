"""Change of sampling rate as the scripts of wsj0-2mix and LibriMix do it: scipy's ``resample_poly`` as it comes."""

import importlib
import math
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Real = TypeVar("Real", bound=np.floating[Any])


def load() -> None:
    """Import scipy's filters before processes are forked: each of them would take half a second for it."""
    importlib.import_module("scipy.signal")


@lru_cache(maxsize=32)
def _filter(rate: int, dtype: np.dtype[Any]) -> NDArray[np.floating[Any]]:
    """Return the low-pass that ``resample_poly`` designs anew at every call, a quarter of what a short sound takes."""
    from scipy.signal import firwin

    low_pass: NDArray[np.floating[Any]] = firwin(20 * rate + 1, 1.0 / rate, window=("kaiser", 5.0)).astype(dtype)
    return low_pass


def resample(wave: NDArray[Real], from_hz: int, to_hz: int) -> NDArray[Real]:
    """Resample ``wave`` (T,) to ``to_hz``, to the bit as ``scipy.signal.resample_poly(wave, to_hz, from_hz)`` does."""
    if from_hz == to_hz:
        return wave
    from scipy.signal import resample_poly  # half a second of start-up that no --help needs

    common = math.gcd(from_hz, to_hz)
    up, down = to_hz // common, from_hz // common
    resampled: NDArray[Real] = resample_poly(wave, up, down, window=_filter(max(up, down), wave.dtype))
    return resampled
