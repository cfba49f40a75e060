import pytest
import torch

from sepclip.model.clustering import MOST_POINTS, cluster_masks, kmeans


def clouds(centres, each, spread=0.02, seed=0):
    """Return points (P, E) close round ``centres`` (S, E), in mixed order, and the number of each one's centre."""
    chance = torch.Generator().manual_seed(seed)
    owner = torch.arange(len(centres)).repeat(each)[torch.randperm(each * len(centres), generator=chance)]
    return centres[owner] + spread * torch.randn(len(owner), centres.shape[1], generator=chance), owner


@pytest.mark.parametrize("sources", [2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_well_separated_clouds_are_found(sources, seed):
    centres = torch.eye(20)[:sources]
    points, _ = clouds(centres, 200, seed=seed)
    distance = torch.cdist(kmeans(points, sources, seed), centres)
    assert sorted(distance.argmin(1).tolist()) == list(range(sources))
    assert distance.amin(1).max() < 0.02  # the mean of 200 points of spread 0.02 in 20 dimensions: 0.006


def test_centroids_are_the_means_of_their_points():
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(0))
    centroids = kmeans(points, 4)
    nearest = torch.cdist(points, centroids).argmin(1)
    torch.testing.assert_close(torch.stack([points[nearest == i].mean(0) for i in range(4)]), centroids)


def test_the_best_of_several_starts_is_taken(monkeypatch):
    points = torch.rand(300, 6, generator=torch.Generator().manual_seed(0))  # no clusters: starts matter

    def inertias():
        return [torch.cdist(points, kmeans(points, 5, seed)).amin(1).square().sum().item() for seed in range(8)]

    several = inertias()
    monkeypatch.setattr("sepclip.model.clustering.RESTARTS", 1)  # the first of the same starts
    assert all(best <= first for best, first in zip(several, inertias(), strict=True))
    assert several != inertias()


def test_the_seed_decides_and_no_other_randomness():
    points = torch.rand(300, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    first = kmeans(points, 5, seed=3)
    before = torch.random.get_rng_state()
    assert torch.equal(kmeans(points, 5, seed=3), first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(kmeans(points, 5, seed=4), first)


def test_more_points_than_are_looked_at():
    points, owner = clouds(torch.eye(3)[:2], MOST_POINTS)
    nearest = torch.cdist(points, kmeans(points, 2)).argmin(1)
    assert (nearest == owner).all() or (nearest == 1 - owner).all()


@pytest.mark.parametrize("points", [1, 2, 7])
def test_points_that_are_all_one_do_no_harm(points):
    assert torch.equal(kmeans(torch.ones(points, 3), 3), torch.ones(3, 3))


@pytest.mark.parametrize("sources", [2, 3])
def test_masks_give_each_bin_to_one_cloud(sources):
    batch = [clouds(torch.eye(6)[:sources], 40, seed=seed) for seed in (0, 1)]
    embeddings = torch.stack([points.reshape(-1, 10, 6) for points, _ in batch])
    masks = cluster_masks(embeddings, torch.ones(embeddings.shape[:3]), sources)
    assert masks.shape == (2, sources, 4 * sources, 10)
    assert torch.equal(masks.sum(1), torch.ones(2, 4 * sources, 10))
    for mask, (_, owner) in zip(masks.flatten(2), batch, strict=True):
        assert sorted(mask[:, owner == i].mean(1).argmax().item() for i in range(sources)) == list(range(sources))
        assert all(mask[:, owner == i].mean(1).max() == 1 for i in range(sources))


def test_quiet_bins_do_not_shape_the_clusters_but_get_their_mask():
    points, owner = clouds(torch.eye(3)[:2], 50)
    points[:60], loudness = torch.tensor([0.5, 0.1, 3.0]), torch.ones(100)  # most bins: a third cloud, far off
    loudness[:60] = 0.0099
    quiet = cluster_masks(points.reshape(1, 10, 10, 3), loudness.reshape(1, 10, 10), 2)[0, 0].flatten()
    right = (owner[60:] == owner[60]).float()
    assert torch.equal(quiet[60:], right) or torch.equal(quiet[60:], 1 - right)
    assert quiet[:60].unique().numel() == 1
    loudness[:60] = 0.0101  # and just within 40 dB they do
    loud = cluster_masks(points.reshape(1, 10, 10, 3), loudness.reshape(1, 10, 10), 2)[0, 0].flatten()
    assert loud[60:].unique().numel() == 1


def test_silence_is_clustered_without_harm():
    embeddings = torch.rand(1, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(cluster_masks(embeddings, torch.zeros(1, 4, 5), 2).sum(1), torch.ones(1, 4, 5))


@pytest.mark.filterwarnings("error")
def test_embeddings_in_training_are_clustered_too():
    embeddings = torch.rand(1, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    want = cluster_masks(embeddings, torch.ones(1, 4, 5), 2)
    masks = cluster_masks(embeddings.requires_grad_(), torch.ones(1, 4, 5), 2)
    assert torch.equal(masks, want)
    assert not masks.requires_grad
