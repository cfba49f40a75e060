"""Training batches and validation crops: audio held in memory, every choice a function of the step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sepclip.errors import UserError
from sepclip.mixing.augmentation import NO_AUGMENTATION, Augmentation, VoiceMixer
from sepclip.mixing.drawing import generator
from sepclip.mixing.mixture import FULL_SCALE, MixtureSet, Recipe, Waves

STEM_GAIN = (0.25, 1.25)  # of Open-Unmix
_MOST_BYTES = 4  # of a sample in memory


@dataclass(frozen=True)
class Batch:
    """Mixtures (B, T) and their sources (B, S, T), float32; full scale is 1, which dynamic mixtures may exceed.

    Where there are several channels, T holds them one after the other.
    """

    mixture: Tensor
    sources: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Move both to ``device``."""
        return Batch(self.mixture.to(device), self.sources.to(device))


class _Kept:
    """Remember loaded waves up to a number of bytes; what exceeds it is loaded again when needed."""

    def __init__(self, load: Callable[[int], Waves], most_bytes: float):
        self._load, self._room = load, most_bytes
        self._waves: dict[int, Waves] = {}

    def has_room(self, index: int, samples: int) -> bool:
        """Tell whether a wave of so many ``samples`` in all is kept, or would be."""
        return index in self._waves or _MOST_BYTES * samples <= self._room

    def __getitem__(self, index: int) -> Waves:
        wave = self._waves.get(index)
        if wave is None:
            wave = self._load(index)
            if wave.nbytes <= self._room:
                self._room -= wave.nbytes
                self._waves[index] = wave
        return wave


def crop(wave: Waves, start: int, samples: int) -> Waves:
    """Return ``samples`` samples of ``wave`` (..., T) from ``start`` on, zeros beyond its end."""
    piece = wave[..., start : start + samples]
    missing = samples - piece.shape[-1]
    return np.pad(piece, [(0, 0)] * (wave.ndim - 1) + [(0, missing)]) if missing else piece


def to_batch(excerpts: list[Waves]) -> Batch:
    """Stack excerpts (1 + S, T) or (1 + S, C, T), the mixture first, into a batch."""
    stacked = torch.from_numpy(np.stack(excerpts)).flatten(2).float() / FULL_SCALE  # (B, 1 + S, T)
    return Batch(stacked[:, 0], stacked[:, 1:])


def _start(length: int, segment: int, position: float) -> int:
    """Return where an excerpt begins, from the first sample it can (position 0) to the last (1, which is not drawn)."""
    return int(position * (max(0, length - segment) + 1))


class FixedMixtures:
    """Random excerpts of the training mixtures, so many of each in an epoch; the few that fill no batch sit it out."""

    def __init__(
        self, mixtures: MixtureSet, segment: int, batch_size: int, seed: int, memory_bytes: float, excerpts: int = 1
    ):
        self.recipes = mixtures.recipes("tr")
        self._mixtures = mixtures
        self._waves = _Kept(lambda index: mixtures.waves("tr", self.recipes[index]), memory_bytes)
        self._segment, self._seed, self._excerpts = segment, seed, excerpts
        in_all = excerpts * len(self.recipes)
        self._batch_size = min(batch_size, in_all)
        self.steps_per_epoch = in_all // self._batch_size
        self._epoch, self._order = -1, list[int]()

    def batch(self, step: int) -> Batch:
        """Return the batch of one step (counted from 0): the same whatever was asked for before."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(self._excerpts * len(self.recipes)))
            generator(self._seed, "order", epoch).shuffle(self._order)
        chosen = self._order[place * self._batch_size : (place + 1) * self._batch_size]
        chance = generator(self._seed, "crops", step)
        return to_batch([self._excerpt(index // self._excerpts, chance.random()) for index in chosen])

    def _excerpt(self, index: int, position: float) -> Waves:
        recipe, layout = self.recipes[index], self._mixtures.layout
        start = _start(recipe.length, self._segment, position)
        if self._waves.has_room(index, (1 + layout.sources) * layout.channels * recipe.length):
            return crop(self._waves[index], start, self._segment)
        return crop(self._mixtures.waves("tr", recipe, start=start, samples=self._segment), 0, self._segment)


class DynamicMixtures:
    """Mixtures made anew at every step: other pairs, excerpts and levels of the utterances in the training recipes."""

    def __init__(
        self,
        mixtures: MixtureSet,
        segment: int,
        batch_size: int,
        seed: int,
        memory_bytes: float,
        excerpts: int = 1,
        augmentation: Augmentation = NO_AUGMENTATION,
    ):
        self._mixer = VoiceMixer(mixtures, segment, augmentation, lambda load: _Kept(load, memory_bytes))
        self._seed, self._batch_size = seed, batch_size
        self.steps_per_epoch = max(1, excerpts * len(mixtures.recipes("tr")) // batch_size)

    def batch(self, step: int) -> Batch:
        """Return the batch of one step (counted from 0): the same whatever was asked for before."""
        made = [self._mixer.mix(generator(self._seed, f"dynamic {step}", place)) for place in range(self._batch_size)]
        mixture, sources = (torch.from_numpy(np.stack(part)) for part in zip(*made, strict=True))
        return Batch(mixture, sources)  # (B, T), (B, S, T)


class DynamicStems:
    """Mixtures made anew at every step in a fixed order of sources: each stem an excerpt of another training track.

    Each has a random gain and, of two channels, is as often swapped as not (Uhlich et al. 2017, with the gains of
    Open-Unmix).
    """

    def __init__(
        self, mixtures: MixtureSet, segment: int, batch_size: int, seed: int, memory_bytes: float, excerpts: int = 1
    ):
        _require_additive(mixtures)
        self._recipes = mixtures.recipes("tr")
        self._mixtures, self._segment, self._seed, self._batch_size = mixtures, segment, seed, batch_size
        self._waves = _Kept(lambda key: self._read(key, 0, self._length(key)), memory_bytes)
        self.steps_per_epoch = max(1, excerpts * len(self._recipes) // batch_size)

    def batch(self, step: int) -> Batch:
        """Return the batch of one step (counted from 0): the same whatever was asked for before."""
        layout, tracks = self._mixtures.layout, range(len(self._recipes))
        items = []
        for place in range(self._batch_size):
            chance = generator(self._seed, f"dynamic {step}", place)
            enough = len(tracks) >= layout.sources
            chosen = chance.sample(tracks, layout.sources) if enough else chance.choices(tracks, k=layout.sources)
            stems = [self._stem(track * layout.sources + stem, chance) for stem, track in enumerate(chosen)]
            items.append(np.stack(stems).reshape(layout.sources, -1))
        batch = torch.from_numpy(np.stack(items))  # (B, S, T)
        return Batch(batch.sum(1), batch)

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

    def _read(self, key: int, start: int, samples: int) -> Waves:
        track, stem = divmod(key, self._mixtures.layout.sources)
        return self._mixtures.source_waves("tr", self._recipes[track], stem, start=start, samples=samples)


def _require_additive(mixtures: MixtureSet) -> None:
    if not mixtures.additive:
        raise UserError(
            f"the mixtures of {mixtures.path} hold more than their sources, such as noise, which dynamic mixing "
            f"would leave out: train with --no-dynamic"
        )


def training_data(
    mixtures: MixtureSet,
    *,
    segment: int,
    batch_size: int,
    dynamic: bool,
    seed: int,
    memory_gib: float,
    excerpts: int = 1,
    augmentation: Augmentation = NO_AUGMENTATION,
) -> FixedMixtures | DynamicMixtures | DynamicStems:
    """Return the training batches of a set: excerpts of ``segment`` samples, fixed mixtures or dynamic ones.

    ``excerpts``: how many of each mixture, on average where they are dynamic, make an epoch. ``augmentation`` is of
    dynamic mixtures of voices alone.
    """
    if not mixtures.recipes("tr"):
        raise UserError(f"{mixtures.path} has no training mixtures: prepare it with --tr 1 or more")
    voices = dynamic and not mixtures.layout.fixed_order
    if augmentation != NO_AUGMENTATION and not voices:
        raise UserError("data.speed and data.noise_snr_db are for voices mixed in training: leave them out")
    settings = (mixtures, segment, batch_size, seed, memory_gib * 2**30, excerpts)
    if voices:
        return DynamicMixtures(*settings, augmentation)
    return DynamicStems(*settings) if dynamic else FixedMixtures(*settings)


class ValidationCrops:
    """The same excerpts of every validation mixture each time: its middle, or so many, spread evenly."""

    def __init__(self, mixtures: MixtureSet, segment: int, batch_size: int, excerpts: int = 1):
        self.recipes: list[Recipe] = mixtures.recipes("cv")
        if not self.recipes:
            raise UserError(f"{mixtures.path} has no validation mixtures: prepare it with --cv 1 or more")
        self._mixtures, self._segment, self._batch_size = mixtures, segment, batch_size
        self._count = excerpts
        self._excerpts: list[Waves] = []  # each (1 + S, T)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; they are read at the first time and kept."""
        if not self._excerpts:
            self._excerpts = [self._excerpt(recipe, index) for recipe in self.recipes for index in range(self._count)]
        for start in range(0, len(self._excerpts), self._batch_size):
            yield to_batch(self._excerpts[start : start + self._batch_size])

    def _excerpt(self, recipe: Recipe, index: int) -> Waves:
        start = max(0, recipe.length - self._segment) * (2 * index + 1) // (2 * self._count)
        waves = self._mixtures.waves("cv", recipe, start=start, samples=self._segment)
        return crop(waves, 0, self._segment).copy()
