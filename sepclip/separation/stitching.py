"""Putting separated blocks together so that every voice stays in its own output."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sepclip.audio.permutation import best_permutation

LEAST_MARGIN = 0.05  # by which an exchange of two sources must be worse, 1 being that of sources without anything alike
SILENT = 1e-5  # of the power of the mixture: below, nothing is to be told from the stretch
ANCHOR_SECONDS = 2.0
_CELLS = 8  # of an anchor; it may begin at any of them
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


@dataclass
class Stitcher:
    """Joins blocks of ``length`` samples that begin at ``starts`` into a sound of ``samples``.

    Each block's sources are put into the order of those before it, by the overlap. Where that tells nothing (silence,
    or of three sources one active), the last stretch in which all sources were active is put before the block and
    both are separated once more by ``again``: what it gives there is compared with what is known. ``undecided`` holds
    the starts of blocks of which even that told nothing. ``permuted`` False: the blocks' sources are in order as they
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
                low = start + overlap // 2 - self.fade // 2
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
        def floor(stretch: Tensor) -> float:
            return SILENT * self.power * stretch[0].numel()

        order, decided = match(old, waves[..., : old.shape[-1]], floor(old))
        if decided or float(mixture.double().square().sum()) <= floor(waves):
            return order
        if self._anchor is not None:
            known = self._anchor.waves
            glued = self.again(torch.cat([self._anchor.mixture, mixture], -1))  # (S, C, A + L)
            first, sure = match(known, glued[..., : known.shape[-1]], floor(known))
            second, same = match(glued[first][..., known.shape[-1] :], waves, floor(waves))
            if sure and same:
                return second
        self.undecided.append(start)
        return order

    def _remember(self, mixture: Tensor, waves: Tensor) -> None:
        """Keep the stretch in which the least active source is most active, if it is not far below the best so far."""
        cell = max(1, round(ANCHOR_SECONDS * self.rate_hz / _CELLS / self.hop)) * self.hop
        cells = waves.shape[-1] // cell
        if cells < _CELLS:
            return
        energy = waves[..., : cells * cell].reshape(*waves.shape[:2], cells, cell).square().sum((1, 3))  # (S, cells)
        activity, place = energy.unfold(1, _CELLS, 1).sum(-1).amin(0).max(0)
        if float(activity) > 0 and float(activity) >= _AS_GOOD * self._most_active:
            stretch = slice(int(place) * cell, (int(place) + _CELLS) * cell)
            self._anchor = Anchor(mixture[:, stretch], waves[..., stretch])
            self._most_active = max(self._most_active, float(activity))
