"""Training batches and validation crops: audio held in memory, every choice a function of the step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sepclip.errors import UserError
from sepclip.mixing.drawing import LEVEL_DBFS, generator, relative_levels
from sepclip.mixing.mixture import FULL_SCALE, MixtureSet, Recipe, Source, Waves, read_source, to_int16


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

    def __init__(self, mixtures: MixtureSet, segment: int, batch_size: int, seed: int, memory_bytes: float):
        self.recipes = mixtures.recipes("tr")
        self._waves = _Kept(lambda index: mixtures.waves("tr", self.recipes[index]), memory_bytes)
        self._segment, self._seed = segment, seed
        self._batch_size = min(batch_size, len(self.recipes))
        self.steps_per_epoch = len(self.recipes) // self._batch_size
        self._epoch, self._order = -1, list[int]()

    def batch(self, step: int) -> Batch:
        """Return the batch of one step (counted from 0): the same whatever was asked for before."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(len(self.recipes)))
            generator(self._seed, "order", epoch).shuffle(self._order)
        chosen = self._order[place * self._batch_size : (place + 1) * self._batch_size]
        chance = generator(self._seed, "crops", step)
        return to_batch([self._excerpt(self._waves[index], chance.random()) for index in chosen])

    def _excerpt(self, waves: Waves, position: float) -> Waves:
        return crop(waves, int(position * (max(0, waves.shape[-1] - self._segment) + 1)), self._segment)


class DynamicMixtures:
    """Mixtures made anew at every step: other pairs, excerpts and levels of the utterances in the training recipes."""

    def __init__(self, mixtures: MixtureSet, segment: int, batch_size: int, seed: int, memory_bytes: float):
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
        utterances = [stretches[key] for key in sorted(stretches)]
        self._by_voice: dict[str, list[int]] = {}
        for index, source in enumerate(utterances):
            self._by_voice.setdefault(source.voice, []).append(index)
        self._voices = sorted(self._by_voice)
        self._waves = _Kept(
            lambda index: to_int16(read_source(utterances[index], mixtures.root, mixtures.rate_hz)),
            memory_bytes,
        )
        self._segment, self._seed, self._sources = segment, seed, mixtures.source_count
        self._batch_size = batch_size
        self.steps_per_epoch = max(1, len(recipes) // batch_size)

    def batch(self, step: int) -> Batch:
        """Return the batch of one step (counted from 0): the same whatever was asked for before."""
        sources = []
        for place in range(self._batch_size):
            chance = generator(self._seed, f"dynamic {step}", place)
            levels = relative_levels(chance, self._sources)
            voices = chance.sample(self._voices, self._sources)
            rows = []
            for voice, level in zip(voices, levels, strict=True):
                wave = self._waves[chance.choice(self._by_voice[voice])]
                start = int(chance.random() * (max(0, len(wave) - self._segment) + 1))
                rms = np.sqrt(np.square(wave, dtype=np.float64).mean()) or 1.0
                gain = np.float32(10 ** ((LEVEL_DBFS + level) / 20) / rms)
                rows.append(crop(wave, start, self._segment) * gain)
            sources.append(np.stack(rows))
        batch = torch.from_numpy(np.stack(sources))  # (B, S, T)
        return Batch(batch.sum(1), batch)


def training_data(
    mixtures: MixtureSet, *, segment: int, batch_size: int, dynamic: bool, seed: int, memory_gib: float
) -> FixedMixtures | DynamicMixtures:
    """Return the training batches of a set: excerpts of ``segment`` samples, fixed mixtures or dynamic ones."""
    kind = DynamicMixtures if dynamic else FixedMixtures
    if not mixtures.recipes("tr"):
        raise UserError(f"{mixtures.path} has no training mixtures: prepare it with --tr 1 or more")
    return kind(mixtures, segment, batch_size, seed, memory_gib * 2**30)


class ValidationCrops:
    """The same excerpt of every validation mixture each time: its middle."""

    def __init__(self, mixtures: MixtureSet, segment: int, batch_size: int):
        self.recipes: list[Recipe] = mixtures.recipes("cv")
        if not self.recipes:
            raise UserError(f"{mixtures.path} has no validation mixtures: prepare it with --cv 1 or more")
        self._mixtures, self._segment, self._batch_size = mixtures, segment, batch_size
        self._excerpts: list[Waves] = []  # each (1 + S, T)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; they are read at the first time and kept."""
        if not self._excerpts:
            waves = (self._mixtures.waves("cv", recipe) for recipe in self.recipes)
            self._excerpts = [crop(w, max(0, w.shape[-1] - self._segment) // 2, self._segment).copy() for w in waves]
        for start in range(0, len(self._excerpts), self._batch_size):
            yield to_batch(self._excerpts[start : start + self._batch_size])
