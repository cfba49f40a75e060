"""Masks from embeddings: seeded k-means over the bins of each utterance, on the device of the embeddings."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sepclip.model.network_base import STRICT, AtLeastOne

Masks = Literal["binary", "soft"]
Fit = Literal["vad", "loudest"]
ACTIVE_DB = -40.0  # for `vad`: bins this far below the loudest do not shape the clusters (the classic recipe)
# for `loudest` and soft masks, as in nussl, the library of the AutoClip paper's author
LOUDEST_PERCENT = 10
HARDNESS = 5.0  # beta in nussl
FLOOR = 1e-8
ITERATIONS = 100
LOOK_EVERY = 8  # on a GPU: iterations between two looks at whether the centroids have settled
SETTLED = 1e-9  # share of the mean variance by which centroids move through rounding alone
ROUGHLY = 1e-5  # the same share, if the result only has to show which start is the best
POINTS_OF_STARTS = 4_000  # points on which all starts are tried; as good as all points (docs/RESULTS.md)
MOST_POINTS = 100_000  # for the fit; a sample of this size is as good, and an hour of sound takes at most a minute


@settings_dataclass(frozen=True, config=STRICT)
class KMeansSettings:
    """How embeddings become masks: section ``kmeans`` of the configuration.

    ``fit``: the bins that shape the clusters, those within 40 dB of the loudest (``vad``) or the ``loudest`` tenth.
    ``masks``: each bin belongs to its nearest centroid (``binary``), or to all of them by distance (``soft``).
    ``restarts``: the number of starts by k-means++, of which the best is used.
    """

    masks: Masks
    fit: Fit
    restarts: AtLeastOne


@torch.no_grad()
def cluster_masks(
    embeddings: Tensor, magnitude: Tensor, sources: int, *, settings: KMeansSettings, seed: int = 0
) -> Tensor:
    """Return masks (B, S, N, F), which add up to 1, from embeddings (B, N, F, E) of mixtures (B, N, F)."""
    # on a GPU all mixtures at once, because starting its kernels takes more time than they run; on a CPU one by one,
    # because what belongs to one mixture fits into the cache
    together = 1 if embeddings.device.type == "cpu" else max(1, len(embeddings))
    masks = []
    for vectors, magnitudes in zip(torch.split(embeddings, together), torch.split(magnitude, together), strict=True):
        points = vectors.flatten(1, 2).float()  # (B, N F, E)
        centroids = _fit(points, magnitudes.flatten(1), sources, settings, seed)  # (B, S, E)
        shares = _assign(points, centroids, settings.masks).to(magnitude.dtype)  # (B, S, N F)
        masks.append(shares.reshape(len(vectors), sources, *vectors.shape[1:3]))
    return torch.cat(masks)


@torch.no_grad()
def fit_centroids(
    points: Tensor, magnitudes: Tensor, sources: int, *, settings: KMeansSettings, seed: int = 0
) -> Tensor:
    """Return the centroids (S, E) of the embeddings ``points`` (P, E) of bins with their ``magnitudes`` (P,)."""
    return _fit(points.float().unsqueeze(0), magnitudes.unsqueeze(0), sources, settings, seed)[0]


def _fit(points: Tensor, magnitudes: Tensor, sources: int, settings: KMeansSettings, seed: int) -> Tensor:
    """Return the centroids (B, S, E) of embeddings (B, P, E) of bins with their ``magnitudes`` (B, P)."""
    active = _active(magnitudes, settings.fit)
    # a silent sound has no active bins: cluster all of them, so that there still are S centroids
    active = active | (active.sum(1, keepdim=True) <= sources)
    places = active.flatten().nonzero().squeeze(1)  # (K,), of all active bins, item by item
    return _kmeans(points.flatten(0, 1)[places], active.sum(1).tolist(), sources, seed, settings.restarts)


@torch.no_grad()
def assign(vectors: Tensor, centroids: Tensor, masks: Masks) -> Tensor:
    """Return the masks (S, N, F) of embeddings (N, F, E) by their distances to ``centroids`` (S, E)."""
    points = vectors.flatten(0, 1).float().unsqueeze(0)  # (1, N F, E)
    return _assign(points, centroids.unsqueeze(0), masks).reshape(len(centroids), *vectors.shape[:2])


def _assign(points: Tensor, centroids: Tensor, masks: Masks) -> Tensor:
    """Return the masks (B, S, P) of ``points`` (B, P, E) by their distances to ``centroids`` (B, S, E)."""
    if masks == "soft":
        # r_c / sum r with r_c = exp(-5 d_c) + 1e-8, for the Euclidean distance d_c to centroid c (nussl)
        shares = torch.exp(-HARDNESS * _distances(points, centroids)) + FLOOR  # (B, S, P)
        return shares / shares.sum(1, keepdim=True)
    # centred, so that the products are exact enough for clusters that are close together but far from 0
    middle = centroids.mean(1, keepdim=True)  # (B, 1, E)
    nearness = _nearness((points - middle).mT, (centroids - middle).unsqueeze(1))[:, 0]  # (B, S, P)
    # an argmax in a loop over the sources: torch's argmax over rows takes ten times as long on a CPU
    best, nearest = nearness[:, 0], torch.zeros_like(nearness[:, 0], dtype=torch.int8)
    for index, candidate in enumerate(nearness.unbind(1)[1:], 1):
        nearest = torch.where(candidate > best, index, nearest)
        best = torch.maximum(candidate, best)
    return torch.stack([nearest == index for index in range(centroids.shape[1])], 1).float()


def _active(level: Tensor, fit: Fit) -> Tensor:
    """Return which bins of magnitude ``level`` (..., P) shape the clusters."""
    if fit == "vad":
        return level > level.amax(-1, keepdim=True) * 10 ** (ACTIVE_DB / 20)
    # at or above the 90th percentile; by rank, since torch.quantile accepts at most 16 million values. The least of the
    # largest ones, since torch.kthvalue is refused on a GPU if only deterministic operations are allowed
    bins = level.shape[-1]
    rank = -(-(100 - LOUDEST_PERCENT) * (bins - 1) // 100)
    return level >= level.topk(bins - rank, -1, sorted=False).values.amin(-1, keepdim=True)


def _distances(points: Tensor, centroids: Tensor) -> Tensor:
    """Return the Euclidean distances (B, S, P)."""
    # a matrix product would be faster, but its rounding errors are larger than short distances
    parts = [torch.linalg.vector_norm(points - centroid.unsqueeze(1), dim=2) for centroid in centroids.unbind(1)]
    return torch.stack(parts, 1)


@torch.no_grad()
def kmeans(points: Tensor, clusters: int, seed: int, restarts: int) -> Tensor:
    """Return the centroids (clusters, E) of ``points`` (P, E) by Lloyd's algorithm, from several starts.

    The same points and seed give the same centroids.
    """
    return _kmeans(points, [len(points)], clusters, seed, restarts)[0]


@dataclass(frozen=True)
class _Points:
    """Points (B, P, E) of several items, of which ``valid`` (B, P, 1) are points and the others padding, with zeros.

    ``counts`` (B, 1, 1): the number of points of each item. If all items have P points, ``valid`` is None.
    """

    values: Tensor
    valid: Tensor | None
    counts: Tensor

    @classmethod
    def gather(cls, values: Tensor, indices: Sequence[Tensor]) -> "_Points":
        """Return those rows of ``values`` (K, E) that ``indices`` list for each item."""
        lengths = [len(index) for index in indices]
        if lengths == [len(values)]:  # all points of a single item: nothing to copy
            return cls(values.unsqueeze(0), None, torch.tensor(lengths).to(values.device).view(-1, 1, 1))
        padded = pad_sequence(list(indices), batch_first=True).to(values.device)  # (B, P)
        counts = torch.tensor(lengths).to(values.device).view(-1, 1, 1)
        if len(set(lengths)) == 1:
            return cls(values[padded], None, counts)
        valid = (torch.arange(padded.shape[1], device=values.device) < counts.squeeze(2)).unsqueeze(2)  # (B, P, 1)
        return cls(values[padded] * valid, valid, counts)

    def masked(self, numbers: Tensor) -> Tensor:
        """Return ``numbers`` (B, ..., P) with zeros for the padding."""
        return numbers if self.valid is None else numbers * self.valid.squeeze(2).unsqueeze(1)

    def centred(self) -> tuple["_Points", Tensor]:
        """Return the points without their mean, and the mean (B, 1, E)."""
        middle = self.values.sum(1, keepdim=True) / self.counts
        centred = self.values - middle
        return replace(self, values=centred if self.valid is None else centred * self.valid), middle


def _kmeans(points: Tensor, counts: Sequence[int], clusters: int, seed: int, restarts: int) -> Tensor:
    """Return the centroids (B, clusters, E) of several items, whose ``counts`` of ``points`` (K, E) follow one another.

    The result of an item does not depend on the others, except for rounding.
    """
    # each item draws from a generator of its own, on the CPU: the same draws for each item, on every device
    generators = [torch.Generator().manual_seed(seed) for _ in counts]
    first = itertools.accumulate(counts, initial=0)
    # centred, or the products would round away the distance between clusters that are far from 0
    kept = [
        _sample(torch.arange(start, start + count), MOST_POINTS, generator)
        for start, count, generator in zip(first, counts, generators, strict=False)
    ]
    centred, middle = _Points.gather(points, kept).centred()
    # all starts move together on a sample, which shows as well as all points which start is the best
    every, width = [torch.arange(len(index)) for index in kept], centred.values.shape[1]
    drawn = [_sample(index, POINTS_OF_STARTS, generator) for index, generator in zip(every, generators, strict=True)]
    offsets = [item * width for item in range(len(drawn))]
    sample = _Points.gather(centred.values.flatten(0, 1), [o + index for o, index in zip(offsets, drawn, strict=True)])
    starts = _plus_plus(sample, [len(index) for index in drawn], clusters, restarts, generators)  # (B, R, S, E)
    centroids = _move(sample, starts, ROUGHLY)
    nearness = sample.masked(_nearness(sample.values.mT, centroids).amax(2))  # (B, R, P)
    best = nearness.double().sum(-1).argmax(1)  # (B,)
    # only the best one then moves on all points
    selected = centroids[torch.arange(len(best), device=best.device), best].unsqueeze(1)  # (B, 1, S, E)
    return _move(centred, selected, SETTLED)[:, 0] + middle


def _sample(indices: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Return ``indices`` (P,), or a random sample of ``most`` of them if there are more."""
    if len(indices) <= most:
        return indices
    return indices[torch.randperm(len(indices), generator=generator)[:most]]


def _move(points: _Points, centroids: Tensor, tolerance: float) -> Tensor:
    """Move the centroids (B, R, S, E) of all starts to the means of their points until none of an item moves any more.

    An item has settled if its centroids move by at most ``tolerance``, a share of the mean square of its points.
    """
    values, transposed = points.values, points.values.mT.contiguous()  # (B, P, E), (B, E, P)
    size = points.counts.flatten() * values.shape[2]
    least = tolerance * (values.square().flatten(1).sum(1) / size).double()  # (B,)
    moving = torch.ones_like(least, dtype=torch.bool)
    # to look whether all have settled makes the host wait for a GPU, so that it looks rarely, and settled items stay
    # where they are. On a CPU a look costs less than that
    alone = len(values) == 1 and values.device.type == "cpu"
    least_alone = float(least[0]) if alone else 0.0
    # one iteration of Lloyd's algorithm: assign each point to its nearest centroid, then average by matrix product
    for iteration in range(1, ITERATIONS + 1):
        nearness = _nearness(transposed, centroids)  # (B, R, S, P)
        members = (nearness == nearness.amax(2, keepdim=True)).to(values.dtype).flatten(1, 2)
        members = points.masked(members)  # (B, R S, P)
        sizes = members.sum(-1).reshape(*centroids.shape[:3], 1)  # (B, R, S, 1)
        sums = _product(members, values).reshape(centroids.shape)
        # a cluster without points keeps its centroid
        moved = torch.where(sizes > 0, sums / sizes.clamp_min(1), centroids)
        distance = (moved - centroids).square().sum((2, 3))  # (B, R)
        if alone:
            centroids = moved
            if float(distance.max()) <= least_alone:
                break
            continue
        centroids = torch.where(moving.view(-1, 1, 1, 1), moved, centroids)
        moving &= ~(distance.amax(1).double() <= least)
        if iteration % LOOK_EVERY == 0 and not moving.any():
            break
    return centroids


def _nearness(transposed: Tensor, centroids: Tensor) -> Tensor:
    """Return how near the points (B, E, P) are to the centroids (B, R, S, E): the larger, the nearer (B, R, S, P)."""
    # (|x|^2 - |x - c|^2) / 2 = x . c - |c|^2 / 2: one matrix product for all starts, and |x|^2 is never needed
    flat = centroids.flatten(1, 2)  # (B, R S, E)
    half = -flat.square().sum(2, keepdim=True) / 2
    if len(flat) == 1:  # a batched product of one item takes longer on a CPU
        return torch.addmm(half[0], flat[0], transposed[0]).reshape(*centroids.shape[:3], -1)
    return torch.baddbmm(half, flat, transposed).reshape(*centroids.shape[:3], -1)


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Return the matrix products of two batches."""
    return (one[0] @ other[0]).unsqueeze(0) if len(one) == 1 else one @ other


def _plus_plus(
    points: _Points, counts: Sequence[int], clusters: int, restarts: int, generators: Sequence[torch.Generator]
) -> Tensor:
    """Draw initial centroids (B, R, S, E) that are far apart, by k-means++ (Arthur and Vassilvitskii 2007).

    Item b has ``counts[b]`` points. The random numbers are drawn first, in the order of the starts.
    """
    values, size = points.values, len(generators)
    indices = torch.empty(size, restarts, dtype=torch.int64)
    draws = torch.empty(size, restarts, clusters - 1, dtype=torch.float64)
    for item, (count, generator) in enumerate(zip(counts, generators, strict=True)):
        for start in range(restarts):
            indices[item, start] = torch.randint(count, (1,), generator=generator)[0]
            for following in range(clusters - 1):
                draws[item, start, following] = torch.rand((), generator=generator, dtype=torch.float64)
    items = torch.arange(size, device=values.device).unsqueeze(1)
    centroids = [values[items, indices.to(values.device)]]  # each (B, R, E)
    distance = _squared_distance(values, centroids[0])  # (B, R, P), to the nearest centroid so far
    last = torch.tensor(counts).view(-1, 1) - 1
    for following in range(clusters - 1):
        # a point is drawn with a probability proportional to its squared distance. On the CPU: there is one order of
        # summation there, and the same draw on every device
        cumulative = points.masked(distance).double().cpu().cumsum(2)
        reached = draws[:, :, following : following + 1] * cumulative[..., -1:]
        chosen = torch.minimum(torch.searchsorted(cumulative, reached).squeeze(2), last)
        centroids.append(values[items, chosen.to(values.device)])
        distance = torch.minimum(distance, _squared_distance(values, centroids[-1]))
    return torch.stack(centroids, 2)


def _squared_distance(points: Tensor, centroids: Tensor) -> Tensor:
    """Return the squared distances (B, R, P) of points (B, P, E) to one centroid of each start (B, R, E)."""
    if len(points) == 1:  # start by start, as on a CPU the differences of one fit into the cache
        return torch.stack([(points - start).square().sum(2) for start in centroids.unbind(1)], 1)
    return (points.unsqueeze(1) - centroids.unsqueeze(2)).square().sum(3)
