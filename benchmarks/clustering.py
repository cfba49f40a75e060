"""Compare sepclip's k-means with scikit-learn's on the embeddings of a trained run: seconds and tightness.

    pip install 'sepclip[bench]'
    sepclip train MIXTURES --run RUN --loss dc ...
    OMP_NUM_THREADS=1 python benchmarks/clustering.py RUN MIXTURES [--split tt] [--rounds 3] [--json FILE]

Both cluster the same bins (within 40 dB of the loudest) with the same number of starts, and take turns on every file.
Inertia is the sum of the squared distances to the nearest centroid over all these bins, in float64.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import mean, median

import torch

from sepclip.config.load import load_config
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.render import FULL_SCALE
from sepclip.model.clustering import _active, kmeans
from sepclip.training.run import Run

try:
    from sklearn.cluster import KMeans as Peer
except ImportError as error:
    raise SystemExit("scikit-learn is missing: pip install 'sepclip[bench]'") from error


@torch.no_grad()
def bins_of_files(run: Path, data: Path, split: str):
    """Yield, for each mixture, the embeddings (P, E) of the bins that are clustered."""
    separator, mixtures = Run.open(run).separator(torch.device("cpu")), MixtureSet.open(data)
    for recipe in mixtures.recipes(split):
        wave = torch.from_numpy(mixtures.waves(split, recipe)[:1].copy()).float() / FULL_SCALE  # (1, T)
        levelled = wave * separator.level_gain(wave)
        spectrum = separator.spectrum(levelled)
        embeddings = separator(levelled, spectrum)["embedding"].unit().flatten(0, 2)  # (N F, E)
        yield embeddings[_active(spectrum.abs().flatten(), "vad")]


def timed(function):
    began = time.perf_counter()
    centroids = function()
    return time.perf_counter() - began, centroids


def inertia(points, centroids) -> float:
    return float(torch.cdist(points.double(), centroids.double()).amin(1).square().sum())


def spread(values) -> str:
    return f"median {median(values):.3f} [{min(values):.3f}..{max(values):.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="tt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    starts, sources = load_config().kmeans.restarts, MixtureSet.open(options.data).source_count
    rows = []
    for points in bins_of_files(options.run, options.data, options.split):
        array = points.numpy()
        for seed in range(options.rounds):
            own_seconds, own = timed(lambda p=points, s=seed: kmeans(p, sources, s, starts))
            peer = Peer(sources, n_init=starts, random_state=seed)
            peer_seconds, fitted = timed(lambda p=peer, a=array: p.fit(a))
            rows.append(
                {
                    "bins": len(points),
                    "seconds": own_seconds,
                    "seconds_scikit_learn": peer_seconds,
                    "time_ratio": own_seconds / peer_seconds,
                    "inertia_ratio": inertia(points, own) / inertia(points, torch.from_numpy(fitted.cluster_centers_)),
                }
            )
    print(f"{len(rows)} fits of {sources} clusters, {starts} starts each, {torch.get_num_threads()} thread(s)")
    for name in rows[0]:
        print(f"{name:22} {spread([row[name] for row in rows])}")
    print(f"inertia_ratio          mean {mean(row['inertia_ratio'] for row in rows):.5f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
