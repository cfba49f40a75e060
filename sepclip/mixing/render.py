"""From a recipe to samples: reading its sources, and rendering the mixture with its noise and rooms."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepclip.audio import polyphase
from sepclip.audio.channels import mono_at_rate
from sepclip.audio.files import BadSound
from sepclip.audio.sphere import read_speech
from sepclip.errors import UserError
from sepclip.mixing.augmentation import fade
from sepclip.mixing.conversation import FADE_SECONDS
from sepclip.mixing.recipe import Recipe, Source
from sepclip.mixing.rooms import CHANGED, in_room, read_noise, read_response

FULL_SCALE = 32768  # of int16
TARGETS = ("reverberant", "dry")  # the sources of a set with rooms: with or without their echo


@dataclass(frozen=True)
class SetFolders:
    """The folders that the recipes of a set point into, and how their files are read.

    ``targets`` is one of :data:`TARGETS`. ``by_scripts``: files are resampled as by the scripts of wsj0-2mix and
    LibriMix.
    """

    root: Path
    noise: Path | None = None
    rirs: Path | None = None
    targets: str = TARGETS[0]
    by_scripts: bool = False

    def require(self) -> None:
        """Raise UserError if the noise or the room impulse responses are not where the set says."""
        for what, folder, option in (
            ("noise", self.noise, "--noise-root"),
            ("room impulse responses", self.rirs, "--rirs-root"),
        ):
            if folder is not None and not folder.is_dir():
                raise UserError(
                    f"the {what} of these mixtures was read from {folder}, which is not there: say with {option} where "
                    f"the folder is now"
                )


def render_scene(recipe: Recipe, folders: SetFolders, rate_hz: int) -> NDArray[np.int16]:
    """Render the mixture and sources (1 + S, T) of a recipe, with its noise and rooms.

    The mixture is the sum of all sources as heard and of the noise, each rounded to 16 bits.
    """
    # the sources, filled with silence to the length of the mixture
    dry = np.zeros((len(recipe.sources), recipe.length), np.float32)
    for row, source in zip(dry, recipe.sources, strict=True):
        if source.absent:
            continue
        wave = read_source(source, folders.root, rate_hz, by_scripts=folders.by_scripts)
        start, skip, samples = source.turn or (0, 0, recipe.length)
        wave = wave[skip : skip + min(samples, recipe.length - start)]
        row[start : start + len(wave)] = wave * np.float32(source.gain)
        if source.turn:
            fade(row, start, start + len(wave), round(FADE_SECONDS * rate_hz))
    # their echo and the noise, which keep the relative levels of the recipe
    heard, noise = dry, np.zeros((1, recipe.length), np.float32)
    if folders.rirs is not None:
        heard = dry.copy()
        for row, source in zip(heard, recipe.sources, strict=True):
            if not source.absent:
                row[:] = in_room(row, read_response(folders.rirs / str(source.rir), rate_hz))
    if recipe.noise is not None and folders.noise is not None:
        wave = read_noise(recipe.noise, folders.noise, rate_hz, by_scripts=folders.by_scripts)[: recipe.length]
        noise[0, : len(wave)] = wave * np.float32(recipe.noise.gain)
    targets = dry if folders.targets == "dry" else heard
    # an echo can exceed what the peaks of the dry sources allow for, so the common gain is known only now
    if recipe.peak is not None:
        loudest = max(np.abs(heard.sum(0) + noise[0]).max(initial=0), np.abs(targets).max(initial=0))
        common = np.float32(recipe.peak / max(1.0, float(loudest)))
        heard, targets, noise = heard * common, targets * common, noise * common
    # sum after rounding, so that the written files add up exactly
    voices = to_int16(heard)
    parts = voices if recipe.noise is None else np.concatenate([voices, to_int16(noise)])
    return np.concatenate([with_mixture(parts)[:1], to_int16(targets) if folders.targets == "dry" else voices])


def to_int16(samples: NDArray[np.floating[Any]], gain: float = 1.0) -> NDArray[np.int16]:
    """Round samples times ``gain``, in [-1, 1), to 16 bits, as a 16-bit WAV stores them."""
    # FULL_SCALE is a power of two, so this equals multiplying by one factor after the other, to the bit
    steps = samples * (gain * FULL_SCALE)
    # in place: writing to new memory costs more than the arithmetic
    np.rint(steps, out=steps)
    np.clip(steps, -FULL_SCALE, FULL_SCALE - 1, out=steps)
    rounded: NDArray[np.int16] = steps.astype(np.int16)
    return rounded


def with_mixture(sources: NDArray[np.int16]) -> NDArray[np.int16]:
    """Put the sum of ``sources`` (S, T) before them: (1 + S, T). The gains of a recipe leave room for it."""
    total = sources.sum(0, dtype=np.int32, keepdims=True)
    return np.concatenate([total.clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16), sources])


def read_source(source: Source, root: Path, rate_hz: int, *, by_scripts: bool = False) -> NDArray[np.float32]:
    """Read the stretch of one source, mono, at ``rate_hz``, without its gain (T,).

    ``by_scripts`` resamples as the scripts of wsj0-2mix and LibriMix do.
    """
    path = root / source.path
    sound = read_speech(path, start=source.offset, frames=source.length)
    if sound.rate_hz != source.rate_hz or sound.samples.shape[1] < source.length:
        raise BadSound(path, CHANGED)
    if by_scripts:
        # in float64, as the scripts compute
        return polyphase.resample(sound.samples[0].astype(np.float64), sound.rate_hz, rate_hz).astype(np.float32)
    return mono_at_rate(sound.samples, sound.rate_hz, rate_hz, source.channel, source.dc)
