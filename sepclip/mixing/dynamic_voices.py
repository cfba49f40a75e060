"""Mixtures of voices made anew in training, from the recipes of a set alone: other pairs, excerpts, levels, speeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from sepclip.audio.arrays import Float32, PcmWaves
from sepclip.audio.loudness import LAWS
from sepclip.errors import UserError
from sepclip.mixing.levels import RELATIVE_LEVEL_DB, LevelLaw, relative_levels
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.render import FULL_SCALE
from sepclip.mixing.rooms import in_room, read_response
from sepclip.mixing.utterances import Bank, Kept

_MARGIN = 128  # samples around an excerpt whose speed changes, so that the filter has something to work on


@dataclass(frozen=True)
class Augmentation:
    """What else is varied: the speed, as factors, and the noise of the recipes, in dB below the louder voice."""

    speed: tuple[float, float] | None = None
    noise_snr_db: tuple[float, float] | None = None  # None: as in the recipes


NO_AUGMENTATION = Augmentation()


class VoiceMixer:
    """Makes mixtures of the utterances, noises and rooms in the training recipes of a set.

    ``keep`` makes of a function that loads a wave by its index, below a number, one that remembers.
    Raises UserError where the sources do not make the mixtures, or are not there.
    """

    def __init__(
        self,
        mixtures: MixtureSet,
        segment: int,
        augmentation: Augmentation,
        keep: Callable[[Callable[[int], PcmWaves], int], Kept],
    ):
        self._bank = Bank(mixtures, keep)
        self._places = self._bank.places
        self._law = LevelLaw(**mixtures.about.get("levels", {}))
        self._mixtures, self._segment, self._augmentation = mixtures, segment, augmentation
        if augmentation.noise_snr_db and not self._bank.noises:
            raise UserError(
                f"data.noise_snr_db: the recipes of {mixtures.path} name no noise; prepare a set with noise"
            )
        self._names = sorted(self._bank.by_voice)
        self._levels: dict[int, float] = {}

    def mix(self, chance: Random) -> tuple[Float32, Float32]:
        """Return a mixture (T,) and its sources (S, T), full scale 1; all choices are those of ``chance``."""
        law, bank, count = self._law, self._bank, self._mixtures.source_count
        levels = [level * law.apart_db / RELATIVE_LEVEL_DB for level in _levels(chance, count)]
        heard, targets, gains = [], [], []
        rooms: Sequence[str | None] = [None] * count
        names = chance.sample(self._names, count)
        places = [(chance.choice(bank.by_voice[name]), chance.random()) for name in names]
        if bank.rooms:
            rooms = chance.choice(bank.rooms)
        for (index, position), level, room in zip(places, levels, rooms, strict=True):
            gain = 10 ** ((law.to_db + level) / 20) / (self._level(index) or 1.0)
            dry, wet = self._excerpt(index, position, self._percent(chance), room)
            heard.append(wet * np.float32(gain))
            targets.append(
                (dry if self._places.targets == "dry" or bank.voices[index].heard else wet) * np.float32(gain)
            )
            gains.append(gain)
        sources = np.stack(targets)
        mixture: Float32 = np.sum(heard, axis=0, dtype=np.float32)
        if bank.noises and law.by == "recipe":
            loudest = max(gain * bank.rms(index) for gain, (index, _) in zip(gains, places, strict=True))
            mixture = mixture + self._noise_of_files(chance, loudest)
        elif bank.noises:
            mixture = mixture + self._noise(chance, law.to_db + max(levels))
        if law.peak is not None:
            most = max(np.abs(mixture).max(), np.abs(sources).max(), 1.0)
            mixture, sources = mixture * np.float32(law.peak / most), sources * np.float32(law.peak / most)
        return mixture, sources

    def _level(self, index: int) -> float:
        """Return the amplitude of an utterance by the law, of samples at full scale 32768; 0 is silence."""
        if index not in self._levels:
            source = self._bank.voices[index]
            if self._law.by == "recipe":
                relative_db = source.level_db if self._mixtures.source_count > 1 else 0.0  # one alone keeps its own
                level = 10 ** (relative_db / 20) / source.gain if source.gain else 0.0
            else:
                level = LAWS[self._law.by](self._bank.voice(index) / np.float32(FULL_SCALE), self._mixtures.rate_hz)
            self._levels[index] = level * FULL_SCALE
        return self._levels[index]

    def _percent(self, chance: Random) -> int:
        """Return a speed in percent, in whole ones, for which the filters stay short."""
        if self._augmentation.speed is None:
            return 100
        low, high = self._augmentation.speed
        return chance.randint(math.ceil(100 * low - 1e-9), math.floor(100 * high + 1e-9))

    def _excerpt(self, index: int, position: float, percent: int, room: str | None) -> tuple[Float32, Float32]:
        """Return an excerpt (T,) at ``percent`` of its speed, dry and as heard, both at the scale of the utterance."""
        wave, response = self._bank.voice(index), None
        if room is not None and self._places.rirs is not None:
            response = read_response(self._places.rirs / room, self._mixtures.rate_hz)
        margin = _MARGIN if percent != 100 else 0
        before = margin + (len(response) - 1 if response is not None else 0)
        wanted = before + self._segment + margin
        start = int(position * (max(0, len(wave) - -(-self._segment * percent // 100)) + 1))
        first, samples = start - before * percent // 100, -(-wanted * percent // 100)
        dry = at_speed(stretch(wave, first, samples), percent)[:wanted]
        wet = dry if response is None else in_room(dry, response)
        if self._bank.voices[index].heard:
            wet = at_speed(stretch(self._bank.heard(index), first, samples), percent)[:wanted]
        kept = slice(before, before + self._segment)
        return dry[kept], wet[kept]

    def _noise(self, chance: Random, voice_db: float) -> Float32:
        """Return noise (T,) below the louder voice, whose level is ``voice_db``."""
        chosen, excerpt = self._noise_excerpt(chance)
        noise_db = voice_db - self._bank.snr_db(chosen)
        if self._augmentation.noise_snr_db:
            noise_db = voice_db - chance.uniform(*self._augmentation.noise_snr_db)
        level = LAWS["rms"](excerpt, self._mixtures.rate_hz) or 1.0
        return excerpt * np.float32(10 ** (noise_db / 20) / level)

    def _noise_of_files(self, chance: Random, loudest: float) -> Float32:
        """Return noise (T,) as far below the louder voice, of RMS ``loudest``, as in its own mixture, by whole files.

        Where both are of one mixture, that is the gain of the recipe.
        """
        chosen, excerpt = self._noise_excerpt(chance)
        snr = self._bank.snr(chosen)
        if self._augmentation.noise_snr_db:
            snr = 10 ** (chance.uniform(*self._augmentation.noise_snr_db) / 20)
        return excerpt * np.float32(loudest / ((snr * self._bank.noise_rms(chosen)) or 1.0))

    def _noise_excerpt(self, chance: Random) -> tuple[int, Float32]:
        """Return which noise was drawn and an excerpt of it (T,); one that is too short begins anew."""
        chosen = chance.randrange(len(self._bank.noises))
        wave, position = self._bank.noise(chosen), chance.random()
        start = int(position * (max(0, len(wave) - self._segment) + 1))
        return chosen, np.resize(wave[start : start + self._segment], self._segment).astype(np.float32)


def _levels(chance: Random, sources: int) -> list[float]:
    """Return the relative levels of so many sources; one alone, as in enhancement, has that of the recipe."""
    return relative_levels(chance, sources) if sources > 1 else [0.0]


def stretch(wave: PcmWaves, start: int, samples: int) -> Float32:
    """Return ``samples`` samples of ``wave`` (T,) from ``start`` on, maybe below 0; zeros where there are none."""
    piece = np.zeros(samples, np.float32)
    inside = wave[max(0, start) : max(0, start + samples)]
    piece[max(0, -start) : max(0, -start) + len(inside)] = inside
    return piece


def at_speed(wave: Float32, percent: int) -> Float32:
    """Return ``wave`` (T,) played at ``percent`` of its speed, pitch and all: ceil(100 T / percent) samples."""
    if percent == 100:
        return wave
    import torch

    from sepclip.audio.resample import resample

    played: Float32 = resample(torch.from_numpy(wave), percent, 100).numpy()
    return played
