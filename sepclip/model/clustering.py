"""Masks from embeddings: k-means over the bins of an utterance, seeded and on the embeddings' own device."""

from typing import Literal

import torch
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor

from sepclip.model.network_base import STRICT, AtLeastOne

Masks = Literal["binary", "soft"]
Fit = Literal["vad", "loudest"]
ACTIVE_DB = -40.0  # of `vad`: bins so far below the loudest do not shape the clusters (the classic recipe)
LOUDEST_PERCENT = 10  # of `loudest`, and the next two: as nussl, the library of the AutoClip paper's author
HARDNESS = 5.0  # nussl's beta
FLOOR = 1e-8
ITERATIONS = 100
SETTLED = 1e-9  # of the mean variance: what centroids move by rounding alone
ROUGHLY = 1e-5  # the same, where it is only to be told which start is best
POINTS_OF_STARTS = 4_000  # on which the starts move; as good as all (docs/RESULTS.md)
MOST_POINTS = 100_000  # fitted on a sample of so many bins: as good, and an hour of sound takes no longer than a minute


@settings_dataclass(frozen=True, config=STRICT)
class KMeansSettings:
    """How embeddings become masks: section ``kmeans`` of the configuration.

    ``fit``: the bins that shape the clusters, those within 40 dB of the loudest (``vad``) or the ``loudest`` tenth.
    ``masks``: each bin goes to its nearest centroid (``binary``), or to all by their distances (``soft``).
    ``restarts``: starts by k-means++, of which the best counts.
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
    for vectors, loudness in zip(embeddings, magnitude, strict=True):
        centroids = fit_centroids(vectors.flatten(0, 1), loudness.flatten(), sources, settings=settings, seed=seed)
        masks.append(assign(vectors, centroids, settings.masks).to(magnitude.dtype))  # (S, N, F)
    return torch.stack(masks)


@torch.no_grad()
def fit_centroids(points: Tensor, loudness: Tensor, sources: int, *, settings: KMeansSettings, seed: int = 0) -> Tensor:
    """Return the centroids (S, E) of the embeddings ``points`` (P, E) of bins of magnitude ``loudness`` (P,)."""
    points = points.float()
    active = points[_active(loudness, settings.fit)]
    return kmeans(active if len(active) > sources else points, sources, seed, settings.restarts)


@torch.no_grad()
def assign(vectors: Tensor, centroids: Tensor, masks: Masks) -> Tensor:
    """Return the masks (S, N, F) of embeddings (N, F, E) by their distances to ``centroids`` (S, E).

    Soft masks are r_c / sum r, with r_c = exp(-5 d_c) + 1e-8 for the Euclidean distance d_c to centroid c.
    """
    points = vectors.flatten(0, 1).float()  # (N F, E)
    if masks == "soft":
        shares = torch.exp(-HARDNESS * _distances(points, centroids)) + FLOOR  # (S, N F)
        mask = shares / shares.sum(0)
    else:
        middle = centroids.mean(0)  # so that products round away nothing between clusters far from 0
        nearness = _nearness((points - middle).T, (centroids - middle).unsqueeze(0))[0]  # (S, N F)
        best, nearest = nearness[0], torch.zeros_like(nearness[0], dtype=torch.int8)
        for index, other in enumerate(nearness[1:], 1):  # argmax over rows takes ten times as long on a CPU
            nearest = torch.where(other > best, index, nearest)
            best = torch.maximum(other, best)
        mask = torch.stack([nearest == index for index in range(len(centroids))]).float()
    return mask.reshape(len(centroids), *vectors.shape[:2])


def _active(level: Tensor, fit: Fit) -> Tensor:
    """Tell which bins of magnitude ``level`` (P,) shape the clusters."""
    if fit == "vad":
        return level > level.max() * 10 ** (ACTIVE_DB / 20)
    # at or above the 90th percentile; by rank, for torch.quantile takes no more than 16 million values
    rank = -(-(100 - LOUDEST_PERCENT) * (len(level) - 1) // 100)
    return level >= level.kthvalue(rank + 1).values


def _distances(points: Tensor, centroids: Tensor) -> Tensor:
    """Return the Euclidean distances (S, P); not by a product of matrices, whose rounding swallows short ones."""
    return torch.stack([torch.linalg.vector_norm(points - centroid, dim=1) for centroid in centroids])


@torch.no_grad()
def kmeans(points: Tensor, clusters: int, seed: int, restarts: int) -> Tensor:
    """Return the centroids (clusters, E) of ``points`` (P, E) by Lloyd's algorithm.

    The ``restarts`` starts by k-means++ move at once on a sample of the points, which tells as well as all of them
    which start is best; that one then moves on all. The same points and seed give the same centroids.
    """
    chance = torch.Generator().manual_seed(seed)  # on the CPU: the same draws on every device
    points = _sample(points, MOST_POINTS, chance)
    middle = points.mean(0)
    centred = points - middle  # (P, E); or products would round away what lies between clusters far from 0
    few = _sample(centred, POINTS_OF_STARTS, chance)
    starts = torch.stack([_plus_plus(few, clusters, chance) for _ in range(restarts)])  # (R, S, E)
    centroids = _move(few, starts, ROUGHLY)
    best = _nearness(few.T, centroids).amax(1).double().sum(-1).argmax()
    return _move(centred, centroids[best].unsqueeze(0), SETTLED)[0] + middle


def _sample(points: Tensor, most: int, chance: torch.Generator) -> Tensor:
    if len(points) <= most:
        return points
    return points[torch.randperm(len(points), generator=chance)[:most].to(points.device)]


def _move(points: Tensor, centroids: Tensor, settled: float) -> Tensor:
    """Move all starts ``centroids`` (R, S, E) to the means of their ``points`` (P, E) until none moves.

    None does when it moves by less than ``settled``, a share of the mean square of the points.
    """
    turned = points.T.contiguous()  # (E, P)
    least = settled * float(points.square().mean())
    for _ in range(ITERATIONS):
        nearness = _nearness(turned, centroids)  # (R, S, P)
        members = (nearness == nearness.amax(1, keepdim=True)).to(points.dtype)
        counts = members.sum(-1, keepdim=True)  # (R, S, 1)
        sums = (members.flatten(0, 1) @ points).reshape(centroids.shape)
        moved = torch.where(counts > 0, sums / counts.clamp_min(1), centroids)
        still = float((moved - centroids).square().sum((1, 2)).max()) <= least
        centroids = moved
        if still:
            break
    return centroids


def _nearness(turned: Tensor, centroids: Tensor) -> Tensor:
    """Return (|x|^2 - |x - c|^2) / 2 of each point, (R, S, P): the larger, the nearer, in one product of matrices."""
    flat = centroids.flatten(0, 1)  # (R S, E)
    nearness = torch.addmm(-flat.square().sum(1, keepdim=True) / 2, flat, turned)
    return nearness.reshape(*centroids.shape[:2], -1)


def _plus_plus(points: Tensor, clusters: int, chance: torch.Generator) -> Tensor:
    """Choose the first centroids: each next one far from those before (Arthur and Vassilvitskii 2007)."""
    chosen = [points[int(torch.randint(len(points), (1,), generator=chance))]]
    distance = (points - chosen[0]).square().sum(1)  # (P,)
    while len(chosen) < clusters:
        heap = distance.double().cpu().cumsum(0)
        draw = torch.rand((), generator=chance, dtype=torch.float64) * heap[-1]
        chosen.append(points[min(int(torch.searchsorted(heap, draw)), len(points) - 1)])
        distance = torch.minimum(distance, (points - chosen[-1]).square().sum(1))
    return torch.stack(chosen)
