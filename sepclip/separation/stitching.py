"""Joining separated blocks so that every voice stays in its own output.

The order of the sources may differ from block to block. Consecutive blocks overlap: the order of a block follows from
a comparison with the block before in the overlap, or, if the overlap does not decide, with an earlier stretch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sepclip.audio.permutation import best_permutation

LEAST_MARGIN = 0.05  # by how much an exchange of two sources must be worse; 1 for sources that have nothing in common
SILENT = 1e-5  # share of the power of the mixture: a stretch with less does not decide anything
ANCHOR_SECONDS = 2.0
LEAST_SECONDS = 0.5  # of an overlap in which all sources are active, for it to decide
_CELLS = 8  # cells of an anchor, which begins at the start of a cell
CONTEXT = 0.25  # share of an overlap at each of its ends that is never heard, only context for the network
_STRICT = 16.0  # weight of a difference within the fade, relative to one beside it
_RERUN_CELLS = 32  # cells of a block that are separated again: 8 s
_AS_GOOD = 0.1  # a stretch replaces the anchor if it has at least this share of the best activity so far


@dataclass(frozen=True)
class Anchor:
    """The last stretch in which all sources were active: the mixture (C, T) and its waves (S, C, T) in output order."""

    mixture: Tensor
    waves: Tensor


def match(old: Tensor, new: Tensor, floor: float) -> tuple[Tensor, bool]:
    """Return the order of the sources of ``new`` (S, C, T) that matches those of ``old`` (S, C, T) best, all jointly.

    Returns the order (S,) and whether it is certain: exchanging any two sources would be clearly worse, and the energy
    of the two is above ``floor``. With two sources, a single active one is enough; with three, at least two must be
    active.
    """
    # the order with the least squared distance, over all sources
    old, new = old.flatten(1).double(), new.flatten(1).double()  # (S, C T)
    energy_old, energy_new = old.square().sum(1), new.square().sum(1)  # (S,)
    products = new @ old.T  # (est, ref)
    distance = energy_new.unsqueeze(1) + energy_old - 2 * products
    _, orders = best_permutation(distance.unsqueeze(0), maximise=False)
    order = orders[0]
    # half of the distance that the exchange of each pair of sources would add
    ordered = products[order]  # (S, S), each source with itself on the diagonal
    worse = ordered.diagonal().unsqueeze(1) + ordered.diagonal() - ordered - ordered.T  # (S, S)
    # compared with the mean energy of the pair
    energy = energy_old + energy_new[order]
    pair_energy = (energy.unsqueeze(1) + energy) / 2
    pairs = torch.triu_indices(len(old), len(old), 1)
    certain = (worse > LEAST_MARGIN * pair_energy) & (pair_energy > floor)
    return order, bool(certain[pairs[0], pairs[1]].all())


def fade_place(old: Tensor, new: Tensor, fade: int, hop: int) -> int:
    """Return the sample of an overlap at which ``old`` (S, C, T) begins to fade into ``new`` (S, C, T).

    The fade takes ``fade`` samples. It is placed where the two agree, such as in a pause, and in the middle of the
    overlap if they agree everywhere.
    """
    # candidates from the middle outwards, so that the nearest to the middle wins a tie
    samples = old.shape[-1]
    middle = (samples - fade) // 2
    offsets = torch.arange(0, max(middle - round(CONTEXT * samples), 0) + 1, hop)
    places = middle + torch.stack([offsets, -offsets], 1).flatten()
    # In the first half of an overlap the new block is less accurate, because it has less context there; in the second
    # half it is the old block. The difference between a place and the middle is therefore the cost of that place.
    # On the CPU, since the result is needed there, and a GPU adds the terms of a cumulative sum in any order.
    energy = (old - new).double().square().sum((0, 1)).cpu().cumsum(0)  # (T,)
    within = energy[places + fade - 1] - energy[places]
    beside = (energy[places + fade // 2] - energy[middle + fade // 2]).abs()
    return int(places[(_STRICT * within + beside).argmin()])


@dataclass
class Stitcher:
    """Joins blocks of ``length`` samples that begin at ``starts`` into a sound of ``samples``, by fades of ``fade``.

    The sources of each block are put into the order of the blocks before, by the part of the overlap in which all
    sources are active: a network that hears only one voice may put it into any output. If there is hardly any such
    part, the last stretch in which all were active is put before the block, both are separated by ``rerun``, and the
    result is compared with the known waves. If that does not decide, the whole overlap does. ``undecided`` lists the
    starts of blocks for which even that did not. ``permuted=False``: the sources of all blocks have the same order.
    ``power`` is the mean square of the mixture, ``hop`` that of the transform, on whose frames an anchor begins.
    """

    starts: Sequence[int]
    length: int
    samples: int
    rate_hz: int
    hop: int
    fade: int
    power: float
    permuted: bool
    rerun: Callable[[Tensor], Tensor]
    undecided: list[int] = field(default_factory=list)
    _anchor: Anchor | None = None
    _most_active: float = 0.0

    def join(self, blocks: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Join blocks of the mixture (C, L) with their waves (S, C, L) into a stream of both without overlap."""
        previous: tuple[int, Tensor, Tensor] | None = None  # start, mixture and waves of the block before
        done = 0  # samples of the sound so far
        for start, (mixture, waves) in zip(self.starts, blocks, strict=True):
            if previous is not None:
                old_start, old_mixture, old = previous
                overlap = old_start + self.length - start
                # put the sources into the order of the block before
                if self.permuted:
                    waves = waves[self._order(start, old[..., -overlap:], mixture, waves)]
                # yield the block before, up to the fade
                fade_start = start + fade_place(old[..., -overlap:], waves[..., :overlap], self.fade, self.hop)
                fade_end = fade_start + self.fade
                stretch = slice(done - old_start, fade_start - old_start)
                yield old_mixture[:, stretch], old[..., stretch]
                # yield the fade
                share = (torch.arange(self.fade, device=waves.device) + 0.5) / self.fade  # of the new block
                stretch = slice(fade_start - start, fade_end - start)
                outgoing, incoming = old[..., fade_start - old_start : fade_end - old_start], waves[..., stretch]
                yield mixture[:, stretch], outgoing + share * (incoming - outgoing)
                done = fade_end
            if self.permuted and len(self.starts) > 1:
                self._update_anchor(mixture, waves)
            previous = (start, mixture, waves)
        # yield the rest of the last block
        if previous is not None:
            old_start, mixture, waves = previous
            stretch = slice(done - old_start, self.samples - old_start)
            yield mixture[:, stretch], waves[..., stretch]

    def _order(self, start: int, old: Tensor, mixture: Tensor, waves: Tensor) -> Tensor:
        """Return the order (S,) of the sources of a block, from ``old`` (S, C, T), the block before in the overlap."""
        # by the samples of the overlap in which all sources are active in both blocks
        overlap = waves[..., : old.shape[-1]]
        active = self._all_active(old) & self._all_active(overlap)
        order, certain = match(old[..., active], overlap[..., active], self._floor(active.sum()))
        if certain and int(active.sum()) >= LEAST_SECONDS * self.rate_hz:
            return order
        # a silent block needs no decision
        if float(mixture.double().square().sum()) <= self._floor(waves.shape[-1]) * len(mixture):
            return torch.arange(len(waves), device=waves.device)
        # by the anchor, which costs a run of the network
        if self._anchor is not None:
            order, certain = self._order_by_anchor(self._anchor, mixture, waves)
            if certain:
                return order
        # by the whole overlap, as well as it can
        order, certain = match(old, overlap, self._floor(old.shape[-1]))
        if not certain:
            self.undecided.append(start)
        return order

    def _order_by_anchor(self, anchor: Anchor, mixture: Tensor, waves: Tensor) -> tuple[Tensor, bool]:
        """Return the order of a block, and whether it is certain, by separating a part of it again after the anchor."""
        # the part in which the least active source is most active
        length = anchor.waves.shape[-1]
        activity = self._activity(waves)
        if len(activity) > _RERUN_CELLS:
            begin = int(activity.unfold(0, _RERUN_CELLS, 1).sum(-1).argmax()) * self._cell()
            stretch = slice(begin, begin + _RERUN_CELLS * self._cell())
            mixture, waves = mixture[:, stretch], waves[..., stretch]
        # the network keeps the sources in one order within a single run: match its result with both sides
        joint = self.rerun(torch.cat([anchor.mixture, mixture], -1))  # (S, C, A + L)
        order, certain = match(anchor.waves, joint[..., :length], self._floor(length))
        block_order, block_certain = match(joint[order][..., length:], waves, self._floor(waves.shape[-1]))
        return block_order, certain and block_certain

    def _floor(self, samples: int | Tensor) -> float:
        """Return the energy below which ``samples`` samples count as silent."""
        return SILENT * self.power * float(samples)

    def _cell(self) -> int:
        """Return the samples of a cell: an eighth of an anchor, in whole hops."""
        return max(1, round(ANCHOR_SECONDS * self.rate_hz / _CELLS / self.hop)) * self.hop

    def _activity(self, waves: Tensor) -> Tensor:
        """Return the energy of the least active source in each whole cell of ``waves`` (S, C, T)."""
        cells = waves.shape[-1] // self._cell()
        parts = waves[..., : cells * self._cell()].reshape(*waves.shape[:2], cells, self._cell())
        return parts.square().sum((1, 3)).amin(0)  # (cells,)

    def _all_active(self, waves: Tensor) -> Tensor:
        """Return which samples of ``waves`` (S, C, T) are in cells where all sources are as active as in an anchor."""
        active = self._activity(waves) >= max(_AS_GOOD * self._most_active / _CELLS, 1e-30)
        samples = torch.zeros(waves.shape[-1], dtype=torch.bool, device=waves.device)
        samples[: len(active) * self._cell()] = active.repeat_interleave(self._cell())
        return samples

    def _update_anchor(self, mixture: Tensor, waves: Tensor) -> None:
        """Keep the stretch in which the least active source is most active, if it is not far below the best so far."""
        # the latest stretch that is good enough rather than the best, so that it is near the blocks to come
        activity = self._activity(waves)
        if len(activity) < _CELLS:
            return
        most, place = activity.unfold(0, _CELLS, 1).sum(-1).max(0)
        if float(most) > 0 and float(most) >= _AS_GOOD * self._most_active:
            stretch = slice(int(place) * self._cell(), (int(place) + _CELLS) * self._cell())
            self._anchor = Anchor(mixture[:, stretch], waves[..., stretch])
            self._most_active = max(self._most_active, float(most))
