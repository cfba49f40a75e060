"""Mixtures of voices made anew in training, from the recipes of a set alone: other pairs, excerpts, levels, speeds."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sepclip.audio.files import read_sound, write_sound
from sepclip.audio.loudness import LAWS
from sepclip.errors import UserError
from sepclip.mixing.drawing import LEVEL_DBFS, RELATIVE_LEVEL_DB, relative_levels
from sepclip.mixing.mixture import FULL_SCALE, MixtureSet, Source, Waves, read_source, to_int16
from sepclip.mixing.rooms import Places, in_room, read_noise, read_response
from sepclip.terminal import warn

RESAMPLED = "resampled"  # folder of a set: its sources at the set's rate, where theirs is another
_MARGIN = 128  # samples around an excerpt whose speed changes, so that the filter has something to work on

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class LevelLaw:
    """How the sources of a set come to level, as ``levels`` in ``set.json``.

    ``by`` is one of :data:`LAWS`, measured over the whole utterance; or ``recipe``: the gains of the recipes, without
    their relative levels. A source of 0 dB comes to ``to_db``, two sources are up to ``apart_db`` apart, and
    with ``peak`` one gain for all brings the loudest sample to it.
    """

    by: str = "rms"
    to_db: float = LEVEL_DBFS
    apart_db: float = RELATIVE_LEVEL_DB
    peak: float | None = None

    def document(self) -> dict[str, Any]:
        """Return the law as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Augmentation:
    """What else is varied: the speed, as factors, and the noise of the recipes, in dB below the louder voice."""

    speed: tuple[float, float] | None = None
    noise_snr_db: tuple[float, float] | None = None  # None: as in the recipes


NO_AUGMENTATION = Augmentation()


class Kept(Protocol):
    """Waves that are loaded when they are asked for, and maybe remembered."""

    def __getitem__(self, index: int) -> Waves:
        """Return a wave (T,)."""


class VoiceMixer:
    """Makes mixtures of the utterances, noises and rooms in the training recipes of a set.

    ``keep`` makes of a function that loads a wave by its index one that remembers. Raises UserError where the sources
    do not make the mixtures, or are not there.
    """

    def __init__(
        self,
        mixtures: MixtureSet,
        segment: int,
        augmentation: Augmentation,
        keep: Callable[[Callable[[int], Waves]], Kept],
    ):
        self._places = Places.of(mixtures.root, mixtures.about)
        if not mixtures.additive and self._places == Places(mixtures.root):
            raise UserError(
                f"the mixtures of {mixtures.path} hold more than their sources, such as noise, which dynamic mixing "
                f"would leave out: train with --no-dynamic"
            )
        mixtures.require_root()
        self._places.require()
        self._law = LevelLaw(**mixtures.about.get("levels", {}))
        self._mixtures, self._segment, self._augmentation = mixtures, segment, augmentation
        recipes = mixtures.recipes("tr")
        self._voices = distinct(source for recipe in recipes for source in recipe.sources)
        self._noises = distinct(recipe.noise for recipe in recipes if recipe.noise)
        snrs = {(recipe.noise.path, recipe.noise.offset): recipe.snr_db or 0.0 for recipe in recipes if recipe.noise}
        self._snrs_db = [snrs[noise.path, noise.offset] for noise in self._noises]
        self._rooms = sorted({tuple(s.rir for s in recipe.sources if s.rir) for recipe in recipes} - {()})
        if augmentation.noise_snr_db and not self._noises:
            raise UserError(
                f"data.noise_snr_db: the recipes of {mixtures.path} name no noise; prepare a set with --noise DIR"
            )
        self._by_voice: dict[str, list[int]] = {}
        for index, source in enumerate(self._voices):
            self._by_voice.setdefault(source.voice, []).append(index)
        self._names = sorted(self._by_voice)
        self._waves = keep(self._load)
        self._levels: dict[int, float] = {}

    def mix(self, chance: Random) -> tuple[Float32, Float32]:
        """Return a mixture (T,) and its sources (S, T), full scale 1; all choices are those of ``chance``."""
        law, count = self._law, self._mixtures.source_count
        levels = [level * law.apart_db / RELATIVE_LEVEL_DB for level in relative_levels(chance, count)]
        heard, targets = [], []
        rooms: Sequence[str | None] = [None] * count
        names = chance.sample(self._names, count)
        places = [(chance.choice(self._by_voice[name]), chance.random()) for name in names]
        if self._rooms:
            rooms = chance.choice(self._rooms)
        for (index, position), level, room in zip(places, levels, rooms, strict=True):
            gain = 10 ** ((law.to_db + level) / 20) / (self._level(index) or 1.0)
            dry, wet = self._excerpt(self._waves[index], position, self._percent(chance), room)
            heard.append(wet * np.float32(gain))
            targets.append((dry if self._places.targets == "dry" else wet) * np.float32(gain))
        sources = np.stack(targets)
        mixture: Float32 = np.sum(heard, axis=0, dtype=np.float32)
        if self._noises:
            mixture = mixture + self._noise(chance, law.to_db + max(levels))
        if law.peak is not None:
            loudest = max(np.abs(mixture).max(), np.abs(sources).max(), 1.0)
            mixture, sources = mixture * np.float32(law.peak / loudest), sources * np.float32(law.peak / loudest)
        return mixture, sources

    def _load(self, index: int) -> Waves:
        """Return an utterance, or behind these a noise, at the rate of the set (T,)."""
        rate_hz = self._mixtures.rate_hz
        if index < len(self._voices):
            source = self._voices[index]
            return cached("voice", source, self._mixtures, lambda: read_source(source, self._places.root, rate_hz))
        noise, folder = self._noises[index - len(self._voices)], self._places.noise
        assert folder is not None
        return cached("noise", noise, self._mixtures, lambda: read_noise(noise, folder, rate_hz))

    def _level(self, index: int) -> float:
        """Return the amplitude of an utterance by the law, of samples at full scale 32768; 0 is silence."""
        if index not in self._levels:
            source = self._voices[index]
            if self._law.by == "recipe":
                level = 10 ** (source.level_db / 20) / source.gain if source.gain else 0.0
            else:
                level = LAWS[self._law.by](self._waves[index] / np.float32(FULL_SCALE), self._mixtures.rate_hz)
            self._levels[index] = level * FULL_SCALE
        return self._levels[index]

    def _percent(self, chance: Random) -> int:
        """Return a speed in percent, in whole ones, for which the filters stay short."""
        if self._augmentation.speed is None:
            return 100
        low, high = self._augmentation.speed
        return chance.randint(math.ceil(100 * low - 1e-9), math.floor(100 * high + 1e-9))

    def _excerpt(self, wave: Waves, position: float, percent: int, room: str | None) -> tuple[Float32, Float32]:
        """Return an excerpt (T,) at ``percent`` of its speed, dry and in a room, both at the scale of ``wave``."""
        response = None
        if room is not None and self._places.rirs is not None:
            response = read_response(self._places.rirs / room, self._mixtures.rate_hz)
        margin = _MARGIN if percent != 100 else 0
        before = margin + (len(response) - 1 if response is not None else 0)
        wanted = before + self._segment + margin
        start = int(position * (max(0, len(wave) - -(-self._segment * percent // 100)) + 1))
        piece = stretch(wave, start - before * percent // 100, -(-wanted * percent // 100))  # (T',)
        dry = at_speed(piece, percent)[:wanted]
        wet = dry if response is None else in_room(dry, response)
        kept = slice(before, before + self._segment)
        return dry[kept], wet[kept]

    def _noise(self, chance: Random, voice_db: float) -> Float32:
        """Return noise (T,) below the louder voice, whose level is ``voice_db``."""
        chosen = chance.randrange(len(self._noises))
        wave, position = self._waves[len(self._voices) + chosen], chance.random()
        start = int(position * (max(0, len(wave) - self._segment) + 1))
        excerpt = np.resize(wave[start : start + self._segment], self._segment).astype(np.float32)
        noise_db = voice_db - self._snrs_db[chosen]
        if self._augmentation.noise_snr_db:
            noise_db = voice_db - chance.uniform(*self._augmentation.noise_snr_db)
        level = LAWS["rms"](excerpt, self._mixtures.rate_hz) or 1.0
        return excerpt * np.float32(10 ** (noise_db / 20) / level)


def distinct(sources: Any) -> list[Source]:
    """Return sources of different stretches, sorted by these."""
    found: dict[tuple[str, int], Source] = {(source.path, source.offset): source for source in sources}
    return [found[key] for key in sorted(found)]


def stretch(wave: Waves, start: int, samples: int) -> Float32:
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


def cached(what: str, source: Source, mixtures: MixtureSet, load: Callable[[], Float32]) -> Waves:
    """Return a source at the rate of its set (T,), in 16 bits, resampled once for all trainings.

    What had to be resampled is kept in the folder ``resampled`` of the set; one that cannot be written is told once,
    and the source resampled each time.
    """
    if source.rate_hz == mixtures.rate_hz:
        return to_int16(load())
    key = f"{what} {source.path}\n{source.offset} {source.length} {source.rate_hz}"
    file = mixtures.path / RESAMPLED / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.wav"
    if file.is_file():
        return to_int16(read_sound(file).samples[0])
    wave = to_int16(load())
    try:
        write_sound(file, wave, mixtures.rate_hz, flush=False)
    except UserError as error:
        if mixtures.path not in _told:
            _told.add(mixtures.path)
            warn(f"{error}: sources are resampled anew in every training")
    return wave


_told: set[Path] = set()
