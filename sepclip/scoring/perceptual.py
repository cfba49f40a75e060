"""PESQ and ESTOI by the packages pesq and pystoi. This is the only module that imports them; both are extras."""

import importlib
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from sepclip.audio.arrays import FloatWaves
from sepclip.errors import UserError

PACKAGES = {"pesq": "pesq", "estoi": "pystoi"}


def require_package(metric: str) -> None:
    """Raise UserError if the package of ``metric`` is not installed."""
    package = PACKAGES[metric]
    if find_spec(package) is None:
        raise UserError(f"{metric} needs the package {package}: pip install 'sepclip[perceptual]'")


def score(metric: str, *, est: FloatWaves, ref: FloatWaves, rate_hz: int) -> float:
    """Return PESQ or ESTOI of ``est`` (T, C) against ``ref`` (T, C), the mean over channels.

    PESQ is defined at 8 and 16 kHz, so other rates are resampled to 16 kHz for it; pystoi resamples itself. Raises
    ValueError with the package's message if it cannot score, for example because there is too little speech.
    """
    rate = rate_hz if metric == "estoi" or rate_hz in (8000, 16000) else 16000
    pairs = [[_at_rate(wave[:, channel], rate_hz, rate) for wave in (ref, est)] for channel in range(ref.shape[1])]
    return float(np.mean([_FUNCTIONS[metric](truth, estimate, rate) for truth, estimate in pairs]))


def _at_rate(wave: FloatWaves, from_hz: int, to_hz: int) -> NDArray[np.float64]:
    """Return a wave (T,) resampled and in float64, which both packages want."""
    if from_hz == to_hz:
        return wave.astype(np.float64)
    import torch

    from sepclip.audio.resample import resample

    return resample(torch.from_numpy(wave.astype(np.float32)), from_hz, to_hz).numpy().astype(np.float64)


def _pesq(ref: NDArray[np.float64], est: NDArray[np.float64], rate_hz: int) -> float:
    """Return PESQ of one channel, narrow band at 8 kHz and wide band at 16 kHz; raises ValueError."""
    package = importlib.import_module("pesq")
    try:
        return float(package.pesq(rate_hz, ref, est, "nb" if rate_hz == 8000 else "wb"))
    except package.PesqError as error:
        message = error.args[0] if error.args else error
        raise ValueError(message.decode() if isinstance(message, bytes) else str(message)) from error


def _estoi(ref: NDArray[np.float64], est: NDArray[np.float64], rate_hz: int) -> float:
    """Return extended STOI of one channel; raises ValueError."""
    value = float(importlib.import_module("pystoi").stoi(ref, est, rate_hz, extended=True))
    if value <= 1e-5:  # pystoi returns this for too little speech, with a warning
        raise ValueError("too little speech")
    return value


_FUNCTIONS = {"pesq": _pesq, "estoi": _estoi}
