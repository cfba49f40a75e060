"""Excerpts of sounds for the players of the page, encoded small enough to be embedded in it."""

import base64
import io

import numpy as np
import soundfile
from numpy.typing import NDArray

_MP3_BYTES_PER_SECOND = 12_000  # about what libsndfile writes for one channel at 44.1 kHz
_LEAST_SECONDS = 4.0
_FLAC_RATIO = 0.6  # typical size of FLAC relative to 16-bit samples
_MP3_RATES_HZ = {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000}


def excerpt(mixture: NDArray[np.float32 | np.float64], rate_hz: int, seconds: float) -> slice:
    """Return the excerpt of ``seconds`` with the most energy from a mixture (T, C), or all of a shorter mixture."""
    samples = len(mixture)
    length = int(seconds * rate_hz)
    if samples <= length:
        return slice(0, samples)
    # the energy of any excerpt is a difference of the cumulative energy; a tenth of a second is precise enough
    energy = np.concatenate([[0.0], np.cumsum(np.square(mixture).sum(1))])  # (T + 1,)
    step = max(1, rate_hz // 10)
    starts = np.arange(0, samples - length + 1, step)
    start = int(starts[np.argmax(energy[starts + length] - energy[starts])])
    return slice(start, start + length)


def seconds_within(budget: int, rate_hz: int, channels: int) -> float:
    """Return how many seconds of a sound fit into ``budget`` bytes, as FLAC, or as MP3 if FLAC would be too short.

    It is never less than 4 s, which may exceed the budget.
    """
    lossless = budget / (rate_hz * channels * 2 * _FLAC_RATIO)
    return lossless if lossless >= _LEAST_SECONDS else max(_LEAST_SECONDS, budget / (_MP3_BYTES_PER_SECOND * channels))


def sound_uri(samples: NDArray[np.float64], rate_hz: int, budget: int) -> str:
    """Return samples (T, C) within [-1, 1] as a data URI: 16-bit FLAC, or MP3 if that exceeds ``budget`` bytes.

    All browsers play both; Safari did not play Ogg for a long time.
    """
    encoded = _encoded(samples, rate_hz, "FLAC", "PCM_16")
    if len(encoded) > budget and rate_hz in _MP3_RATES_HZ and "MP3" in soundfile.available_formats():
        mp3 = _encoded(samples, rate_hz, "MP3", "MPEG_LAYER_III")
        return "data:audio/mpeg;base64," + base64.b64encode(mp3).decode()
    return "data:audio/flac;base64," + base64.b64encode(encoded).decode()


def _encoded(samples: NDArray[np.float64], rate_hz: int, kind: str, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=kind, subtype=subtype)
    return file.getvalue()


def playable(waves: NDArray[np.float32 | np.float64]) -> NDArray[np.float64]:
    """Return waves (..., T, C) with at most two channels; more are averaged to one."""
    return np.asarray(waves if waves.shape[-1] <= 2 else waves.mean(-1, keepdims=True), np.float64)
