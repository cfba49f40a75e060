"""Effects on the sounds of dynamic mixtures: what recordings differ in, besides the voice.

The filters are linear and of zero phase and keep the length of a wave. The equaliser also keeps its RMS, so that levels
can be set afterwards.
"""

from collections.abc import Sequence
from functools import lru_cache
from random import Random

import numpy as np

from sepclip.audio.arrays import Float32, Float64
from sepclip.audio.loudness import rms

_EQUALISER_HZ = (60.0, 150.0, 400.0, 1000.0, 2500.0, 6000.0)  # about an octave and a third apart
TELEPHONE_HZ = (300.0, 3400.0)  # the band of the telephone (ITU-T G.712)
_EDGE = 0.15  # of the telephone band: its edges fall by a raised cosine over this share of their frequency
_NOISE_SLOPES = (0.0, 2.0)  # b in power ~ f^-b: white to brown


def draw_equaliser(chance: Random, most_db: float) -> list[float]:
    """Draw the gains of a smooth equaliser in dB, within ``most_db`` of 0, at fixed frequencies."""
    return [chance.uniform(-most_db, most_db) for _ in _EQUALISER_HZ]


def equalise(wave: Float32, gains_db: Sequence[float], rate_hz: int) -> Float32:
    """Return ``wave`` (T,) through an equaliser of zero phase, at the RMS that it had."""
    # linear in dB over the logarithm of the frequency, and constant beyond the first and the last one
    curve = np.interp(_log_frequencies(len(wave), rate_hz), np.log(_EQUALISER_HZ), gains_db)
    return _same_rms(_filtered(wave, 10 ** (curve / 20)), wave, rate_hz)


def telephone(waves: Float32, rate_hz: int) -> Float32:
    """Return ``waves`` (..., T) as a telephone passes them on: 300 to 3400 Hz."""
    return _filtered(waves, _telephone_response(waves.shape[-1], rate_hz))


def coloured_noise(chance: Random, samples: int) -> Float32:
    """Draw noise (T,) of RMS 1 whose spectrum falls by 0 to 6 dB an octave."""
    from scipy import fft  # here and below: importing scipy would delay commands that mix nothing

    slope = chance.uniform(*_NOISE_SLOPES)
    generator = np.random.Generator(np.random.PCG64(chance.getrandbits(64)))
    spectrum = fft.rfft(generator.standard_normal(_padded(samples), np.float32))
    # amplitude is the root of the power; the lowest bins are left out, or brown noise would be an offset
    bins = np.arange(len(spectrum), dtype=np.float32)
    spectrum *= np.where(bins < 2, 0.0, np.maximum(bins, 1.0) ** (-slope / 2))
    noise: Float32 = fft.irfft(spectrum, _padded(samples))[:samples]
    return noise / np.float32(np.sqrt(np.square(noise, dtype=np.float64).mean()) or 1.0)


def fade(wave: Float32, start: int, stop: int, samples: int) -> None:
    """Fade ``wave`` (T,) in after ``start`` and out before ``stop`` in place, except at its own ends."""
    ramp = (np.arange(samples, dtype=np.float32) + 0.5) / samples
    length = min(samples, stop - start)
    if start > 0:
        wave[start : start + length] *= ramp[:length]
    if stop < len(wave):
        wave[stop - length : stop] *= ramp[:length][::-1]


@lru_cache(maxsize=8)  # a training uses few lengths of excerpts
def _padded(samples: int) -> int:
    """Return a length of transform that is fast, with room for what a filter of zero phase smears over the ends."""
    from scipy import fft

    length: int = fft.next_fast_len(samples + samples // 8 + 1, real=True)
    return length


@lru_cache(maxsize=8)
def _log_frequencies(samples: int, rate_hz: int) -> Float64:
    """Return the logarithms of the frequencies of the transform, in Hz; 0 below 1 Hz."""
    logarithms: Float64 = np.log(np.maximum(np.fft.rfftfreq(_padded(samples), 1 / rate_hz), 1.0))
    return logarithms


@lru_cache(maxsize=8)
def _telephone_response(samples: int, rate_hz: int) -> Float64:
    """Return the response of the telephone band: 1 in it, 0 outside, and a raised cosine between."""
    frequencies, (low, high) = np.fft.rfftfreq(_padded(samples), 1 / rate_hz), TELEPHONE_HZ
    below = np.clip((frequencies / low - (1 - _EDGE)) / _EDGE, 0, 1)
    above = np.clip(((1 + _EDGE) - frequencies / high) / _EDGE, 0, 1)
    response: Float64 = (1 - np.cos(np.pi * below)) * (1 - np.cos(np.pi * above)) / 4
    return response


def _filtered(waves: Float32, response: Float64) -> Float32:
    from scipy import fft

    samples = waves.shape[-1]
    spectrum = fft.rfft(waves, _padded(samples), axis=-1)
    spectrum *= response
    filtered: Float32 = fft.irfft(spectrum, _padded(samples), axis=-1)[..., :samples]
    return filtered


def _same_rms(wave: Float32, like: Float32, rate_hz: int) -> Float32:
    level = rms(wave, rate_hz)
    return wave * np.float32(rms(like, rate_hz) / level) if level else wave
