"""The active level of speech, its power while somebody speaks: ITU-T P.56 method B, as in VOICEBOX's ``activlev``.

wsj0-2mix and related corpora scale every utterance to unit active level, so their gains depend on the details below.
"""

import math
from functools import lru_cache

import numpy as np
from scipy import ndimage, signal

from sepclip.audio.arrays import AnyArray, Float64, RealArray

MARGIN_DB = 15.9  # P.56: the active level is this far above the threshold of activity
_THRESHOLDS = 20  # K; a factor of 2 in power (3 dB) apart, the highest 3 to 6 dB below the envelope's peak
_SMOOTHING_SECONDS = 0.03
_HANGOVER_SECONDS = 0.2
_SILENCE_SECONDS = 0.35  # appended, so that the last hangover is counted
_LOW_HZ, _HIGH_HZ = 200.0, 5500.0
# Zeros and poles (real, then one of each conjugate pair) of VOICEBOX's high-pass: Chebyshev type 2, order 5, edge at 1
_ZEROS = np.array([0, 0.37843443673309j, 0.23388534441447j])
_POLES = np.array([-0.66793268833792, -0.20640255179496 + 0.73942185906851j, -0.54036889596392 + 0.45698784092898j])


def active_level(wave: RealArray, rate_hz: int) -> float:
    """Return the active level of ``wave`` (T,) as a power: full scale squared is 1, dB are 10 log10 of it.

    The level is 0 for silence, for a wave without any samples, and for one that the band-pass removes to the last bit.
    """
    padded = np.concatenate([np.asarray(wave, np.float64), np.zeros(math.ceil(_SILENCE_SECONDS * rate_hz))])  # (T',)
    speech: Float64 = signal.sosfilt(_band_pass(rate_hz), padded)  # (T',)
    energy = float(np.square(speech).sum())
    if energy == 0:
        return 0.0
    occupied, lowest_db = _occupancy(_envelope(speech, rate_hz))
    # P.56: the power over the samples above a threshold is the active level if it is MARGIN_DB above that threshold.
    # The lower the threshold, the larger the margin, so find where it crosses MARGIN_DB and interpolate in dB.
    level_db = 10 * np.log10(energy / occupied)  # (K,)
    excess = level_db - lowest_db - MARGIN_DB  # (K,)
    crossings = np.flatnonzero((excess[:-1] < 0) & (excess[1:] >= 0))
    if len(crossings):
        first = crossings[0]
        share = excess[first] / (excess[first] - excess[first + 1])
        active_db = level_db[first] + share * (level_db[first + 1] - level_db[first])
    else:  # no crossing: take the end of the range that is nearer to it
        active_db = level_db[-1] if excess[-1] <= 0 else level_db[0]
    return float(10 ** (active_db / 10))


def _envelope(speech: Float64, rate_hz: int) -> Float64:
    """Return the envelope (T,) of ``speech`` (T,): two one-pole smoothers in series, then a hangover of 0.2 s."""
    pole = math.exp(-1 / (rate_hz * _SMOOTHING_SECONDS))
    smoothed: Float64 = signal.lfilter([(1 - pole) ** 2], [1, -2 * pole, pole**2], np.abs(speech))
    hangover = math.ceil(_HANGOVER_SECONDS * rate_hz) + 1
    # The hangover keeps short pauses active. VOICEBOX takes the maximum over this sample and the window before it;
    # the origin shifts scipy's centred window so that it never looks ahead.
    held: Float64 = ndimage.maximum_filter1d(
        smoothed, hangover, mode="constant", cval=0.0, origin=(hangover - 1) - hangover // 2
    )
    return held


def _occupancy(envelope: Float64) -> tuple[Float64, Float64]:
    """Return, from the highest threshold down, how many samples reach it and the threshold in dB; both (K,)."""
    power = np.square(envelope)
    # Thresholds are powers of two, so the exponent of a float says which of them it reaches, without a logarithm:
    # 2^(exponent - 1) <= power < 2^exponent
    exponent = np.frexp(power)[1]
    highest = exponent[power > 0].max(initial=-1074) + 1
    steps = np.where(power > 0, np.minimum(highest - exponent, _THRESHOLDS), _THRESHOLDS)  # 1 to K
    counts = np.bincount(steps, minlength=_THRESHOLDS + 1)[1:]
    thresholds_db = 10 * math.log10(2) * (highest - np.arange(1, _THRESHOLDS + 1) - 1)
    return np.cumsum(counts).astype(np.float64), thresholds_db


@lru_cache(maxsize=8)
def _band_pass(rate_hz: int) -> Float64:
    """Return the filter as second-order sections; at rates up to 12.1 kHz only the high-pass."""
    # bilinear transform of the prototype, with the edge prewarped
    low = math.tan(math.pi * _LOW_HZ / rate_hz)
    sections = [_sections((1 + _ZEROS * low) / (1 - _ZEROS * low), (1 + _POLES * low) / (1 - _POLES * low), at=-1)]
    if rate_hz > 2.2 * _HIGH_HZ:  # the same prototype, mirrored
        high = math.tan(math.pi * _HIGH_HZ / rate_hz)
        zeros, poles = (_ZEROS + high) / (_ZEROS - high), (_POLES + high) / (_POLES - high)
        sections.append(_sections(zeros, poles, at=1))
    return np.concatenate(sections)


def _sections(zeros: AnyArray, poles: AnyArray, *, at: int) -> Float64:
    """Return second-order sections with unit gain ``at`` z = 1 or -1, from the roots, one of each conjugate pair."""
    all_zeros, all_poles = (np.concatenate([half, half[1:].conj()]) for half in (zeros, poles))
    gain = float((np.prod(at - all_poles) / np.prod(at - all_zeros)).real)
    sections: Float64 = signal.zpk2sos(all_zeros, all_poles, gain)
    return sections
