import numpy as np
import pytest
import torch

from sepclip.model.clustering import MOST_POINTS, _active, _kmeans
from sepclip.model.clustering import cluster_masks as masks_by_clusters
from sepclip.model.clustering import kmeans as run_kmeans
from tests.model.build import kmeans_settings

EVERY = [kmeans_settings(masks=masks, fit=fit) for masks in ("binary", "soft") for fit in ("vad", "loudest")]
NUSSL = kmeans_settings(masks="soft", fit="loudest")


def cluster_masks(embeddings, magnitude, sources, settings=kmeans_settings()):
    return masks_by_clusters(embeddings, magnitude, sources, settings=settings)


def kmeans(points, clusters, seed=0, restarts=kmeans_settings().restarts):
    return run_kmeans(points, clusters, seed, restarts)


every_setting = pytest.mark.parametrize("settings", EVERY, ids=str)


def clouds(centres, each, spread=0.02, seed=0):
    """Return points (P, E) close round ``centres`` (S, E), in mixed order, and the number of each one's centre."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.arange(len(centres)).repeat(each)[torch.randperm(each * len(centres), generator=generator)]
    return centres[owner] + spread * torch.randn(len(owner), centres.shape[1], generator=generator), owner


@pytest.mark.parametrize("sources", [2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kmeans_finds_well_separated_clouds(sources, seed):
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


def test_kmeans_uses_the_best_of_several_starts():
    points = torch.rand(300, 6, generator=torch.Generator().manual_seed(0))  # no clusters: starts matter

    def inertias(restarts):
        return [
            torch.cdist(points, kmeans(points, 5, seed, restarts)).amin(1).square().sum().item() for seed in range(8)
        ]

    one, several = inertias(1), inertias(8)  # the first of the same starts
    assert all(best <= first * (1 + 1e-6) for best, first in zip(several, one, strict=True))
    assert max(several) < max(one)


def test_centroids_depend_only_on_points_and_seed():
    points = torch.rand(300, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    first = kmeans(points, 5, seed=3)
    before = torch.random.get_rng_state()
    assert torch.equal(kmeans(points, 5, seed=3), first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(kmeans(points, 5, seed=4), first)


def test_kmeans_clusters_more_points_than_its_sample():
    points, owner = clouds(torch.eye(3)[:2], MOST_POINTS)
    nearest = torch.cdist(points, kmeans(points, 2)).argmin(1)
    assert (nearest == owner).all() or (nearest == 1 - owner).all()


@pytest.mark.parametrize("points", [1, 2, 7])
def test_identical_points_give_identical_centroids(points):
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


def test_masks_of_silence_add_up_to_one():
    embeddings = torch.rand(1, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(cluster_masks(embeddings, torch.zeros(1, 4, 5), 2).sum(1), torch.ones(1, 4, 5))


@pytest.mark.filterwarnings("error")
def test_embeddings_with_a_gradient_are_clustered_without_one():
    embeddings = torch.rand(1, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    expected = cluster_masks(embeddings, torch.ones(1, 4, 5), 2)
    masks = cluster_masks(embeddings.requires_grad_(), torch.ones(1, 4, 5), 2)
    assert torch.equal(masks, expected)
    assert not masks.requires_grad


def utterance(sources=2, each=300, seed=0, spread=0.05):
    """Return embeddings (1, 10, F, 6) in clouds, magnitudes (1, 10, F) spread over 60 dB, and the owners (10 F,)."""
    points, owner = clouds(torch.eye(6)[:sources], each, spread, seed)
    level = 10 ** (-3 * torch.rand(len(points), generator=torch.Generator().manual_seed(seed)))
    return points.reshape(1, 10, -1, 6), level.reshape(1, 10, -1), owner


def match_order(masks, reference):
    """Return ``masks`` (S, N F) in the order of the sources of ``reference`` (S, N F)."""
    return masks[(reference @ masks.T).argmax(1)]


def dense_soft_masks(embeddings, magnitude, owner, sources):
    """Return nussl's masks from the definition, one bin after the other, in float64.

    The clusters of the loud bins are those of ``owner``, for the clouds are far apart.
    """
    points, level = embeddings.flatten(0, 2).double().numpy(), magnitude.flatten().double().numpy()
    loud = level >= np.percentile(level, 90)
    centroids = [points[loud & (owner.numpy() == index)].mean(0) for index in range(sources)]
    masks = np.zeros((sources, len(points)))
    for place, point in enumerate(points):
        shares = [np.exp(-5 * np.sqrt(((point - centroid) ** 2).sum())) + 1e-8 for centroid in centroids]
        masks[:, place] = np.array(shares) / np.sum(shares)
    return torch.from_numpy(masks)


@pytest.mark.parametrize("sources", [2, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_soft_masks_of_the_loudest_equal_those_of_nussl(sources, seed):
    embeddings, magnitude, owner = utterance(sources, seed=seed)
    expected = dense_soft_masks(embeddings, magnitude, owner, sources)
    result = cluster_masks(embeddings, magnitude, sources, settings=NUSSL)[0].flatten(1).double()
    torch.testing.assert_close(match_order(result, expected), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 100, 101, 1234])
def test_loudest_bins_begin_at_the_90th_percentile(count):
    generator = np.random.default_rng(count)
    for level in (generator.random(count), generator.integers(0, 4, count).astype(float), np.zeros(count)):
        result = _active(torch.from_numpy(level), "loudest").numpy()
        assert np.array_equal(result, level >= np.percentile(level, 90))


@every_setting
def test_masks_add_up_to_one_and_are_largest_for_the_nearest(settings):
    embeddings, magnitude, owner = utterance(3)
    masks = cluster_masks(embeddings, magnitude, 3, settings=settings)[0].flatten(1)
    torch.testing.assert_close(masks.sum(0), torch.ones(len(owner)))
    truth = torch.nn.functional.one_hot(owner).T.float()
    assert torch.equal(match_order(masks, truth).argmax(0), owner)
    assert masks.unique().numel() == 2 if settings.masks == "binary" else (masks > 0).all() and (masks < 1).all()


@every_setting
def test_masks_do_not_depend_on_the_order_of_the_bins(settings):
    embeddings, magnitude, _ = utterance()
    order = torch.randperm(magnitude.numel(), generator=torch.Generator().manual_seed(1))
    masks = cluster_masks(embeddings, magnitude, 2, settings=settings)[0].flatten(1)
    shuffled = cluster_masks(
        embeddings.flatten(0, 2)[order].reshape(embeddings.shape),
        magnitude.flatten()[order].reshape(magnitude.shape),
        2,
        settings=settings,
    )[0].flatten(1)
    torch.testing.assert_close(match_order(shuffled, masks[:, order]), masks[:, order], rtol=0, atol=1e-6)


@every_setting
def test_masks_do_not_depend_on_the_level_of_the_mixture(settings):
    embeddings, magnitude, _ = utterance()
    masks = cluster_masks(embeddings, magnitude, 2, settings=settings)
    for gain in (2.0**-12, 1e3):
        assert torch.equal(cluster_masks(embeddings, gain * magnitude, 2, settings=settings), masks)


def test_binary_masks_do_not_depend_on_the_scale_of_the_embeddings():
    embeddings, magnitude, _ = utterance()
    masks = cluster_masks(embeddings, magnitude, 2)
    for scale in (2.0**-12, 1e3):
        assert torch.equal(cluster_masks(scale * embeddings, magnitude, 2), masks)


@every_setting
def test_masks_of_silence_are_finite_with_every_setting(settings):
    embeddings = torch.rand(1, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    masks = cluster_masks(embeddings, torch.zeros(1, 4, 5), 2, settings=settings)
    assert masks.isfinite().all()
    torch.testing.assert_close(masks.sum(1), torch.ones(1, 4, 5))


def test_identical_embeddings_have_equal_shares():
    masks = cluster_masks(torch.full((1, 4, 5, 3), 0.3), torch.rand(1, 4, 5), 2, settings=NUSSL)
    torch.testing.assert_close(masks, torch.full((1, 2, 4, 5), 0.5), rtol=0, atol=1e-5)


@every_setting
@pytest.mark.parametrize("bins", [1, 2, 3])
def test_masks_are_given_for_more_sources_than_bins(settings, bins):
    masks = cluster_masks(torch.eye(3)[:bins].reshape(1, 1, bins, 3), torch.ones(1, 1, bins), 3, settings=settings)
    assert masks.shape == (1, 3, 1, bins)
    torch.testing.assert_close(masks.sum(1), torch.ones(1, 1, bins))


@every_setting
def test_each_mixture_of_a_batch_has_its_own_clusters(settings):
    one, other = utterance(seed=0), utterance(seed=1)
    both = cluster_masks(torch.cat([one[0], other[0]]), torch.cat([one[1], other[1]]), 2, settings=settings)
    for index, (embeddings, magnitude, _) in enumerate((one, other)):
        assert torch.equal(both[index], cluster_masks(embeddings, magnitude, 2, settings=settings)[0])


def test_kmeans_separates_clusters_far_from_zero():
    points, owner = clouds(torch.eye(6)[:3], 100)
    nearest = torch.cdist(points.double() + 1000, kmeans(points + 1000, 3).double()).argmin(1)
    assert all(nearest[owner == index].unique().numel() == 1 for index in range(3))
    assert nearest.unique().numel() == 3


def test_several_mixtures_at_once_have_the_clusters_that_each_has_alone():
    """As on a GPU, with more points than the sample of the starts, and with few."""
    generator = torch.Generator().manual_seed(0)
    items = [torch.rand(count, 6, generator=generator) for count in (5000, 700, 12, 4500)]
    together = _kmeans(torch.cat(items), [len(item) for item in items], 3, 1, 4)
    for item, centroids in zip(items, together, strict=True):
        torch.testing.assert_close(centroids, kmeans(item, 3, seed=1, restarts=4), rtol=0, atol=1e-5)
