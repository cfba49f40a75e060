"""Noise and rooms around the voices of a mixture: how they are read, and how a recipe that has them is rendered.

A corpus with scripts of its own (``by_scripts`` in ``set.json``) is read as these read it: resampled by a polyphase
filter, of noise the first channel, and one that ends too soon joined to itself by a crossfade.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepclip.audio import polyphase
from sepclip.audio.files import BadSound, read_sound
from sepclip.errors import UserError
from sepclip.mixing.mixture import Recipe, Source, mono_at_rate, read_source, to_int16, with_mixture

TARGETS = ("reverberant", "dry")
FADE = 16000 // 2 + 1  # samples over which the scripts of LibriMix join a noise of 16 kHz that is too short to itself

Float32 = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Places:
    """Where a set's recipes point to, whether its sources are the voices with their echo or without, and how to read.

    The folder of noise may be given from ``root`` on: that of a tree that is read in place moves with it.
    """

    root: Path
    noise: Path | None = None
    rirs: Path | None = None
    targets: str = "reverberant"
    by_scripts: bool = False

    @classmethod
    def of(cls, root: Path, about: Mapping[str, Any]) -> "Places":
        """Return the places of a set that ``set.json`` says this ``about``."""
        noise, rirs = (root / about[key] if about.get(key) else None for key in ("noise_root", "rirs_root"))
        return cls(root, noise, rirs, about.get("targets", "reverberant"), bool(about.get("by_scripts")))

    def require(self) -> None:
        """Raise UserError where the noise or the room impulse responses are not where the set says."""
        for what, folder, option in (
            ("noise", self.noise, "--noise-root"),
            ("room impulse responses", self.rirs, "--rirs-root"),
        ):
            if folder is not None and not folder.is_dir():
                raise UserError(
                    f"the {what} of these mixtures lay in {folder}, which is not there: say with {option} where the "
                    f"folder lies now"
                )


@lru_cache(maxsize=1024)
def read_response(path: Path, rate_hz: int) -> Float32:
    """Read a room impulse response (L,), its first channel, from its largest sample on, which is brought to 1.

    So what arrives directly keeps time and level, and the rest is its echo. Raises BadSound for a silent one.
    """
    sound = read_sound(path)
    response = mono_at_rate(sound.samples[:1], sound.rate_hz, rate_hz)  # (L',)
    if not response.any():
        raise BadSound(path, "silent: no impulse response")
    direct = int(np.abs(response).argmax())
    tail: Float32 = (response[direct:] / response[direct]).astype(np.float32)
    return tail


def in_room(wave: Float32, response: Float32) -> Float32:
    """Return ``wave`` (T,) as heard in the room of ``response`` (L,): (T,), without the echo behind its end."""
    from scipy.signal import fftconvolve  # a second of start-up that dry mixtures do not need

    heard: Float32 = fftconvolve(wave, response)[: len(wave)].astype(np.float32)
    return heard


def prolong(noise: Floats, samples: int) -> Floats:
    """Return ``samples`` of a noise (T,), joined to itself as often as it takes, crossfaded over half a second."""
    fade_in = np.hanning(2 * FADE - 1)[:FADE]
    long = noise
    while len(long) < samples:
        seam = long[-FADE:] * fade_in[::-1] + noise[:FADE] * fade_in
        long = np.concatenate([long[:-FADE], seam, noise[FADE:]])
    return long[:samples]


def read_noise(noise: Source, folder: Path, rate_hz: int, *, by_scripts: bool = False) -> Float32:
    """Read a stretch of noise (T,), without its gain, at ``rate_hz``; a recording that ends begins anew."""
    path = folder / noise.path
    sound = read_sound(path, start=noise.offset, frames=noise.length)
    samples = sound.samples
    if sound.rate_hz != noise.rate_hz or not samples.size:
        raise BadSound(path, "is not the file that the recipes were made from: prepare the set again")
    if by_scripts:
        if samples.shape[1] < min(noise.length, FADE):
            raise BadSound(path, "is not the file that the recipes were made from: prepare the set again")
        return polyphase.resample(prolong(samples[0], noise.length), noise.rate_hz, rate_hz).astype(np.float32)
    if samples.shape[1] < noise.length:
        whole = np.roll(read_sound(path).samples, -noise.offset, 1)
        samples = np.tile(whole, -(-noise.length // max(1, whole.shape[1])))[:, : noise.length]
    return mono_at_rate(samples, sound.rate_hz, rate_hz)


def render_scene(recipe: Recipe, places: Places, rate_hz: int) -> NDArray[np.int16]:
    """Render the mixture and sources (1 + S, T) of a recipe, with its noise and rooms.

    The mixture is the sum of what is heard of all sources and of the noise, each rounded to 16 bits.
    """
    dry = np.zeros((len(recipe.sources), recipe.length), np.float32)
    for row, source in zip(dry, recipe.sources, strict=True):
        wave = read_source(source, places.root, rate_hz, by_scripts=places.by_scripts)[: recipe.length]
        row[: len(wave)] = wave * np.float32(source.gain)
    heard, noise = dry, np.zeros((1, recipe.length), np.float32)
    if places.rirs is not None:
        responses = [read_response(places.rirs / str(source.rir), rate_hz) for source in recipe.sources]
        heard = np.stack([in_room(row, response) for row, response in zip(dry, responses, strict=True)])
    if recipe.noise is not None and places.noise is not None:
        wave = read_noise(recipe.noise, places.noise, rate_hz, by_scripts=places.by_scripts)[: recipe.length]
        noise[0, : len(wave)] = wave * np.float32(recipe.noise.gain)
    targets = dry if places.targets == "dry" else heard
    if recipe.peak is not None:
        loudest = max(np.abs(heard.sum(0) + noise[0]).max(initial=0), np.abs(targets).max(initial=0))
        common = np.float32(recipe.peak / max(1.0, float(loudest)))
        heard, targets, noise = heard * common, targets * common, noise * common
    voices = to_int16(heard)
    together = voices if recipe.noise is None else np.concatenate([voices, to_int16(noise)])
    return np.concatenate([with_mixture(together)[:1], to_int16(targets) if places.targets == "dry" else voices])
