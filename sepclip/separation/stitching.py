"""Putting separated blocks together so that every voice stays in its own output."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sepclip.audio.permutation import best_permutation

LEAST_MARGIN = 0.05  # by which an exchange of two sources must be worse, 1 being that of sources without anything alike
SILENT = 1e-5  # of the power of the mixture: below, nothing is to be told from the stretch
ANCHOR_SECONDS = 2.0
LEAST_SECONDS = 0.5  # of an overlap in which all sources are active, for it to decide
_CELLS = 8  # of an anchor; it may begin at any of them
CONTEXT = 0.25  # of an overlap, at each of its ends: never heard, it is context alone
_STRICT = 16.0  # how much more a difference counts within the fade than beside it
_AGAIN = 32  # cells of a block that are separated once more: 8 s
_AS_GOOD = 0.1  # of the best stretch so far: how active all sources are in one that takes the anchor's place


@dataclass(frozen=True)
class Anchor:
    """The last stretch in which all sources were active: the mixture (C, T) and its waves (S, C, T), in order."""

    mixture: Tensor
    waves: Tensor


def match(old: Tensor, new: Tensor, floor: float) -> tuple[Tensor, bool]:
    """Find the order in which sources of ``new`` (S, C, T) are those of ``old`` (S, C, T), over all sources jointly.

    Returns the order (S,) and whether it is decided: any two sources that changed places would make it clearly worse,
    and what they hold is above ``floor``, an energy. One active source decides where there are two; of three, at
    least two must be active.
    """
    old, new = old.flatten(1).double(), new.flatten(1).double()  # (S, C T)
    energy_old, energy_new = old.square().sum(1), new.square().sum(1)  # (S,)
    products = new @ old.T  # (est, ref)
    distance = energy_new.unsqueeze(1) + energy_old - 2 * products
    _, orders = best_permutation(distance.unsqueeze(0), maximise=False)
    order = orders[0]
    alike = products[order]  # (S, S), each source with itself on the diagonal
    worse = alike.diagonal().unsqueeze(1) + alike.diagonal() - alike - alike.T  # (S, S): half of what an exchange costs
    energy = energy_old + energy_new[order]
    both = (energy.unsqueeze(1) + energy) / 2
    pairs = torch.triu_indices(len(old), len(old), 1)
    told = (worse > LEAST_MARGIN * both) & (both > floor)
    return order, bool(told[pairs[0], pairs[1]].all())


def cut(old: Tensor, new: Tensor, fade: int, hop: int) -> int:
    """Return where in an overlap ``old`` (S, C, T) fades into ``new`` (S, C, T) within ``fade`` samples.

    It is where the two agree, such as in a pause. In the first half of an overlap the new block errs more, which has
    the less context there, and in the second half the old one: so what they differ between the cut and the middle
    is what a cut off the middle costs, and counts too. Where they agree everywhere it is the middle.
    """
    samples = old.shape[-1]
    middle = (samples - fade) // 2
    off = torch.arange(0, max(middle - round(CONTEXT * samples), 0) + 1, hop, device=old.device)
    places = middle + torch.stack([off, -off], 1).flatten()  # the nearest to the middle come first
    energy = (old - new).double().square().sum((0, 1)).cumsum(0)  # (T,)
    within = energy[places + fade - 1] - energy[places]
    beside = (energy[places + fade // 2] - energy[middle + fade // 2]).abs()
    return int(places[(_STRICT * within + beside).argmin()])


@dataclass
class Stitcher:
    """Joins blocks of ``length`` samples that begin at ``starts`` into a sound of ``samples``, by fades of ``fade``.

    Each block's sources are put into the order of those before it, by where all of them are active in the overlap: a
    network that hears one voice alone may put it into any output. Where they hardly are, the last stretch in which all
    were is put before the block and both are separated once more by ``again``: what it gives there is compared with
    what is known. Where that tells nothing, the whole overlap decides. ``undecided`` holds the starts of blocks of
    which even that told nothing. ``permuted`` False: the blocks' sources are in order as they
    are. ``power`` is the mean square of the mixture, ``hop`` that of the transform, on whose frames an anchor begins.
    """

    starts: Sequence[int]
    length: int
    samples: int
    rate_hz: int
    hop: int
    fade: int
    power: float
    permuted: bool
    again: Callable[[Tensor], Tensor]
    undecided: list[int] = field(default_factory=list)
    _anchor: Anchor | None = None
    _most_active: float = 0.0

    def join(self, blocks: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Turn blocks of the mixture (C, L) with their waves (S, C, L) into a stream of both without overlap."""
        before: tuple[int, Tensor, Tensor] | None = None  # start, mixture and waves of the block before
        done = 0
        for start, (mixture, waves) in zip(self.starts, blocks, strict=True):
            if before is not None:
                begun, old_mixture, old = before
                overlap = begun + self.length - start
                if self.permuted:
                    waves = waves[self._order(start, old[..., -overlap:], mixture, waves)]
                low = start + cut(old[..., -overlap:], waves[..., :overlap], self.fade, self.hop)
                high = low + self.fade
                yield old_mixture[:, done - begun : low - begun], old[..., done - begun : low - begun]
                share = (torch.arange(self.fade, device=waves.device) + 0.5) / self.fade  # of the new block
                fading, coming = old[..., low - begun : high - begun], waves[..., low - start : high - start]
                yield mixture[:, low - start : high - start], fading + share * (coming - fading)
                done = high
            if self.permuted and len(self.starts) > 1:
                self._remember(mixture, waves)
            before = (start, mixture, waves)
        if before is not None:
            begun, mixture, waves = before
            yield mixture[:, done - begun : self.samples - begun], waves[..., done - begun : self.samples - begun]

    def _order(self, start: int, old: Tensor, mixture: Tensor, waves: Tensor) -> Tensor:
        overlap = waves[..., : old.shape[-1]]
        both = self._all_active(old) & self._all_active(overlap)
        order, decided = match(old[..., both], overlap[..., both], self._floor(both.sum()))
        if decided and int(both.sum()) >= LEAST_SECONDS * self.rate_hz:
            return order
        if float(mixture.double().square().sum()) <= self._floor(waves.shape[-1]) * len(mixture):
            return torch.arange(len(waves), device=waves.device)  # nothing is to be heard in the whole block
        if self._anchor is not None:
            order, decided = self._by_anchor(self._anchor, mixture, waves)
            if decided:
                return order
        order, decided = match(old, overlap, self._floor(old.shape[-1]))
        if not decided:
            self.undecided.append(start)
        return order

    def _by_anchor(self, anchor: Anchor, mixture: Tensor, waves: Tensor) -> tuple[Tensor, bool]:
        """Find the order of a block by separating the stretch in which all speak most once more behind the anchor."""
        length = anchor.waves.shape[-1]
        activity = self._activity(waves)
        if len(activity) > _AGAIN:
            begin = int(activity.unfold(0, _AGAIN, 1).sum(-1).argmax()) * self._cell()
            stretch = slice(begin, begin + _AGAIN * self._cell())
            mixture, waves = mixture[:, stretch], waves[..., stretch]
        glued = self.again(torch.cat([anchor.mixture, mixture], -1))  # (S, C, A + L)
        first, sure = match(anchor.waves, glued[..., :length], self._floor(length))
        second, same = match(glued[first][..., length:], waves, self._floor(waves.shape[-1]))
        return second, sure and same

    def _floor(self, samples: int | Tensor) -> float:
        return SILENT * self.power * float(samples)

    def _cell(self) -> int:
        return max(1, round(ANCHOR_SECONDS * self.rate_hz / _CELLS / self.hop)) * self.hop

    def _activity(self, waves: Tensor) -> Tensor:
        """Return the energy of the least active source in each whole cell of ``waves`` (S, C, T)."""
        cells = waves.shape[-1] // self._cell()
        parts = waves[..., : cells * self._cell()].reshape(*waves.shape[:2], cells, self._cell())
        return parts.square().sum((1, 3)).amin(0)  # (cells,)

    def _all_active(self, waves: Tensor) -> Tensor:
        """Tell which samples of ``waves`` (S, C, T) lie in cells in which all sources are as active as in an anchor."""
        active = self._activity(waves) >= max(_AS_GOOD * self._most_active / _CELLS, 1e-30)
        samples = torch.zeros(waves.shape[-1], dtype=torch.bool, device=waves.device)
        samples[: len(active) * self._cell()] = active.repeat_interleave(self._cell())
        return samples

    def _remember(self, mixture: Tensor, waves: Tensor) -> None:
        """Keep the stretch in which the least active source is most active, if it is not far below the best so far."""
        activity = self._activity(waves)
        if len(activity) < _CELLS:
            return
        most, place = activity.unfold(0, _CELLS, 1).sum(-1).max(0)
        if float(most) > 0 and float(most) >= _AS_GOOD * self._most_active:
            stretch = slice(int(place) * self._cell(), (int(place) + _CELLS) * self._cell())
            self._anchor = Anchor(mixture[:, stretch], waves[..., stretch])
            self._most_active = max(self._most_active, float(most))
