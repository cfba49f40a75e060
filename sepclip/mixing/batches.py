"""Training batches and validation crops: audio held in memory, every choice a function of the step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sepclip.audio.arrays import PcmWaves
from sepclip.errors import UserError
from sepclip.mixing.cache import Readers, Remembered
from sepclip.mixing.chance import generator
from sepclip.mixing.dynamic_voices import NO_AUGMENTATION, Augmentation, VoiceMixer
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.recipe import Recipe
from sepclip.mixing.render import FULL_SCALE

STEM_GAIN = (0.25, 1.25)  # of Open-Unmix


@dataclass(frozen=True)
class Share:
    """The part of every batch that one of ``count`` processes works on; the parts are as even as they can be."""

    index: int = 0
    count: int = 1

    def of(self, total: int) -> range:
        """Return the places of this part among ``total``."""
        return range(total * self.index // self.count, total * (self.index + 1) // self.count)


@dataclass(frozen=True)
class Batch:
    """Mixtures (B, T) and their sources (B, S, T), float32; full scale is 1, which dynamic mixtures may exceed.

    Where there are several channels, T holds them one after the other.
    ``names`` tell them to people. They stand at the places from ``first`` on among the ``total`` of the step, where
    they are but a part of it.
    """

    mixture: Tensor
    sources: Tensor
    names: tuple[str, ...] = ()
    first: int = 0
    total: int = 0  # 0: they are all

    @property
    def share(self) -> float:
        """The share of the step's excerpts that is here, from 0 to 1."""
        return len(self.mixture) / self.total if self.total else 1.0

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> "Batch":
        """Move both to ``device``."""
        return replace(self, mixture=self.mixture.to(device, dtype), sources=self.sources.to(device, dtype))

    def split(self, parts: int) -> "list[Batch]":
        """Return the batch in ``parts`` parts, or in as many as it has excerpts."""
        count = len(self.mixture)
        parts = min(parts, count)
        if parts == 1:
            return [self]
        total = self.total or count
        return [
            Batch(
                self.mixture[one.start : one.stop],
                self.sources[one.start : one.stop],
                self.names[one.start : one.stop],
                self.first + one.start,
                total,
            )
            for one in (Share(index, parts).of(count) for index in range(parts))
        ]


def crop(wave: PcmWaves, start: int, samples: int) -> PcmWaves:
    """Return ``samples`` samples of ``wave`` (..., T) from ``start`` on, zeros beyond its end."""
    piece = wave[..., start : start + samples]
    missing = samples - piece.shape[-1]
    return np.pad(piece, [(0, 0)] * (wave.ndim - 1) + [(0, missing)]) if missing else piece


def to_batch(excerpts: list[PcmWaves]) -> Batch:
    """Stack excerpts (1 + S, T) or (1 + S, C, T), the mixture first, into a batch."""
    stacked = torch.from_numpy(np.stack(excerpts)).flatten(2).float() / FULL_SCALE  # (B, 1 + S, T)
    return Batch(stacked[:, 0], stacked[:, 1:])


def _start(length: int, segment: int, position: float) -> int:
    """Return where an excerpt begins, from the first sample it can (position 0) to the last (1, which is not drawn)."""
    return int(position * (max(0, length - segment) + 1))


@dataclass(frozen=True)
class Sampling:
    """How excerpts of ``segment`` samples are drawn: ``excerpts`` of each mixture an epoch, ``share`` of each batch.

    ``readers``: threads that read files. ``shared``: what is remembered is, with processes forked later.
    """

    segment: int
    batch_size: int
    seed: int
    memory_bytes: float
    excerpts: int
    share: Share
    readers: int
    shared: bool

    def remember(self, load: Callable[[int], PcmWaves], count: int) -> Remembered:
        """Return what loads waves by their index, below ``count``, and remembers them as far as memory goes."""
        return Remembered(load, self.memory_bytes, count if self.shared else 0)

    def steps(self, mixtures: int) -> int:
        """Return the steps of an epoch of so many dynamic mixtures."""
        return max(1, self.excerpts * mixtures // self.batch_size)


class FixedMixtures:
    """Random excerpts of the training mixtures, so many of each in an epoch; the few that fill no batch sit it out."""

    def __init__(self, mixtures: MixtureSet, sampling: Sampling):
        self.recipes = mixtures.recipes("tr")
        self._mixtures, self._readers = mixtures, Readers(sampling.readers)
        self._waves = sampling.remember(lambda index: mixtures.waves("tr", self.recipes[index]), len(self.recipes))
        self._segment, self._seed, self._excerpts = sampling.segment, sampling.seed, sampling.excerpts
        in_all = sampling.excerpts * len(self.recipes)
        self.batch_size = min(sampling.batch_size, in_all)
        self._places = sampling.share.of(self.batch_size)
        self.steps_per_epoch = in_all // self.batch_size
        self._epoch, self._order = -1, list[int]()

    def batch(self, step: int) -> Batch:
        """Return the batch of one step (counted from 0): the same whatever was asked for before."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(self._excerpts * len(self.recipes)))
            generator(self._seed, "order", epoch).shuffle(self._order)
        chosen = self._order[place * self.batch_size : (place + 1) * self.batch_size]
        chance = generator(self._seed, "crops", step)
        positions = [chance.random() for _ in chosen]
        mixtures = [index // self._excerpts for index in chosen]
        made = to_batch(self._readers.each(lambda one: self._excerpt(mixtures[one], positions[one]), self._places))
        names = tuple(self.recipes[mixtures[one]].name for one in self._places)
        return replace(made, names=names, first=self._places.start, total=self.batch_size)

    def _excerpt(self, index: int, position: float) -> PcmWaves:
        recipe, layout = self.recipes[index], self._mixtures.layout
        start = _start(recipe.length, self._segment, position)
        if self._waves.has_room(index, (1 + layout.sources) * layout.channels * recipe.length):
            return crop(self._waves[index], start, self._segment)
        return crop(self._mixtures.waves("tr", recipe, start=start, samples=self._segment), 0, self._segment)


class DynamicMixtures:
    """Mixtures made anew at every step: other pairs, excerpts and levels of the utterances in the training recipes."""

    def __init__(self, mixtures: MixtureSet, sampling: Sampling, augmentation: Augmentation):
        self._readers = Readers(sampling.readers)
        self._mixer = VoiceMixer(mixtures, sampling.segment, augmentation, sampling.remember)
        self._seed, self.batch_size = sampling.seed, sampling.batch_size
        self._places = sampling.share.of(self.batch_size)
        self.steps_per_epoch = sampling.steps(len(mixtures.recipes("tr")))

    def batch(self, step: int) -> Batch:
        """Return the batch of one step (counted from 0): the same whatever was asked for before."""
        made = self._readers.each(
            lambda place: self._mixer.mix(generator(self._seed, f"dynamic {step}", place)), self._places
        )
        mixture, sources = (torch.from_numpy(np.stack(part)) for part in zip(*made, strict=True))
        names = tuple(f"mixture {place} of step {step + 1}" for place in self._places)
        return Batch(mixture, sources, names, self._places.start, self.batch_size)  # (B, T), (B, S, T)


class DynamicStems:
    """Mixtures made anew at every step in a fixed order of sources: each stem an excerpt of another training track.

    Each has a random gain and, of two channels, is as often swapped as not (Uhlich et al. 2017, with the gains of
    Open-Unmix).
    """

    def __init__(self, mixtures: MixtureSet, sampling: Sampling):
        _require_additive(mixtures)
        self._recipes = mixtures.recipes("tr")
        self._mixtures, self._segment, self._seed = mixtures, sampling.segment, sampling.seed
        self.batch_size = sampling.batch_size
        self._places = sampling.share.of(self.batch_size)
        self._readers = Readers(sampling.readers)
        count = mixtures.layout.sources * len(self._recipes)
        self._waves = sampling.remember(lambda key: self._read(key, 0, self._length(key)), count)
        self.steps_per_epoch = sampling.steps(len(self._recipes))

    def batch(self, step: int) -> Batch:
        """Return the batch of one step (counted from 0): the same whatever was asked for before."""
        made = self._readers.each(
            lambda place: self._mix(generator(self._seed, f"dynamic {step}", place)), self._places
        )
        items, names = zip(*made, strict=True)
        batch = torch.from_numpy(np.stack(items))  # (B, S, T)
        return Batch(batch.sum(1), batch, names, self._places.start, self.batch_size)

    def _mix(self, chance: Random) -> tuple[NDArray[np.float32], str]:
        """Return the stems of a mixture (S, T) and its name."""
        count, tracks = self._mixtures.layout.sources, range(len(self._recipes))
        chosen = chance.sample(tracks, count) if len(tracks) >= count else chance.choices(tracks, k=count)
        stems = [self._stem(track * count + stem, chance) for stem, track in enumerate(chosen)]
        return np.stack(stems).reshape(count, -1), " + ".join(self._recipes[track].name for track in chosen)

    def _stem(self, key: int, chance: Random) -> NDArray[np.float32]:
        """Return an excerpt of a stem, (T,) or (C, T)."""
        start = _start(self._length(key), self._segment, chance.random())
        gain, swapped = chance.uniform(*STEM_GAIN), chance.random() < 0.5
        channels = self._mixtures.layout.channels
        if self._waves.has_room(key, channels * self._length(key)):
            wave = crop(self._waves[key], start, self._segment)
        else:
            wave = crop(self._read(key, start, self._segment), 0, self._segment)
        return (wave[::-1] if swapped and channels == 2 else wave) * np.float32(gain / FULL_SCALE)

    def _length(self, key: int) -> int:
        return self._recipes[key // self._mixtures.layout.sources].length

    def _read(self, key: int, start: int, samples: int) -> PcmWaves:
        track, stem = divmod(key, self._mixtures.layout.sources)
        return self._mixtures.source_waves("tr", self._recipes[track], stem, start=start, samples=samples)


def _require_additive(mixtures: MixtureSet) -> None:
    if not mixtures.additive:
        raise UserError(
            f"the mixtures of {mixtures.path} hold more than their sources, such as noise, which dynamic mixing "
            f"would leave out: train with --no-dynamic"
        )


Batches = FixedMixtures | DynamicMixtures | DynamicStems


def training_data(
    mixtures: MixtureSet,
    *,
    segment: int,
    batch_size: int,
    dynamic: bool,
    seed: int,
    memory_gib: float,
    excerpts: int = 1,
    share: Share = Share(),
    augmentation: Augmentation = NO_AUGMENTATION,
    readers: int = 1,
    shared: bool = False,
) -> Batches:
    """Return the training batches of a set: excerpts of ``segment`` samples, fixed mixtures or dynamic ones.

    ``excerpts``: how many of each mixture, on average where they are dynamic, make an epoch. Of every batch only the
    excerpts of ``share`` are read and made; they are the same for any number of processes, and of threads that read
    files (``readers``). ``shared``: the memory for audio is one for this process and those forked later.
    ``augmentation`` is of dynamic mixtures of voices alone.
    """
    if not mixtures.recipes("tr"):
        raise UserError(f"{mixtures.path} has no training mixtures: prepare it with --tr 1 or more")
    voices = dynamic and not mixtures.layout.fixed_order
    if augmentation != NO_AUGMENTATION and not voices:
        raise UserError("data.speed and data.noise_snr_db are for voices mixed in training: leave them out")
    sampling = Sampling(segment, batch_size, seed, memory_gib * 2**30, excerpts, share, readers, shared)
    made: Batches
    if voices:
        made = DynamicMixtures(mixtures, sampling, augmentation)
    else:
        made = DynamicStems(mixtures, sampling) if dynamic else FixedMixtures(mixtures, sampling)
    if made.batch_size < share.count:
        raise UserError(f"{share.count} processes cannot share {made.batch_size} excerpts a step: start fewer")
    return made


class ValidationCrops:
    """The same excerpts of every validation mixture each time: its middle, or so many, spread evenly.

    Of the batches those of ``share`` alone; ``total`` excerpts are in all batches of all. ``readers``: threads that
    read files.
    """

    def __init__(
        self,
        mixtures: MixtureSet,
        segment: int,
        batch_size: int,
        excerpts: int = 1,
        share: Share = Share(),
        readers: int = 1,
    ):
        self.recipes: list[Recipe] = mixtures.recipes("cv")
        if not self.recipes:
            raise UserError(f"{mixtures.path} has no validation mixtures: prepare it with --cv 1 or more")
        self._mixtures, self._segment, self._count = mixtures, segment, excerpts
        self._readers = Readers(readers)
        self.total = excerpts * len(self.recipes)
        starts = range(0, self.total, batch_size)
        ranges = [range(start, min(start + batch_size, self.total)) for start in starts]
        self._ranges = ranges[share.index :: share.count]
        self._excerpts: dict[int, PcmWaves] = {}  # each (1 + S, T)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; they are read at the first time and kept. ``first`` is the place among all excerpts."""
        for places in self._ranges:
            made = to_batch(self._readers.each(self._excerpt, places))
            names = tuple(self.recipes[place // self._count].name for place in places)
            yield replace(made, names=names, first=places.start, total=self.total)

    def _excerpt(self, place: int) -> PcmWaves:
        if place not in self._excerpts:
            index, part = divmod(place, self._count)
            recipe = self.recipes[index]
            start = max(0, recipe.length - self._segment) * (2 * part + 1) // (2 * self._count)
            waves = self._mixtures.waves("cv", recipe, start=start, samples=self._segment)
            self._excerpts[place] = crop(waves, 0, self._segment).copy()
        return self._excerpts[place]
