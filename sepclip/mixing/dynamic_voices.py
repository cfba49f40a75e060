"""Dynamic mixing of voices: new mixtures in training, from the recipes of a set alone.

Speakers, utterances, excerpts, levels, speeds, rooms and noise are drawn again for every mixture. The sounds come from
:class:`sepclip.mixing.utterances.TrainingSounds`; :class:`sepclip.mixing.batches.DynamicMixtures` makes batches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from sepclip.audio.activity import HOP_SECONDS, hop_levels, hop_samples, is_active
from sepclip.audio.arrays import Float32, PcmWaves
from sepclip.audio.loudness import LAWS
from sepclip.errors import UserError
from sepclip.mixing.augmentation import coloured_noise, draw_equaliser, equalise, fade, telephone
from sepclip.mixing.cache import MakeCache
from sepclip.mixing.conversation import (
    ALL_THE_TIME,
    FADE_SECONDS,
    LEAST_SECONDS,
    Conversation,
    Pairing,
    turns_in_excerpt,
)
from sepclip.mixing.levels import RELATIVE_LEVEL_DB, relative_levels
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.render import FULL_SCALE
from sepclip.mixing.rooms import in_room, read_response
from sepclip.mixing.utterances import TrainingSounds

_TRIES = 8  # at an excerpt in which the voice speaks for long enough
_MARGIN = 128  # samples around an excerpt whose speed changes: the resampling filter needs context


@dataclass(frozen=True)
class Augmentation:
    """What else is varied in dynamic mixtures of voices; each is off by default.

    ``speed``: factors for the speed. ``noise_snr_db``: of the recipes' noise, in dB below the louder voice; None as in
    the recipes. ``conversation``: how voices take turns. ``same_corpus``: share of the mixtures whose voices are of one
    corpus, which ``corpus_from`` finds in the name of a voice. ``equaliser_db``: most gain or loss of a random
    equaliser on each source. ``telephone``: share of the mixtures that pass a telephone. ``coloured_noise_db``: level
    of coloured noise in every mixture, in dB below the louder voice.
    """

    speed: tuple[float, float] | None = None
    noise_snr_db: tuple[float, float] | None = None
    conversation: Conversation = ALL_THE_TIME
    same_corpus: float | None = None
    corpus_from: str = ""
    equaliser_db: float | None = None
    telephone: float = 0.0
    coloured_noise_db: tuple[float, float] | None = None


NO_AUGMENTATION = Augmentation()


@dataclass(frozen=True)
class _Part:
    """What one source of a dynamic mixture is made of: an excerpt of an utterance that is heard from start to stop."""

    index: int  # of the utterance
    position: float  # of the excerpt in it, from 0 to 1
    level_db: float
    percent: int  # of its speed
    rir: str | None
    start: int
    stop: int


class VoiceMixer:
    """Makes mixtures of the utterances, noises and rooms in the training recipes of a set.

    ``make_cache(load, count)`` returns a caching wrapper around ``load(index)``. Raise UserError if the recipes do not
    name everything that is in the mixtures, or it is not there.
    """

    def __init__(self, mixtures: MixtureSet, augmentation: Augmentation, make_cache: MakeCache):
        self._sounds = TrainingSounds(mixtures, make_cache)
        self._folders = self._sounds.folders
        self._law = mixtures.level_law
        self._mixtures, self._augmentation = mixtures, augmentation
        if augmentation.noise_snr_db and not self._sounds.noises:
            raise UserError(
                f"data.noise_snr_db: the recipes of {mixtures.path} name no noise; prepare a set with noise"
            )
        # sorted, so that a seed draws the same speakers whatever the order of the recipes
        self._voices = sorted(self._sounds.by_voice)
        self._levels: dict[int, float] = {}
        self._active: dict[int, NDArray[np.bool_]] = {}
        if augmentation.conversation.overlap and mixtures.source_count != 2:
            raise UserError("data.overlap is for mixtures of two voices: leave it out")
        self._pairing = Pairing.of(self._voices, augmentation.same_corpus, augmentation.corpus_from)

    def mix(self, chance: Random, samples: int) -> tuple[Float32, Float32]:
        """Return a mixture (T,) of ``samples`` and its sources (S, T), full scale 1; ``chance`` draws everything."""
        law, augmentation = self._law, self._augmentation
        draw = self._draw_conversation if augmentation.conversation else self._draw_voices
        parts = draw(chance, samples)
        # cut the excerpts and bring each to its level; a voice that is absent stays silent
        heard = np.zeros((len(parts), samples), np.float32)  # (S, T)
        targets, gains = heard.copy(), [0.0] * len(parts)
        for place, part in enumerate(parts):
            if part is not None:
                gains[place] = 10 ** ((law.to_db + part.level_db) / 20) / (self._level(part.index) or 1.0)
                dry, wet = self._render(part, chance, samples)
                is_dry = self._folders.targets == "dry" or self._sounds.voices[part.index].heard
                heard[place] = wet * np.float32(gains[place])
                targets[place] = (dry if is_dry else wet) * np.float32(gains[place])
        mixture: Float32 = np.sum(heard, axis=0, dtype=np.float32)  # (T,)
        # add the noise of the recipes, as far below the louder voice as there
        if self._sounds.noises and law.by == "recipe":
            rms_by_place = [self._sounds.rms(part.index) if part else 0.0 for part in parts]
            loudest = max(gain * level for gain, level in zip(gains, rms_by_place, strict=True))
            mixture = mixture + self._noise_by_rms(chance, loudest, samples)
        elif self._sounds.noises:
            loudest_db = max(part.level_db for part in parts if part)
            mixture = mixture + self._noise_by_level(chance, law.to_db + loudest_db, samples)
        mixture, targets = self._pass_on(mixture, targets, chance)
        # one gain for all, so that nothing exceeds the peak and relative levels stay
        if law.peak is not None:
            most = max(np.abs(mixture).max(), np.abs(targets).max(), 1.0)
            mixture, targets = mixture * np.float32(law.peak / most), targets * np.float32(law.peak / most)
        return mixture, targets

    def _draw_voices(self, chance: Random, samples: int) -> list[_Part | None]:
        """Draw voices that all speak all of the time.

        The order of the draws decides the mixtures of a seed, so it must not change.
        """
        sounds, count = self._sounds, self._mixtures.source_count
        levels = [level * self._law.apart_db / RELATIVE_LEVEL_DB for level in _levels(chance, count)]
        room: Sequence[str | None] = [None] * count
        voices = self._pairing.draw(chance, self._voices, count)
        places = [(chance.choice(sounds.by_voice[voice]), chance.random()) for voice in voices]
        if sounds.rooms:
            room = chance.choice(sounds.rooms)
        return [
            _Part(index, position, level, self._draw_percent(chance), rir, 0, samples)
            for (index, position), level, rir in zip(places, levels, room, strict=True)
        ]

    def _draw_conversation(self, chance: Random, samples: int) -> list[_Part | None]:
        """Draw voices that take turns, or one alone, each speaking for half a second or more."""
        sounds, count, conversation = self._sounds, self._mixtures.source_count, self._augmentation.conversation
        single = conversation.draw_is_single(chance)
        turns = [(0, samples)] * (1 if single else count)
        if not single and conversation.overlap:
            least = round(LEAST_SECONDS * self._mixtures.rate_hz)
            turns = turns_in_excerpt(conversation.draw_overlap(chance), samples, least, chance)
        # either voice comes first, and either place is the empty one
        order = chance.sample(range(count), count)
        room: Sequence[str | None] = chance.choice(sounds.rooms) if sounds.rooms else [None] * count
        levels = [level * self._law.apart_db / RELATIVE_LEVEL_DB for level in _levels(chance, count)]
        parts: list[_Part | None] = [None] * count
        voices = self._pairing.draw(chance, self._voices, len(turns))
        for voice, place, (start, stop) in zip(voices, order[: len(turns)], turns, strict=True):
            index, percent = chance.choice(sounds.by_voice[voice]), self._draw_percent(chance)
            position = self._draw_position(chance, index, (stop - start) * percent // 100)
            parts[place] = _Part(index, position, levels[place], percent, room[place], start, stop)
        return parts

    def _draw_position(self, chance: Random, index: int, samples: int) -> float:
        """Draw the position of an excerpt in which the voice speaks for half a second or more, if there is one."""
        wave, best = self._sounds.voice(index), (-1, 0.0)
        if index not in self._active:
            levels = hop_levels(wave / np.float32(FULL_SCALE), self._mixtures.rate_hz)
            self._active[index] = is_active(levels)
        active, hop = self._active[index], hop_samples(self._mixtures.rate_hz)
        for _ in range(_TRIES):
            position = chance.random()
            start = excerpt_start(len(wave), samples, position)
            hops = int(active[start // hop : (start + samples) // hop].sum())
            best = max(best, (hops, position))
            if hops * HOP_SECONDS >= LEAST_SECONDS:
                break
        return best[1]

    def _render(self, part: _Part, chance: Random, samples: int) -> tuple[Float32, Float32]:
        """Return a source (T,) dry and as heard, at the scale of its utterance, and silent outside its turn."""
        dry, wet = self._excerpt(part.index, part.position, part.percent, part.rir, part.stop - part.start)
        if self._augmentation.equaliser_db:
            gains_db = draw_equaliser(chance, self._augmentation.equaliser_db)
            heard_dry, rate_hz = wet is dry, self._mixtures.rate_hz
            dry = equalise(dry, gains_db, rate_hz)
            wet = dry if heard_dry else equalise(wet, gains_db, rate_hz)
        if (part.start, part.stop) == (0, samples):
            return dry, wet
        waves = np.zeros((2, samples), np.float32)
        waves[:, part.start : part.stop] = dry, wet
        for wave in waves:
            fade(wave, part.start, part.stop, round(FADE_SECONDS * self._mixtures.rate_hz))
        return waves[0], waves[1]

    def _pass_on(self, mixture: Float32, targets: Float32, chance: Random) -> tuple[Float32, Float32]:
        """Return mixture and sources as a channel passes them on: by telephone, and with noise of its own."""
        augmentation, rate_hz = self._augmentation, self._mixtures.rate_hz
        if augmentation.telephone and chance.random() < augmentation.telephone:
            mixture, *sources = telephone(np.concatenate([mixture[None], targets]), rate_hz)
            targets = np.stack(sources)
        if augmentation.coloured_noise_db:
            loudest = max(LAWS["rms"](target, rate_hz) for target in targets)
            below_db = chance.uniform(*augmentation.coloured_noise_db)
            noise = coloured_noise(chance, len(mixture))
            mixture = mixture + noise * np.float32(loudest * 10 ** (-below_db / 20))
        return mixture, targets

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

    def _excerpt(
        self, index: int, position: float, percent: int, rir: str | None, segment: int
    ) -> tuple[Float32, Float32]:
        """Return an excerpt (T,) at ``percent`` of its speed, dry and as heard, both at the scale of the utterance."""
        wave, response = self._sounds.voice(index), None
        if rir is not None and self._folders.rirs is not None:
            response = read_response(self._folders.rirs / rir, self._mixtures.rate_hz)
        # read more than the excerpt: a margin for the filter, and what echoes into the excerpt from before it
        margin = _MARGIN if percent != 100 else 0
        before = margin + (len(response) - 1 if response is not None else 0)
        wanted = before + segment + margin
        start = excerpt_start(len(wave), -(-segment * percent // 100), position)
        first, samples = start - before * percent // 100, -(-wanted * percent // 100)
        dry = at_speed(stretch(wave, first, samples), percent)[:wanted]
        # as heard: the corpus has a file for it, or the echo is computed, or there is none
        wet = dry if response is None else in_room(dry, response)
        if self._sounds.voices[index].heard:
            wet = at_speed(stretch(self._sounds.heard(index), first, samples), percent)[:wanted]
        excerpt = slice(before, before + segment)
        part = dry[excerpt]
        return part, part if wet is dry else wet[excerpt]

    def _noise_by_level(self, chance: Random, voice_db: float, samples: int) -> Float32:
        """Return noise (T,) below the louder voice, whose level is ``voice_db``."""
        index, excerpt = self._noise_excerpt(chance, samples)
        noise_db = voice_db - self._sounds.snr_db(index)
        if self._augmentation.noise_snr_db:
            noise_db = voice_db - chance.uniform(*self._augmentation.noise_snr_db)
        # by the excerpt and not the whole noise: a noise may be quiet for a while
        level = LAWS["rms"](excerpt, self._mixtures.rate_hz) or 1.0
        return excerpt * np.float32(10 ** (noise_db / 20) / level)

    def _noise_by_rms(self, chance: Random, loudest: float, samples: int) -> Float32:
        """Return noise (T,) as far below the louder voice, of RMS ``loudest``, as in its own mixture, by whole files.

        With the voices of its own mixture, this is the gain of the recipe.
        """
        index, excerpt = self._noise_excerpt(chance, samples)
        snr = self._sounds.snr(index)
        if self._augmentation.noise_snr_db:
            snr = 10 ** (chance.uniform(*self._augmentation.noise_snr_db) / 20)
        return excerpt * np.float32(loudest / ((snr * self._sounds.noise_rms(index)) or 1.0))

    def _noise_excerpt(self, chance: Random, samples: int) -> tuple[int, Float32]:
        """Return the index of the noise that was drawn, and an excerpt of it (T,); a noise too short is repeated."""
        index = chance.randrange(len(self._sounds.noises))
        wave, position = self._sounds.noise(index), chance.random()
        start = excerpt_start(len(wave), samples, position)
        return index, np.resize(wave[start : start + samples], samples).astype(np.float32)


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
