"""Masks from embeddings: k-means over the bins of an utterance, seeded and on the embeddings' own device."""

import torch
from torch import Tensor

ACTIVE_DB = -40.0  # bins so far below the loudest do not shape the clusters (the classic recipe)
RESTARTS = 4
ITERATIONS = 50
MOST_POINTS = 20_000  # fitted on a sample of so many bins: as good, and a fraction of the time


@torch.no_grad()
def cluster_masks(embeddings: Tensor, magnitude: Tensor, sources: int, seed: int = 0) -> Tensor:
    """Return binary masks (B, S, N, F) from embeddings (B, N, F, E) of a mixture of ``magnitude`` (B, N, F).

    Centroids are found on the bins within 40 dB of the utterance's loudest, then every bin goes to the nearest.
    """
    masks = []
    for vectors, loudness in zip(embeddings, magnitude, strict=True):
        points = vectors.flatten(0, 1).float()  # (N F, E)
        level = loudness.flatten()
        active = points[(level > level.max() * 10 ** (ACTIVE_DB / 20))]
        centroids = kmeans(active if len(active) > sources else points, sources, seed)  # (S, E)
        nearest = torch.cdist(points, centroids).argmin(1).reshape(loudness.shape)  # (N, F)
        masks.append(torch.stack([nearest == index for index in range(sources)]))
    return torch.stack(masks).to(magnitude.dtype)


@torch.no_grad()
def kmeans(points: Tensor, clusters: int, seed: int = 0) -> Tensor:
    """Return the centroids (clusters, E) of ``points`` (P, E) by Lloyd's algorithm.

    The best of several starts by k-means++. The same points and seed give the same centroids.
    """
    chance = torch.Generator().manual_seed(seed)  # on the CPU: the same draws on every device
    if len(points) > MOST_POINTS:
        points = points[torch.randperm(len(points), generator=chance)[:MOST_POINTS].to(points.device)]
    best, least = points[:clusters], float("inf")
    for _ in range(RESTARTS):
        centroids = _plus_plus(points, clusters, chance)
        for _ in range(ITERATIONS):
            nearest = torch.cdist(points, centroids).argmin(1)
            members = torch.nn.functional.one_hot(nearest, clusters).to(points.dtype)  # (P, S)
            counts = members.sum(0).unsqueeze(1)
            moved = torch.where(counts > 0, members.mT @ points / counts.clamp_min(1), centroids)
            if torch.equal(moved, centroids):
                break
            centroids = moved
        inertia = float(torch.cdist(points, centroids).amin(1).square().sum())
        if inertia < least:
            best, least = centroids, inertia
    return best


def _plus_plus(points: Tensor, clusters: int, chance: torch.Generator) -> Tensor:
    """Choose the first centroids: each next one far from those before (Arthur and Vassilvitskii 2007)."""
    chosen = [points[int(torch.randint(len(points), (1,), generator=chance))]]
    while len(chosen) < clusters:
        distance = torch.cdist(points, torch.stack(chosen)).amin(1).square().double().cpu().cumsum(0)  # (P,)
        draw = torch.rand((), generator=chance, dtype=torch.float64) * distance[-1]
        chosen.append(points[min(int(torch.searchsorted(distance, draw)), len(points) - 1)])
    return torch.stack(chosen)
