"""Training batches: where waves become batches.

The way from a recipe to a batch: :func:`training_data` chooses :class:`FixedMixtures` (excerpts of the mixtures as
they are), :class:`DynamicMixtures` (voices mixed again at every step) or :class:`DynamicStems` (the same for sources
in a fixed order). Their method ``batch(step)`` draws which excerpts to use, reads them through a
:class:`~sepclip.mixing.cache.ReaderPool` from waves in a :class:`~sepclip.mixing.cache.WaveCache`, and stacks them.
Fixed mixtures, and those of :class:`~sepclip.mixing.validation_crops.ValidationCrops`, are int16 until
:func:`to_batch` converts them; the dynamic classes compute floats and stack these themselves.

Every choice is a function of the seed and the step, so a resumed training sees the batches of an uninterrupted one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sepclip.audio.arrays import PcmWaves
from sepclip.errors import UserError
from sepclip.mixing.cache import ReaderPool, WaveCache
from sepclip.mixing.chance import generator
from sepclip.mixing.dynamic_voices import NO_AUGMENTATION, Augmentation, VoiceMixer, excerpt_start
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.render import FULL_SCALE

STEM_GAIN = (0.25, 1.25)  # of Open-Unmix


@dataclass(frozen=True)
class Share:
    """The part of every batch that one of ``count`` processes works on; the parts are as even as possible."""

    index: int = 0
    count: int = 1

    def of(self, total: int) -> range:
        """Return the indices of this part among ``total`` excerpts."""
        return range(total * self.index // self.count, total * (self.index + 1) // self.count)


@dataclass(frozen=True)
class Batch:
    """Mixtures (B, T) and their sources (B, S, T), float32; full scale is 1, which dynamic mixtures may exceed.

    Several channels are concatenated along T. ``names`` are for people. If the batch is part of a step, it has the
    excerpts from ``first`` on of ``total``.
    """

    mixture: Tensor
    sources: Tensor
    names: tuple[str, ...] = ()
    first: int = 0
    total: int = 0  # 0: the batch has all excerpts of the step

    @property
    def fraction(self) -> float:
        """The fraction of the step's excerpts in this batch, from 0 to 1."""
        return len(self.mixture) / self.total if self.total else 1.0

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> "Batch":
        """Return the batch on ``device``."""
        return replace(self, mixture=self.mixture.to(device, dtype), sources=self.sources.to(device, dtype))

    def split(self, parts: int) -> "list[Batch]":
        """Return the batch in ``parts`` parts, or in as many as it has excerpts."""
        count = len(self.mixture)
        parts = min(parts, count)
        if parts == 1:
            return [self]
        # each part knows its excerpts of the step, so that its loss is weighted by its fraction of them
        total = self.total or count
        return [
            Batch(
                self.mixture[indices.start : indices.stop],
                self.sources[indices.start : indices.stop],
                self.names[indices.start : indices.stop],
                self.first + indices.start,
                total,
            )
            for indices in (Share(index, parts).of(count) for index in range(parts))
        ]


def crop(wave: PcmWaves, start: int, samples: int) -> PcmWaves:
    """Return ``samples`` samples of ``wave`` (..., T) from ``start`` on, zeros after its end."""
    # a view if nothing is missing: stacking copies it anyway
    piece = wave[..., start : start + samples]
    missing = samples - piece.shape[-1]
    return np.pad(piece, [(0, 0)] * (wave.ndim - 1) + [(0, missing)]) if missing else piece


def to_batch(excerpts: list[PcmWaves]) -> Batch:
    """Stack excerpts (1 + S, T) or (1 + S, C, T), the mixture first, into a batch."""
    # waves stay int16 until here: half the memory and half the copying of float32
    stacked = torch.from_numpy(np.stack(excerpts)).flatten(2).float() / FULL_SCALE  # (B, 1 + S, T)
    return Batch(stacked[:, 0], stacked[:, 1:])


@dataclass(frozen=True)
class Sampling:
    """How excerpts of ``segment`` samples are drawn.

    Each mixture gives ``excerpts`` excerpts per epoch; this process reads only its ``share`` of each batch.
    ``segments``: lengths in samples with their weights, one of which is drawn for every step; without any, all steps
    have ``segment``. ``readers`` threads read files. With ``shared_memory``, waves in memory are shared with processes
    that are forked later.
    """

    segment: int
    batch_size: int
    seed: int
    memory_bytes: float
    excerpts: int
    share: Share
    readers: int
    shared_memory: bool
    segments: tuple[tuple[int, float], ...] = ()

    def segment_at(self, step: int) -> int:
        """Return the samples of the excerpts of a step."""
        if not self.segments:
            return self.segment
        # one length for the whole step and for all ranks: a batch is one tensor, and no rank waits for a longer one
        lengths, weights = zip(*self.segments, strict=True)
        return int(generator(self.seed, "segment", step).choices(lengths, weights)[0])

    def make_cache(self, load: Callable[[int], PcmWaves], count: int) -> WaveCache:
        """Return a caching wrapper around ``load(index)``, for indices below ``count``, within the memory allowed."""
        return WaveCache(load, self.memory_bytes, count if self.shared_memory else 0)

    def steps(self, mixtures: int) -> int:
        """Return the steps of an epoch over ``mixtures`` dynamic mixtures."""
        return max(1, self.excerpts * mixtures // self.batch_size)


class FixedMixtures:
    """Random excerpts of the training mixtures, so many of each in an epoch; a last, incomplete batch is dropped."""

    longest: int | None = None  # all batches have the same shape

    def __init__(self, mixtures: MixtureSet, sampling: Sampling):
        self.recipes = mixtures.recipes("tr")
        self._mixtures, self._readers = mixtures, ReaderPool(sampling.readers)
        # whole mixtures with their sources, because every epoch needs other excerpts of them
        self._waves = sampling.make_cache(lambda index: mixtures.waves("tr", self.recipes[index]), len(self.recipes))
        self._segment, self._seed, self._excerpts = sampling.segment, sampling.seed, sampling.excerpts
        # a small set makes a smaller batch, not an empty epoch
        total = sampling.excerpts * len(self.recipes)
        self.batch_size = min(sampling.batch_size, total)
        self._indices = sampling.share.of(self.batch_size)
        self.steps_per_epoch = total // self.batch_size
        # the shuffled excerpts of one epoch: excerpt i is of mixture i // excerpts
        self._epoch, self._order = -1, list[int]()

    def batch(self, step: int) -> Batch:
        """Return the batch of one step, counted from 0: the same whatever was read before."""
        # once an epoch: shuffle all excerpts
        epoch, batch_index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(self._excerpts * len(self.recipes)))
            generator(self._seed, "order", epoch).shuffle(self._order)
        # draw for the whole batch, then read only this process's share of it
        chosen = self._order[batch_index * self.batch_size : (batch_index + 1) * self.batch_size]
        # a generator for each purpose, so that a draw added to one does not shift the others
        chance = generator(self._seed, "crops", step)
        positions = [chance.random() for _ in chosen]
        mixtures = [index // self._excerpts for index in chosen]
        batch = to_batch(self._readers.map(lambda i: self._excerpt(mixtures[i], positions[i]), self._indices))
        names = tuple(self.recipes[mixtures[i]].name for i in self._indices)
        return replace(batch, names=names, first=self._indices.start, total=self.batch_size)

    def _excerpt(self, index: int, position: float) -> PcmWaves:
        """Return an excerpt (1 + S, T) or (1 + S, C, T) of a mixture."""
        recipe, layout = self.recipes[index], self._mixtures.layout
        start = excerpt_start(recipe.length, self._segment, position)
        # a mixture without room in memory is read only as far as needed
        if self._waves.has_room(index, (1 + layout.sources) * layout.channels * recipe.length):
            return crop(self._waves[index], start, self._segment)
        return crop(self._mixtures.waves("tr", recipe, start=start, samples=self._segment), 0, self._segment)


class DynamicMixtures:
    """New mixtures at every step: other combinations, excerpts and levels of the utterances in the training recipes.

    ``longest``: samples of the longest excerpts, if not all steps have excerpts of the same length.
    """

    def __init__(self, mixtures: MixtureSet, sampling: Sampling, augmentation: Augmentation):
        self._readers = ReaderPool(sampling.readers)
        # the mixer draws and reads; this class only asks for each excerpt of each step
        self._mixer = VoiceMixer(mixtures, augmentation, sampling.make_cache)
        self._sampling = sampling
        # the processes that make batches allocate their shared memory once, for the longest
        self.longest = max((length for length, _ in sampling.segments), default=None)
        self._seed, self.batch_size = sampling.seed, sampling.batch_size
        self._indices = sampling.share.of(self.batch_size)
        self.steps_per_epoch = sampling.steps(len(mixtures.recipes("tr")))

    def batch(self, step: int) -> Batch:
        """Return the batch of one step, counted from 0: the same whatever was read before."""
        # each excerpt of a step has a generator of its own, so shares and threads change nothing
        samples = self._sampling.segment_at(step)
        mixed = self._readers.map(
            lambda index: self._mixer.mix(generator(self._seed, f"dynamic {step}", index), samples), self._indices
        )
        # dynamic mixtures are floats already, at full scale 1, so to_batch has nothing to do for them
        mixture, sources = (torch.from_numpy(np.stack(part)) for part in zip(*mixed, strict=True))
        names = tuple(f"mixture {index} of step {step + 1}" for index in self._indices)
        return Batch(mixture, sources, names, self._indices.start, self.batch_size)  # (B, T), (B, S, T)


class DynamicStems:
    """New mixtures at every step with sources in a fixed order: each stem is an excerpt of another training track.

    Each stem has a random gain, and its two channels are swapped half of the time (Uhlich et al. 2017, with the gains
    of Open-Unmix).
    """

    longest: int | None = None  # all batches have the same shape

    def __init__(self, mixtures: MixtureSet, sampling: Sampling):
        _require_additive(mixtures)
        self._recipes = mixtures.recipes("tr")
        self._mixtures, self._segment, self._seed = mixtures, sampling.segment, sampling.seed
        self.batch_size = sampling.batch_size
        self._indices = sampling.share.of(self.batch_size)
        self._readers = ReaderPool(sampling.readers)
        # the cache has single stems, with the key track * stems + stem, because each is drawn without the others
        count = mixtures.layout.sources * len(self._recipes)
        self._waves = sampling.make_cache(lambda key: self._read(key, 0, self._length(key)), count)
        self.steps_per_epoch = sampling.steps(len(self._recipes))

    def batch(self, step: int) -> Batch:
        """Return the batch of one step, counted from 0: the same whatever was read before."""
        mixed = self._readers.map(
            lambda index: self._mix(generator(self._seed, f"dynamic {step}", index)), self._indices
        )
        stems, names = zip(*mixed, strict=True)
        # the mixture is exactly the sum, without rounding or clipping in between
        sources = torch.from_numpy(np.stack(stems))  # (B, S, T)
        return Batch(sources.sum(1), sources, names, self._indices.start, self.batch_size)

    def _mix(self, chance: Random) -> tuple[NDArray[np.float32], str]:
        """Return the stems of a mixture (S, T) and its name."""
        # a track gives at most one stem, if there are enough of them
        count, tracks = self._mixtures.layout.sources, range(len(self._recipes))
        chosen = chance.sample(tracks, count) if len(tracks) >= count else chance.choices(tracks, k=count)
        stems = [self._stem(track * count + stem, chance) for stem, track in enumerate(chosen)]
        return np.stack(stems).reshape(count, -1), " + ".join(self._recipes[track].name for track in chosen)

    def _stem(self, key: int, chance: Random) -> NDArray[np.float32]:
        """Return an excerpt of a stem, (T,) or (C, T), with a random gain."""
        start = excerpt_start(self._length(key), self._segment, chance.random())
        # drawn also for mono, so that a seed gives the same gains whatever the channels
        gain, swapped = chance.uniform(*STEM_GAIN), chance.random() < 0.5
        channels = self._mixtures.layout.channels
        # a seek costs less than decoding minutes of a track that could not be kept
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
            f"the mixtures of {mixtures.path} contain more than their sources, such as noise, which dynamic mixing "
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
    shared_memory: bool = False,
    segments: Sequence[tuple[int, float]] = (),
) -> Batches:
    """Return the training batches of a set: excerpts of ``segment`` samples, of fixed mixtures or dynamic ones.

    Each mixture gives ``excerpts`` excerpts per epoch, on average if they are dynamic; this process reads only its
    ``share`` of each batch. Batches are the same for any number of processes and of ``readers`` (threads that read
    files). With ``shared_memory``, the memory for audio is shared with the processes that are forked later.
    ``augmentation`` and ``segments`` (lengths in samples with their weights, drawn for every step) are only for dynamic
    mixtures of voices. Raise UserError if the set or the settings do not allow it.
    """
    if not mixtures.recipes("tr"):
        raise UserError(f"{mixtures.path} has no training mixtures: prepare it with --tr 1 or more")
    voices = dynamic and not mixtures.layout.fixed_order
    if (augmentation != NO_AUGMENTATION or segments) and not voices:
        raise UserError("keys of data such as speed, overlap and segments are for dynamic voices: leave them out")
    # from here on every size is in samples or bytes, whatever the configuration uses
    memory_bytes = memory_gib * 2**30
    sampling = Sampling(
        segment, batch_size, seed, memory_bytes, excerpts, share, readers, shared_memory, tuple(segments)
    )
    # voices may be mixed in any order; sources in a fixed order keep their places
    batches: Batches
    if voices:
        batches = DynamicMixtures(mixtures, sampling, augmentation)
    else:
        batches = DynamicStems(mixtures, sampling) if dynamic else FixedMixtures(mixtures, sampling)
    # a rank without excerpts would have no gradient to add
    if batches.batch_size < share.count:
        raise UserError(f"{share.count} processes cannot share {batches.batch_size} excerpts a step: start fewer")
    return batches
