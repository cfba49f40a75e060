"""Noise and rooms around the voices of a mixture: reading impulse responses and noise, and adding an echo.

A corpus with scripts of its own (``by_scripts`` in ``set.json``) is read as its scripts read it: resampled by a
polyphase filter, only the first channel of noise, and noise that is too short joined to itself by a crossfade.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np

from sepclip.audio import polyphase
from sepclip.audio.arrays import Float32, RealArray
from sepclip.audio.channels import mono_at_rate
from sepclip.audio.files import BadSound, read_sound
from sepclip.mixing.recipe import Source

FADE = 16000 // 2 + 1  # samples at 16 kHz over which LibriMix's scripts crossfade noise that is too short with itself
CHANGED = "is not the file that the recipes were made from: prepare the set again"


@lru_cache(maxsize=1024)
def read_response(path: Path, rate_hz: int) -> Float32:
    """Read the first channel of a room impulse response (L,), from its largest sample on, which is scaled to 1.

    The direct sound thus keeps its time and level, and the rest is the echo. Raise BadSound if it is silent.
    """
    # cached, because each training mixture reads one for every source
    sound = read_sound(path)
    response = mono_at_rate(sound.samples[:1], sound.rate_hz, rate_hz)  # (L',)
    if not response.any():
        raise BadSound(path, "silent: no impulse response")
    direct = int(np.abs(response).argmax())
    tail: Float32 = (response[direct:] / response[direct]).astype(np.float32)
    return tail


def in_room(wave: Float32, response: Float32) -> Float32:
    """Return ``wave`` (T,) as heard in the room of ``response`` (L,): (T,), without the echo after its end."""
    from scipy.signal import fftconvolve  # imported late: it takes a second, and dry mixtures do not need it

    # by FFT: a direct convolution with a response of thousands of samples would take as many products per sample
    heard: Float32 = fftconvolve(wave, response)[: len(wave)].astype(np.float32)
    return heard


def prolong(noise: RealArray, samples: int) -> RealArray:
    """Return ``samples`` samples of a noise (T,), joined to itself as often as needed by crossfades of half a second.

    Source: the scripts of LibriMix.
    """
    fade_in = np.hanning(2 * FADE - 1)[:FADE]
    long = noise
    while len(long) < samples:
        # the two Hann halves add up to 1, so the power of noise falls by 3 dB in the middle of a seam
        seam = long[-FADE:] * fade_in[::-1] + noise[:FADE] * fade_in
        long = np.concatenate([long[:-FADE], seam, noise[FADE:]])
    return long[:samples]


def read_noise(noise: Source, folder: Path, rate_hz: int, *, by_scripts: bool = False) -> Float32:
    """Read a stretch of noise (T,) at ``rate_hz``, without its gain; a recording that is too short is repeated."""
    path = folder / noise.path
    sound = read_sound(path, start=noise.offset, frames=noise.length)
    samples = sound.samples
    if sound.rate_hz != noise.rate_hz or not samples.size:
        raise BadSound(path, CHANGED)
    if by_scripts:
        # below a fade's length the crossfade is undefined
        if samples.shape[1] < min(noise.length, FADE):
            raise BadSound(path, CHANGED)
        return polyphase.resample(prolong(samples[0], noise.length), noise.rate_hz, rate_hz).astype(np.float32)
    if samples.shape[1] < noise.length:
        # after its end, the noise begins again
        missing = noise.length - samples.shape[1]
        start = read_sound(path, frames=missing).samples
        repeated = np.tile(start, -(-missing // max(1, start.shape[1])))[:, :missing]
        samples = np.concatenate([samples, repeated], 1)
    return mono_at_rate(samples, sound.rate_hz, rate_hz, noise.channel, noise.dc)
