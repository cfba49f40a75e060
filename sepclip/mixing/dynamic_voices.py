"""Dynamic mixing of voices: new mixtures in training, from the recipes of a set alone.

Speakers, utterances, excerpts, levels, speeds, rooms and noise are drawn again for every mixture. The sounds come from
:class:`sepclip.mixing.utterances.TrainingSounds`; :class:`sepclip.mixing.batches.DynamicMixtures` makes batches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from sepclip.audio.arrays import Float32, PcmWaves
from sepclip.audio.loudness import LAWS
from sepclip.errors import UserError
from sepclip.mixing.cache import MakeCache
from sepclip.mixing.levels import RELATIVE_LEVEL_DB, relative_levels
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.render import FULL_SCALE
from sepclip.mixing.rooms import in_room, read_response
from sepclip.mixing.utterances import TrainingSounds

_MARGIN = 128  # samples around an excerpt whose speed changes: the resampling filter needs context


@dataclass(frozen=True)
class Augmentation:
    """What else is varied: the speed, as factors, and the level of noise, in dB below the louder voice."""

    speed: tuple[float, float] | None = None
    noise_snr_db: tuple[float, float] | None = None  # None: as in the recipes


NO_AUGMENTATION = Augmentation()


class VoiceMixer:
    """Makes mixtures of the utterances, noises and rooms in the training recipes of a set.

    ``make_cache(load, count)`` returns a caching wrapper around ``load(index)``. Raise UserError if the recipes do not
    name everything that is in the mixtures, or it is not there.
    """

    def __init__(self, mixtures: MixtureSet, segment: int, augmentation: Augmentation, make_cache: MakeCache):
        self._sounds = TrainingSounds(mixtures, make_cache)
        self._folders = self._sounds.folders
        self._law = mixtures.level_law
        self._mixtures, self._segment, self._augmentation = mixtures, segment, augmentation
        if augmentation.noise_snr_db and not self._sounds.noises:
            raise UserError(
                f"data.noise_snr_db: the recipes of {mixtures.path} name no noise; prepare a set with noise"
            )
        # sorted, so that a seed draws the same speakers whatever the order of the recipes
        self._voices = sorted(self._sounds.by_voice)
        self._levels: dict[int, float] = {}

    def mix(self, chance: Random) -> tuple[Float32, Float32]:
        """Return a mixture (T,) and its sources (S, T), full scale 1; all choices are drawn from ``chance``."""
        law, sounds, count = self._law, self._sounds, self._mixtures.source_count
        # draw levels, speakers, an utterance of each with the place of its excerpt, and a room; the order of the
        # draws decides the mixtures of a seed, so it must not change
        levels = [level * law.apart_db / RELATIVE_LEVEL_DB for level in _levels(chance, count)]
        heard, targets, gains = [], [], []
        room: Sequence[str | None] = [None] * count
        voices = chance.sample(self._voices, count)
        places = [(chance.choice(sounds.by_voice[voice]), chance.random()) for voice in voices]
        if sounds.rooms:
            room = chance.choice(sounds.rooms)
        # cut the excerpts and bring each to its level
        for (index, position), level, response in zip(places, levels, room, strict=True):
            gain = 10 ** ((law.to_db + level) / 20) / (self._level(index) or 1.0)
            dry, wet = self._excerpt(index, position, self._draw_percent(chance), response)
            heard.append(wet * np.float32(gain))
            is_dry = self._folders.targets == "dry" or sounds.voices[index].heard
            targets.append((dry if is_dry else wet) * np.float32(gain))
            gains.append(gain)
        sources = np.stack(targets)  # (S, T)
        mixture: Float32 = np.sum(heard, axis=0, dtype=np.float32)  # (T,)
        # add noise, as far below the louder voice as in a recipe
        if sounds.noises and law.by == "recipe":
            loudest = max(gain * sounds.rms(index) for gain, (index, _) in zip(gains, places, strict=True))
            mixture = mixture + self._noise_by_rms(chance, loudest)
        elif sounds.noises:
            mixture = mixture + self._noise_by_level(chance, law.to_db + max(levels))
        # one gain for all, so that nothing exceeds the peak and relative levels stay
        if law.peak is not None:
            most = max(np.abs(mixture).max(), np.abs(sources).max(), 1.0)
            mixture, sources = mixture * np.float32(law.peak / most), sources * np.float32(law.peak / most)
        return mixture, sources

    def _level(self, index: int) -> float:
        """Return the amplitude of an utterance by the level law, at full scale 32768; 0 for silence."""
        if index not in self._levels:
            source = self._sounds.voices[index]
            if self._law.by == "recipe":
                # the gain of a recipe contains the relative level, except that a single source keeps its own
                relative_db = source.level_db if self._mixtures.source_count > 1 else 0.0
                level = 10 ** (relative_db / 20) / source.gain if source.gain else 0.0
            else:
                level = LAWS[self._law.by](self._sounds.voice(index) / np.float32(FULL_SCALE), self._mixtures.rate_hz)
            self._levels[index] = level * FULL_SCALE
        return self._levels[index]

    def _draw_percent(self, chance: Random) -> int:
        """Return a speed in whole percent, for which the resampling filters stay short."""
        if self._augmentation.speed is None:
            return 100
        low, high = self._augmentation.speed
        return chance.randint(math.ceil(100 * low - 1e-9), math.floor(100 * high + 1e-9))

    def _excerpt(self, index: int, position: float, percent: int, rir: str | None) -> tuple[Float32, Float32]:
        """Return an excerpt (T,) at ``percent`` of its speed, dry and as heard, both at the scale of the utterance."""
        wave, response = self._sounds.voice(index), None
        if rir is not None and self._folders.rirs is not None:
            response = read_response(self._folders.rirs / rir, self._mixtures.rate_hz)
        # read more than the excerpt: a margin for the filter, and what echoes into the excerpt from before it
        margin = _MARGIN if percent != 100 else 0
        before = margin + (len(response) - 1 if response is not None else 0)
        wanted = before + self._segment + margin
        start = excerpt_start(len(wave), -(-self._segment * percent // 100), position)
        first, samples = start - before * percent // 100, -(-wanted * percent // 100)
        dry = at_speed(stretch(wave, first, samples), percent)[:wanted]
        # as heard: the corpus has a file for it, or the echo is computed, or there is none
        wet = dry if response is None else in_room(dry, response)
        if self._sounds.voices[index].heard:
            wet = at_speed(stretch(self._sounds.heard(index), first, samples), percent)[:wanted]
        excerpt = slice(before, before + self._segment)
        return dry[excerpt], wet[excerpt]

    def _noise_by_level(self, chance: Random, voice_db: float) -> Float32:
        """Return noise (T,) below the louder voice, whose level is ``voice_db``."""
        index, excerpt = self._noise_excerpt(chance)
        noise_db = voice_db - self._sounds.snr_db(index)
        if self._augmentation.noise_snr_db:
            noise_db = voice_db - chance.uniform(*self._augmentation.noise_snr_db)
        # by the excerpt and not the whole noise: a noise may be quiet for a while
        level = LAWS["rms"](excerpt, self._mixtures.rate_hz) or 1.0
        return excerpt * np.float32(10 ** (noise_db / 20) / level)

    def _noise_by_rms(self, chance: Random, loudest: float) -> Float32:
        """Return noise (T,) as far below the louder voice, of RMS ``loudest``, as in its own mixture, by whole files.

        With the voices of its own mixture, this is the gain of the recipe.
        """
        index, excerpt = self._noise_excerpt(chance)
        snr = self._sounds.snr(index)
        if self._augmentation.noise_snr_db:
            snr = 10 ** (chance.uniform(*self._augmentation.noise_snr_db) / 20)
        return excerpt * np.float32(loudest / ((snr * self._sounds.noise_rms(index)) or 1.0))

    def _noise_excerpt(self, chance: Random) -> tuple[int, Float32]:
        """Return the index of the noise that was drawn, and an excerpt of it (T,); a noise too short is repeated."""
        index = chance.randrange(len(self._sounds.noises))
        wave, position = self._sounds.noise(index), chance.random()
        start = excerpt_start(len(wave), self._segment, position)
        return index, np.resize(wave[start : start + self._segment], self._segment).astype(np.float32)


def excerpt_start(length: int, segment: int, position: float) -> int:
    """Return where an excerpt begins, from the first sample (position 0) to the last possible one (below 1)."""
    return int(position * (max(0, length - segment) + 1))


def _levels(chance: Random, sources: int) -> list[float]:
    """Draw the relative levels of the sources; a single one, as in enhancement, keeps the level of its recipe."""
    return relative_levels(chance, sources) if sources > 1 else [0.0]


def stretch(wave: PcmWaves, start: int, samples: int) -> Float32:
    """Return ``samples`` samples of ``wave`` (T,) from ``start`` on, which may be negative; zeros outside the wave."""
    piece = np.zeros(samples, np.float32)
    inside = wave[max(0, start) : max(0, start + samples)]
    piece[max(0, -start) : max(0, -start) + len(inside)] = inside
    return piece


def at_speed(wave: Float32, percent: int) -> Float32:
    """Return ``wave`` (T,) played at ``percent`` of its speed, with its pitch: ceil(100 T / percent) samples."""
    if percent == 100:
        return wave
    # resampling from `percent` to 100 changes the number of samples; played at the old rate, the wave is faster
    import torch

    from sepclip.audio.resample import resample

    played: Float32 = resample(torch.from_numpy(wave), percent, 100).numpy()
    return played
