"""What the training recipes of a set name, to be mixed anew: voices, what is heard of them in a room, and noises."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sepclip.audio.arrays import PcmWaves
from sepclip.audio.files import read_sound, write_sound
from sepclip.audio.loudness import rms
from sepclip.errors import UserError
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.recipe import Recipe, Source
from sepclip.mixing.render import SetFolders, read_source, to_int16
from sepclip.mixing.rooms import read_noise
from sepclip.terminal import warn

RESAMPLED = "resampled"  # folder of a set: its sources at the set's rate, where theirs is another


class Kept(Protocol):
    """Waves that are loaded when they are asked for, and maybe remembered."""

    def __getitem__(self, index: int) -> PcmWaves:
        """Return a wave (T,)."""


class Bank:
    """The sounds of the training recipes, at the rate of the set and full scale 32768, each stretch once.

    ``voices`` and ``noises`` are in the order of their files. ``keep`` makes of a function that loads a wave by its
    index, below a number, one that remembers. Raises UserError where the recipes do not name all that the mixtures
    hold, or it is not there.
    """

    def __init__(self, mixtures: MixtureSet, keep: Callable[[Callable[[int], PcmWaves], int], Kept]):
        recipes = mixtures.recipes("tr")
        _require_all_named(mixtures, recipes)
        mixtures.require_root()
        self.places = SetFolders.of(mixtures.root, mixtures.about)
        self.places.require()
        self.voices = _distinct(source for recipe in recipes for source in recipe.sources)
        self.noises = _distinct(recipe.noise for recipe in recipes if recipe.noise)
        self.rooms = sorted({tuple(s.rir for s in recipe.sources if s.rir) for recipe in recipes} - {()})
        self.by_voice: dict[str, list[int]] = {}
        for index, source in enumerate(self.voices):
            self.by_voice.setdefault(source.voice, []).append(index)
        self._mixtures = mixtures
        self._index = {_key(source): index for index, source in enumerate(self.voices)}
        self._of_voice = {_key(source): (recipe, k) for recipe in recipes for k, source in enumerate(recipe.sources)}
        self._of_noise = {_key(recipe.noise): recipe for recipe in recipes if recipe.noise}
        self._waves = keep(self._load, 2 * len(self.voices) + len(self.noises))
        self._rms: dict[int, float] = {}

    def voice(self, index: int) -> PcmWaves:
        """Return an utterance (T,) as it is to be separated."""
        return self._waves[index]

    def heard(self, index: int) -> PcmWaves:
        """Return what mixtures hold of an utterance (T,): the same, unless the corpus has a file of its own for it."""
        return self._waves[self._heard(index)]

    def noise(self, index: int) -> PcmWaves:
        """Return a noise (T,)."""
        return self._waves[len(self.voices) + index]

    def rms(self, index: int) -> float:
        """Return the RMS of what is heard of a whole utterance, without its gain."""
        return self._rms_of(self._heard(index))

    def noise_rms(self, index: int) -> float:
        """Return the RMS of a whole noise, without its gain."""
        return self._rms_of(len(self.voices) + index)

    def snr(self, index: int) -> float:
        """Return how many times as loud as a noise the louder voice of its mixture is, by the RMS of both files."""
        noise = self.noises[index]
        voices = self._of_noise[_key(noise)].sources
        loudest = max(abs(source.gain) * self.rms(self._index[_key(source)]) for source in voices)
        return loudest / (abs(noise.gain) * self.noise_rms(index) or 1.0)

    def snr_db(self, index: int) -> float:
        """Return how far a noise is below the louder voice, by the levels in its recipe."""
        return self._of_noise[_key(self.noises[index])].snr_db or 0.0

    def _heard(self, index: int) -> int:
        """Return the index of what is heard of an utterance; such files stand behind voices and noises."""
        return len(self.voices) + len(self.noises) + index if self.voices[index].heard else index

    def _rms_of(self, index: int) -> float:
        if index not in self._rms:
            self._rms[index] = rms(self._waves[index].astype(np.float32), self._mixtures.rate_hz)
        return self._rms[index]

    def _load(self, index: int) -> PcmWaves:
        mixtures, places = self._mixtures, self.places
        if index < len(self.voices):
            source = self.voices[index]
            if mixtures.audio and mixtures.about.get("task") == "enh_both":
                # the target is a sum that the set alone has
                recipe, k = self._of_voice[_key(source)]
                return mixtures.source_waves("tr", recipe, k, start=0, samples=recipe.length)
            return self._cached("voice", source, lambda: self._read(source))
        index -= len(self.voices)
        if index < len(self.noises):
            noise, folder = self.noises[index], places.noise or places.root
            return self._cached(
                "noise", noise, lambda: read_noise(noise, folder, mixtures.rate_hz, by_scripts=places.by_scripts)
            )
        source = self.voices[index - len(self.noises)]
        heard = replace(source, path=source.heard or source.path)
        return self._cached("voice", heard, lambda: self._read(heard))

    def _read(self, source: Source) -> NDArray[np.float32]:
        return read_source(source, self.places.root, self._mixtures.rate_hz, by_scripts=self.places.by_scripts)

    def _cached(self, what: str, source: Source, load: Callable[[], NDArray[np.float32]]) -> PcmWaves:
        """Return a source at the rate of its set (T,), in 16 bits, resampled once for all trainings.

        What had to be resampled is kept in the folder ``resampled`` of the set; one that cannot be written is told
        once, and the source resampled each time.
        """
        mixtures = self._mixtures
        if source.rate_hz == mixtures.rate_hz:
            return to_int16(load())
        how = " by scripts" if self.places.by_scripts else ""
        key = f"{what}{how} {source.path}\n{source.offset} {source.length} {source.rate_hz}"
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


def _key(source: Source) -> tuple[str, int]:
    return source.path, source.offset


def _distinct(sources: Iterable[Source]) -> list[Source]:
    """Return sources of different stretches, sorted by these."""
    found = {_key(source): source for source in sources}
    return [found[key] for key in sorted(found)]


def _require_all_named(mixtures: MixtureSet, recipes: Sequence[Recipe]) -> None:
    """Raise UserError where the mixtures hold what their recipes do not name, so that it would be left out."""
    unnamed = mixtures.about.get("unnamed")
    named = any(recipe.noise or any(one.heard or one.rir for one in recipe.sources) for recipe in recipes)
    if not unnamed and not mixtures.additive and not named:
        unnamed = "noise or echo"  # as by a version that did not name them yet
    if unnamed:
        raise UserError(
            f"the mixtures of {mixtures.path} hold {unnamed} that their recipes do not name, which dynamic mixing "
            f"would leave out: prepare them again in another folder, with all folders of the corpus there, or train "
            f"with --no-dynamic"
        )
