"""PESQ by the package pesq and ESTOI by the steps of pystoi. Only this module imports them; both are extras."""

import importlib
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from sepclip.audio.arrays import FloatWaves
from sepclip.errors import UserError

PACKAGES = {"pesq": "pesq", "estoi": "pystoi"}
_PESQ_ERRORS = {-7: "no speech found by the package pesq", -6: "shorter than 0.25 s"}  # pesq.PesqError


def require_package(metric: str) -> None:
    """Raise UserError if the package of ``metric`` is not installed."""
    package = PACKAGES[metric]
    if find_spec(package) is None:
        raise UserError(f"{metric} needs the package {package}: pip install 'sepclip[perceptual]'")


def score(metric: str, *, est: FloatWaves, ref: FloatWaves, rate_hz: int) -> float:
    """Return PESQ or ESTOI of ``est`` (T, C) against ``ref`` (T, C), the mean over channels.

    PESQ is defined at 8 and 16 kHz, so other rates are resampled to 16 kHz for it; ESTOI resamples to 10 kHz itself.
    Raises ValueError with the reason if there is no score, for example because there is too little speech.
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
    # errors as values: raising them, the package itself fails if the score is NaN
    mode = "nb" if rate_hz == 8000 else "wb"
    value = float(package.pesq(rate_hz, ref, est, mode, on_error=package.PesqError.RETURN_VALUES))
    if np.isnan(value):
        raise ValueError("one of the two signals is silent in single precision beside the other")
    if value < 0:
        raise ValueError(_PESQ_ERRORS.get(int(value), f"error {value:.0f} of the package pesq"))
    return value


def _estoi(ref: NDArray[np.float64], est: NDArray[np.float64], rate_hz: int) -> float:
    """Return extended STOI (Jensen and Taal 2016) of one channel; raises ValueError if ``ref`` has too little speech.

    The steps of ``pystoi.stoi(ref, est, rate_hz, extended=True)``, equal to the last bit after
    ``numpy.random.seed(0)``. pystoi itself adds noise from numpy's global generator, so that its result depends on
    what ran before; and it returns 1e-5 for too little speech, which is also a possible score.
    """
    stoi = importlib.import_module("pystoi.stoi")
    utils = importlib.import_module("pystoi.utils")
    if rate_hz != stoi.FS:
        ref, est = (utils.resample_oct(wave, stoi.FS, rate_hz) for wave in (ref, est))
    # frames more than 40 dB below the loudest one of the reference do not count
    frames, hop = 0, stoi.N_FRAME // 2
    if len(ref) > stoi.N_FRAME:  # pystoi drops a last frame that ends with the sound
        ref, est = utils.remove_silent_frames(ref, est, stoi.DYN_RANGE, stoi.N_FRAME, hop)
        frames = len(range(0, len(ref) - stoi.N_FRAME, hop))
    if frames < stoi.N:
        raise ValueError(f"too little speech ({frames} of at least {stoi.N} frames of {1000 * hop / stoi.FS:.1f} ms)")
    # magnitudes of third-octave bands (bands, frames), in segments of 30 frames that begin at every frame
    generator = np.random.RandomState(0)  # its stream never changes, unlike that of numpy.random.Generator
    segments = []
    for wave in (ref, est):
        power = np.square(np.abs(utils.stft(wave, stoi.N_FRAME, stoi.NFFT, overlap=2).T))  # (F, N)
        bands = np.sqrt(np.matmul(stoi.OBM, power))  # (bands, N)
        windows = np.lib.stride_tricks.sliding_window_view(bands, stoi.N, axis=1).transpose(1, 0, 2)
        # each band over time, then each frame over bands; noise of 2e-16 replaces 0 / 0 in constant ones
        by_band = _centred_unit(windows, axis=2, generator=generator)
        segments.append(_centred_unit(by_band, axis=1, generator=generator))  # (segments, bands, 30)
    return float(np.sum(segments[0] * segments[1] / stoi.N) / len(segments[0]))


def _centred_unit(values: NDArray[np.float64], *, axis: int, generator: np.random.RandomState) -> NDArray[np.float64]:
    """Return ``values`` with a little noise, without their mean and divided by their norm along ``axis``."""
    values = values + np.finfo("float").eps * generator.standard_normal(values.shape)
    values -= values.mean(axis, keepdims=True)
    unit: NDArray[np.float64] = values * (1 / np.sqrt(np.square(values).sum(axis, keepdims=True)))
    return unit


_FUNCTIONS = {"pesq": _pesq, "estoi": _estoi}
