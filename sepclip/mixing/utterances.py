"""The sounds that dynamic mixing draws from: what the training recipes of a set name.

These are the voices as they are to be separated, the voices as heard in a room, and the noises.
:mod:`sepclip.mixing.dynamic_voices` draws from them.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sepclip.audio.arrays import PcmWaves
from sepclip.audio.files import read_sound, write_sound
from sepclip.audio.loudness import rms
from sepclip.errors import UserError
from sepclip.mixing.cache import MakeCache
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.recipe import Recipe, Source
from sepclip.mixing.render import read_source, to_int16
from sepclip.mixing.rooms import read_noise
from sepclip.terminal import warn

RESAMPLED = "resampled"  # folder of a set: its sources at the set's rate, if their own is another one


class TrainingSounds:
    """The sounds of the training recipes, at the rate of the set and full scale 32768, each stretch once.

    ``voices`` and ``noises`` are in the order of their files; ``by_voice`` has the indices of each speaker's
    utterances. One cache, made by ``make_cache``, holds all waves: first the voices, then the noises, then the voices
    as heard, if the corpus has files for these. Raise UserError if the recipes do not name everything that is in the
    mixtures, or it is not there.
    """

    def __init__(self, mixtures: MixtureSet, make_cache: MakeCache):
        recipes = mixtures.recipes("tr")
        _require_all_named(mixtures, recipes)
        mixtures.require_root()
        self.folders = mixtures.source_folders
        self.folders.require()
        # each stretch once, though many recipes name it: it then takes memory and disk once
        self.voices = _distinct(source for recipe in recipes for source in recipe.sources if not source.absent)
        self.noises = _distinct(recipe.noise for recipe in recipes if recipe.noise)
        self.rooms = sorted({tuple(s.rir for s in recipe.sources if s.rir) for recipe in recipes} - {()})
        self.by_voice: dict[str, list[int]] = {}
        for index, source in enumerate(self.voices):
            self.by_voice.setdefault(source.voice, []).append(index)
        # where each stretch occurs in the recipes, for its levels and for sources that only the set has
        self._mixtures = mixtures
        self._index = {_key(source): index for index, source in enumerate(self.voices)}
        self._recipe_of_voice = {
            _key(source): (recipe, place) for recipe in recipes for place, source in enumerate(recipe.sources)
        }
        self._recipe_of_noise = {_key(recipe.noise): recipe for recipe in recipes if recipe.noise}
        # one cache, so that the limit of memory holds for all kinds of sounds together
        self._waves = make_cache(self._load, 2 * len(self.voices) + len(self.noises))
        self._rms: dict[int, float] = {}

    def voice(self, index: int) -> PcmWaves:
        """Return an utterance (T,) as it is to be separated."""
        return self._waves[index]

    def heard(self, index: int) -> PcmWaves:
        """Return an utterance (T,) as it is in mixtures: the same, unless the corpus has a file of its own for it."""
        return self._waves[self._heard_index(index)]

    def noise(self, index: int) -> PcmWaves:
        """Return a noise (T,)."""
        return self._waves[len(self.voices) + index]

    def rms(self, index: int) -> float:
        """Return the RMS of a whole utterance as heard, without its gain."""
        return self._rms_of(self._heard_index(index))

    def noise_rms(self, index: int) -> float:
        """Return the RMS of a whole noise, without its gain."""
        return self._rms_of(len(self.voices) + index)

    def snr(self, index: int) -> float:
        """Return the ratio of the louder voice of its mixture to a noise, by the RMS of both files with their gains."""
        noise = self.noises[index]
        # the gains alone do not say how loud the files are, so both are measured
        voices = self._recipe_of_noise[_key(noise)].sources
        loudest = max(abs(source.gain) * self.rms(self._index[_key(source)]) for source in voices)
        return loudest / (abs(noise.gain) * self.noise_rms(index) or 1.0)  # a silent noise has no ratio

    def snr_db(self, index: int) -> float:
        """Return how far a noise is below the louder voice in dB, by the levels in its recipe."""
        return self._recipe_of_noise[_key(self.noises[index])].snr_db or 0.0

    def _heard_index(self, index: int) -> int:
        """Return the index of an utterance as heard in the cache; these come after voices and noises."""
        return len(self.voices) + len(self.noises) + index if self.voices[index].heard else index

    def _rms_of(self, index: int) -> float:
        # measured once: a pass over a whole wave costs more than cutting an excerpt
        if index not in self._rms:
            self._rms[index] = rms(self._waves[index].astype(np.float32), self._mixtures.rate_hz)
        return self._rms[index]

    def _load(self, index: int) -> PcmWaves:
        """Read what belongs to an index of the cache (T,)."""
        mixtures, folders = self._mixtures, self.folders
        if index < len(self.voices):
            source = self.voices[index]
            if mixtures.audio and mixtures.about["task"] == "enh_both":
                # the target is a sum of files that only the set has
                recipe, place = self._recipe_of_voice[_key(source)]
                return mixtures.source_waves("tr", recipe, place, start=0, samples=recipe.length)
            # a function, so that nothing is read if a resampled file exists
            return self._resampled("voice", source, lambda: self._read(source))
        # after the voices come the noises, whose folder may be another one than the root
        index -= len(self.voices)
        if index < len(self.noises):
            noise, folder = self.noises[index], folders.noise or folders.root
            return self._resampled(
                "noise", noise, lambda: read_noise(noise, folder, mixtures.rate_hz, by_scripts=folders.by_scripts)
            )
        # and at last the files of voices with their echo
        source = self.voices[index - len(self.noises)]
        heard = replace(source, path=source.heard or source.path)
        return self._resampled("voice", heard, lambda: self._read(heard))

    def _read(self, source: Source) -> NDArray[np.float32]:
        return read_source(source, self.folders.root, self._mixtures.rate_hz, by_scripts=self.folders.by_scripts)

    def _resampled(self, what: str, source: Source, load: Callable[[], NDArray[np.float32]]) -> PcmWaves:
        """Return a source at the rate of its set (T,), in 16 bits, resampled once for all trainings.

        A resampled source is stored in the folder ``resampled`` of the set. If it cannot be written, warn once for the
        set and resample in every training.
        """
        mixtures = self._mixtures
        # nothing to resample: the corpus itself is the store
        if source.rate_hz == mixtures.rate_hz:
            return to_int16(load())
        # the name of the file is a digest of all that decides its samples
        how = " by scripts" if self.folders.by_scripts else ""
        key = f"{what}{how} {source.path}\n{source.offset} {source.length} {source.rate_hz}"
        if source.channel is not None or source.dc is not None:
            key += f" {source.channel} {source.dc}"
        file = mixtures.path / RESAMPLED / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.wav"
        if file.is_file():
            return to_int16(read_sound(file).samples[0])
        # 16 bits take half the memory of floats, here and in the file
        wave = to_int16(load())
        try:
            # not flushed: a file that a power cut loses is made again
            write_sound(file, wave, mixtures.rate_hz, flush=False)
        except UserError as error:
            if mixtures.path not in _warned:
                _warned.add(mixtures.path)
                warn(f"{error}: sources are resampled again in every training")
        return wave


_warned: set[Path] = set()  # sets whose resampled sources cannot be written


def _key(source: Source) -> tuple[str, int]:
    return source.path, source.offset


def _distinct(sources: Iterable[Source]) -> list[Source]:
    """Return one source for each stretch (path and offset), sorted by these."""
    # sorted, so that indices do not depend on the order of the recipes
    by_key = {_key(source): source for source in sources}
    return [by_key[key] for key in sorted(by_key)]


def _require_all_named(mixtures: MixtureSet, recipes: Sequence[Recipe]) -> None:
    """Raise UserError if the mixtures contain something that their recipes do not name, and so would be left out."""
    unnamed = mixtures.about["unnamed"]
    named = any(recipe.noise or any(source.heard or source.rir for source in recipe.sources) for recipe in recipes)
    if not unnamed and not mixtures.additive and not named:
        unnamed = "noise or echo"  # a set of an early version, which did not name them yet
    if unnamed:
        raise UserError(
            f"the mixtures of {mixtures.path} contain {unnamed} that their recipes do not name, which dynamic mixing "
            f"would leave out: prepare them again in another folder, with all folders of the corpus there, or train "
            f"with --no-dynamic"
        )
