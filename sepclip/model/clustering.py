"""Masks from embeddings: seeded k-means over the bins of an utterance, on the device of the embeddings."""

from typing import Literal

import torch
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor

from sepclip.model.network_base import STRICT, AtLeastOne

Masks = Literal["binary", "soft"]
Fit = Literal["vad", "loudest"]
ACTIVE_DB = -40.0  # for `vad`: bins this far below the loudest do not shape the clusters (the classic recipe)
# for `loudest` and soft masks, as in nussl, the library of the AutoClip paper's author
LOUDEST_PERCENT = 10
HARDNESS = 5.0  # beta in nussl
FLOOR = 1e-8
ITERATIONS = 100
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
    masks = []
    for vectors, magnitudes in zip(embeddings, magnitude, strict=True):
        centroids = fit_centroids(vectors.flatten(0, 1), magnitudes.flatten(), sources, settings=settings, seed=seed)
        masks.append(assign(vectors, centroids, settings.masks).to(magnitude.dtype))  # (S, N, F)
    return torch.stack(masks)


@torch.no_grad()
def fit_centroids(
    points: Tensor, magnitudes: Tensor, sources: int, *, settings: KMeansSettings, seed: int = 0
) -> Tensor:
    """Return the centroids (S, E) of the embeddings ``points`` (P, E) of bins with their ``magnitudes`` (P,)."""
    points = points.float()
    active = points[_active(magnitudes, settings.fit)]
    # a silent sound has no active bins: cluster all of them, so that there still are S centroids
    return kmeans(active if len(active) > sources else points, sources, seed, settings.restarts)


@torch.no_grad()
def assign(vectors: Tensor, centroids: Tensor, masks: Masks) -> Tensor:
    """Return the masks (S, N, F) of embeddings (N, F, E) by their distances to ``centroids`` (S, E)."""
    points = vectors.flatten(0, 1).float()  # (N F, E)
    if masks == "soft":
        # r_c / sum r with r_c = exp(-5 d_c) + 1e-8, for the Euclidean distance d_c to centroid c (nussl)
        shares = torch.exp(-HARDNESS * _distances(points, centroids)) + FLOOR  # (S, N F)
        mask = shares / shares.sum(0)
    else:
        # centred, so that the products are exact enough for clusters that are close together but far from 0
        middle = centroids.mean(0)
        nearness = _nearness((points - middle).T, (centroids - middle).unsqueeze(0))[0]  # (S, N F)
        # an argmax in a loop over the sources: torch's argmax over rows takes ten times as long on a CPU
        best, nearest = nearness[0], torch.zeros_like(nearness[0], dtype=torch.int8)
        for index, candidate in enumerate(nearness[1:], 1):
            nearest = torch.where(candidate > best, index, nearest)
            best = torch.maximum(candidate, best)
        mask = torch.stack([nearest == index for index in range(len(centroids))]).float()
    return mask.reshape(len(centroids), *vectors.shape[:2])


def _active(level: Tensor, fit: Fit) -> Tensor:
    """Return which bins of magnitude ``level`` (P,) shape the clusters."""
    if fit == "vad":
        return level > level.max() * 10 ** (ACTIVE_DB / 20)
    # at or above the 90th percentile; by rank, since torch.quantile accepts at most 16 million values
    rank = -(-(100 - LOUDEST_PERCENT) * (len(level) - 1) // 100)
    return level >= level.kthvalue(rank + 1).values


def _distances(points: Tensor, centroids: Tensor) -> Tensor:
    """Return the Euclidean distances (S, P)."""
    # a matrix product would be faster, but its rounding errors are larger than short distances
    return torch.stack([torch.linalg.vector_norm(points - centroid, dim=1) for centroid in centroids])


@torch.no_grad()
def kmeans(points: Tensor, clusters: int, seed: int, restarts: int) -> Tensor:
    """Return the centroids (clusters, E) of ``points`` (P, E) by Lloyd's algorithm, from several starts.

    The same points and seed give the same centroids.
    """
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same draws on every device
    points = _sample(points, MOST_POINTS, generator)
    # centred, or the products would round away the distance between clusters that are far from 0
    middle = points.mean(0)
    centred = points - middle  # (P, E)
    # all starts move together on a sample, which shows as well as all points which start is the best
    sample = _sample(centred, POINTS_OF_STARTS, generator)
    starts = torch.stack([_plus_plus(sample, clusters, generator) for _ in range(restarts)])  # (R, S, E)
    centroids = _move(sample, starts, ROUGHLY)
    best = _nearness(sample.T, centroids).amax(1).double().sum(-1).argmax()
    # only the best one then moves on all points
    return _move(centred, centroids[best].unsqueeze(0), SETTLED)[0] + middle


def _sample(points: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Return ``points`` (P, E), or a random sample of ``most`` of them if there are more."""
    if len(points) <= most:
        return points
    return points[torch.randperm(len(points), generator=generator)[:most].to(points.device)]


def _move(points: Tensor, centroids: Tensor, tolerance: float) -> Tensor:
    """Move the centroids (R, S, E) of all starts to the means of their ``points`` (P, E) until none moves any more.

    A start has settled if its centroids move by at most ``tolerance``, a share of the mean square of the points.
    """
    transposed = points.T.contiguous()  # (E, P)
    least = tolerance * float(points.square().mean())
    # one iteration of Lloyd's algorithm: assign each point to its nearest centroid, then average by matrix product
    for _ in range(ITERATIONS):
        nearness = _nearness(transposed, centroids)  # (R, S, P)
        members = (nearness == nearness.amax(1, keepdim=True)).to(points.dtype)
        counts = members.sum(-1, keepdim=True)  # (R, S, 1)
        sums = (members.flatten(0, 1) @ points).reshape(centroids.shape)
        # a cluster without points keeps its centroid
        moved = torch.where(counts > 0, sums / counts.clamp_min(1), centroids)
        settled = float((moved - centroids).square().sum((1, 2)).max()) <= least
        centroids = moved
        if settled:
            break
    return centroids


def _nearness(transposed: Tensor, centroids: Tensor) -> Tensor:
    """Return how near the points (E, P) are to the centroids (R, S, E): the larger, the nearer (R, S, P)."""
    # (|x|^2 - |x - c|^2) / 2 = x . c - |c|^2 / 2: one matrix product for all starts, and |x|^2 is never needed
    flat = centroids.flatten(0, 1)  # (R S, E)
    nearness = torch.addmm(-flat.square().sum(1, keepdim=True) / 2, flat, transposed)
    return nearness.reshape(*centroids.shape[:2], -1)


def _plus_plus(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Draw initial centroids that are far apart, by k-means++ (Arthur and Vassilvitskii 2007)."""
    centroids = [points[int(torch.randint(len(points), (1,), generator=generator))]]
    distance = (points - centroids[0]).square().sum(1)  # (P,), to the nearest centroid so far
    while len(centroids) < clusters:
        # a point is drawn with a probability proportional to its squared distance
        cumulative = distance.double().cpu().cumsum(0)
        draw = torch.rand((), generator=generator, dtype=torch.float64) * cumulative[-1]
        centroids.append(points[min(int(torch.searchsorted(cumulative, draw)), len(points) - 1)])
        distance = torch.minimum(distance, (points - centroids[-1]).square().sum(1))
    return torch.stack(centroids)
