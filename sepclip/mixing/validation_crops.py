"""Validation excerpts, which are always the same."""

from collections.abc import Iterator
from dataclasses import replace

from sepclip.audio.arrays import PcmWaves
from sepclip.errors import UserError
from sepclip.mixing.batches import Batch, Share, crop, to_batch
from sepclip.mixing.cache import ReaderPool
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.recipe import Recipe


class ValidationCrops:
    """The middle excerpt, or ``excerpts`` evenly spaced ones, of every validation mixture; always the same.

    Only the batches of ``share`` are read; ``total`` counts the excerpts of all processes. ``readers`` threads read
    files.
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
        self._readers = ReaderPool(readers)
        self.total = excerpts * len(self.recipes)
        # unlike in training, each process reads whole batches
        starts = range(0, self.total, batch_size)
        ranges = [range(start, min(start + batch_size, self.total)) for start in starts]
        self._ranges = ranges[share.index :: share.count]
        self._excerpts: dict[int, PcmWaves] = {}  # each (1 + S, T)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches, which are read the first time and kept. ``first`` is an index among all excerpts."""
        for indices in self._ranges:
            batch = to_batch(self._readers.map(self._excerpt, indices))
            names = tuple(self.recipes[index // self._count].name for index in indices)
            yield replace(batch, names=names, first=indices.start, total=self.total)

    def _excerpt(self, index: int) -> PcmWaves:
        if index not in self._excerpts:
            mixture, part = divmod(index, self._count)
            recipe = self.recipes[mixture]
            # the middles of equal parts of the mixture
            start = max(0, recipe.length - self._segment) * (2 * part + 1) // (2 * self._count)
            waves = self._mixtures.waves("cv", recipe, start=start, samples=self._segment)
            # a copy, so that a rendered mixture is not kept whole
            self._excerpts[index] = crop(waves, 0, self._segment).copy()
        return self._excerpts[index]
