"""Excerpts of sounds for the players of the page, small enough to stand in it."""

import base64
import io

import numpy as np
import soundfile
from numpy.typing import NDArray

_MP3_BYTES_A_SECOND = 12_000  # about what libsndfile makes of a channel at 44.1 kHz
_LEAST_SECONDS = 4.0
_MP3_RATES = {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000}


def excerpt(mixture: NDArray[np.float32 | np.float64], rate_hz: int, seconds: float) -> slice:
    """Return the loudest stretch of ``seconds`` of a mixture (T, C); all of it where it is no longer."""
    samples = len(mixture)
    wanted = int(seconds * rate_hz)
    if samples <= wanted:
        return slice(0, samples)
    energy = np.concatenate([[0.0], np.cumsum(np.square(mixture).sum(1))])
    step = max(1, rate_hz // 10)
    starts = np.arange(0, samples - wanted + 1, step)
    start = int(starts[np.argmax(energy[starts + wanted] - energy[starts])])
    return slice(start, start + wanted)


def seconds_within(budget: int, rate_hz: int, channels: int) -> float:
    """Return how many seconds of one sound fit into ``budget`` bytes, as lossless FLAC or, if need be, as MP3."""
    lossless = budget / (rate_hz * channels * 2 * 0.6)
    return lossless if lossless >= _LEAST_SECONDS else max(_LEAST_SECONDS, budget / (_MP3_BYTES_A_SECOND * channels))


def sound_uri(samples: NDArray[np.float64], rate_hz: int, budget: int) -> str:
    """Return samples (T, C) within [-1, 1] as a data URI: FLAC of 16 bits, or MP3 where that exceeds ``budget`` bytes.

    Browsers play both, Safari among them, which long did not play Ogg.
    """
    encoded = _encoded(samples, rate_hz, "FLAC", "PCM_16")
    if len(encoded) > budget and rate_hz in _MP3_RATES and "MP3" in soundfile.available_formats():
        return (
            "data:audio/mpeg;base64," + base64.b64encode(_encoded(samples, rate_hz, "MP3", "MPEG_LAYER_III")).decode()
        )
    return "data:audio/flac;base64," + base64.b64encode(encoded).decode()


def _encoded(samples: NDArray[np.float64], rate_hz: int, kind: str, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=kind, subtype=subtype)
    return file.getvalue()


def playable(waves: NDArray[np.float32 | np.float64]) -> NDArray[np.float64]:
    """Return waves (..., T, C) with two channels at most: more are averaged to one."""
    return np.asarray(waves if waves.shape[-1] <= 2 else waves.mean(-1, keepdims=True), np.float64)
