"""Training batches and validation crops: audio held in memory, every choice a function of the step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sepclip.errors import UserError
from sepclip.mixing.drawing import LEVEL_DBFS, generator, relative_levels
from sepclip.mixing.mixture import FULL_SCALE, MixtureSet, Recipe, Source, Waves, read_source, to_int16


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


class _Kept:
    """Remember loaded waves up to a number of bytes; what exceeds it is loaded again when needed."""

    def __init__(self, load: Callable[[int], Waves], most_bytes: float):
        self._load, self._room = load, most_bytes
        self._waves: dict[int, Waves] = {}

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


class FixedMixtures:
    """Random excerpts of the training mixtures, none twice in an epoch; the few that fill no batch sit it out."""

    def __init__(
        self, mixtures: MixtureSet, segment: int, batch_size: int, seed: int, memory_bytes: float, share: Share
    ):
        self.recipes = mixtures.recipes("tr")
        self._waves = _Kept(lambda index: mixtures.waves("tr", self.recipes[index]), memory_bytes)
        self._segment, self._seed = segment, seed
        self.batch_size = min(batch_size, len(self.recipes))
        self._places = share.of(self.batch_size)
        self.steps_per_epoch = len(self.recipes) // self.batch_size
        self._epoch, self._order = -1, list[int]()

    def batch(self, step: int) -> Batch:
        """Return the batch of one step (counted from 0): the same whatever was asked for before."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(len(self.recipes)))
            generator(self._seed, "order", epoch).shuffle(self._order)
        chosen = self._order[place * self.batch_size : (place + 1) * self.batch_size]
        chance = generator(self._seed, "crops", step)
        positions = [chance.random() for _ in chosen]
        made = to_batch([self._excerpt(self._waves[chosen[one]], positions[one]) for one in self._places])
        names = tuple(self.recipes[chosen[one]].name for one in self._places)
        return replace(made, names=names, first=self._places.start, total=self.batch_size)

    def _excerpt(self, waves: Waves, position: float) -> Waves:
        return crop(waves, int(position * (max(0, waves.shape[-1] - self._segment) + 1)), self._segment)


class DynamicMixtures:
    """Mixtures made anew at every step: other pairs, excerpts and levels of the utterances in the training recipes."""

    def __init__(
        self, mixtures: MixtureSet, segment: int, batch_size: int, seed: int, memory_bytes: float, share: Share
    ):
        if not mixtures.additive:
            raise UserError(
                f"the mixtures of {mixtures.path} hold more than their sources, such as noise, which dynamic mixing "
                f"would leave out: train with --no-dynamic"
            )
        mixtures.require_root()
        recipes = mixtures.recipes("tr")
        stretches: dict[tuple[str, int], Source] = {
            (source.path, source.offset): source for recipe in recipes for source in recipe.sources
        }
        self._utterances = utterances = [stretches[key] for key in sorted(stretches)]
        self._by_voice: dict[str, list[int]] = {}
        for index, source in enumerate(utterances):
            self._by_voice.setdefault(source.voice, []).append(index)
        self._voices = sorted(self._by_voice)
        self._waves = _Kept(
            lambda index: to_int16(read_source(utterances[index], mixtures.root, mixtures.rate_hz)),
            memory_bytes,
        )
        self._segment, self._seed, self._sources = segment, seed, mixtures.source_count
        self.batch_size = batch_size
        self._places = share.of(batch_size)
        self.steps_per_epoch = max(1, len(recipes) // batch_size)

    def batch(self, step: int) -> Batch:
        """Return the batch of one step (counted from 0): the same whatever was asked for before."""
        sources, names = [], []
        for place in self._places:
            chance = generator(self._seed, f"dynamic {step}", place)
            levels = relative_levels(chance, self._sources)
            voices = chance.sample(self._voices, self._sources)
            rows, paths = [], []
            for voice, level in zip(voices, levels, strict=True):
                index = chance.choice(self._by_voice[voice])
                wave = self._waves[index]
                paths.append(self._utterances[index].path)
                start = int(chance.random() * (max(0, len(wave) - self._segment) + 1))
                rms = np.sqrt(np.square(wave, dtype=np.float64).mean()) or 1.0
                gain = np.float32(10 ** ((LEVEL_DBFS + level) / 20) / rms)
                rows.append(crop(wave, start, self._segment) * gain)
            sources.append(np.stack(rows))
            names.append(" + ".join(paths))
        batch = torch.from_numpy(np.stack(sources))  # (B, S, T)
        return Batch(batch.sum(1), batch, tuple(names), self._places.start, self.batch_size)


def training_data(
    mixtures: MixtureSet,
    *,
    segment: int,
    batch_size: int,
    dynamic: bool,
    seed: int,
    memory_gib: float,
    share: Share = Share(),
) -> FixedMixtures | DynamicMixtures:
    """Return the training batches of a set: excerpts of ``segment`` samples, fixed mixtures or dynamic ones.

    Of every batch only the excerpts of ``share`` are read and made; they are the same for any number of processes.
    """
    kind = DynamicMixtures if dynamic else FixedMixtures
    if not mixtures.recipes("tr"):
        raise UserError(f"{mixtures.path} has no training mixtures: prepare it with --tr 1 or more")
    made = kind(mixtures, segment, batch_size, seed, memory_gib * 2**30, share)
    if made.batch_size < share.count:
        raise UserError(f"{share.count} processes cannot share {made.batch_size} excerpts a step: start fewer")
    return made


class ValidationCrops:
    """The same excerpt of every validation mixture each time: its middle. Of the batches those of ``share`` alone."""

    def __init__(self, mixtures: MixtureSet, segment: int, batch_size: int, share: Share = Share()):
        self.recipes: list[Recipe] = mixtures.recipes("cv")
        if not self.recipes:
            raise UserError(f"{mixtures.path} has no validation mixtures: prepare it with --cv 1 or more")
        self._mixtures, self._segment = mixtures, segment
        starts = range(0, len(self.recipes), batch_size)
        self._ranges = [range(start, min(start + batch_size, len(self.recipes))) for start in starts]
        self._ranges = self._ranges[share.index :: share.count]
        self._excerpts: dict[int, Waves] = {}  # each (1 + S, T)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; they are read at the first time and kept. ``first`` is the place among all mixtures."""
        for places in self._ranges:
            made = to_batch([self._excerpt(place) for place in places])
            names = tuple(self.recipes[place].name for place in places)
            yield replace(made, names=names, first=places.start, total=len(self.recipes))

    def _excerpt(self, place: int) -> Waves:
        if place not in self._excerpts:
            waves = self._mixtures.waves("cv", self.recipes[place])
            middle = max(0, waves.shape[-1] - self._segment) // 2
            self._excerpts[place] = crop(waves, middle, self._segment).copy()
        return self._excerpts[place]
