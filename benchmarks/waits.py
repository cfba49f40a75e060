"""Count what the host waits for and launches on a GPU, on the pretended device of the tests: no GPU, and no times.

    PYTHONPATH=. python benchmarks/waits.py [--json FILE]

For each loss a training step of a 2 x 300 BLSTM (batch 8, excerpts of 60 frames, ``--clip auto:10``, fp32), or of
Conv-TasNet; and for k-means the validation of one batch of 25 excerpts. A recurrent layer counts as one launch forward
and two backward, although cuDNN starts more.
"""

import argparse
import json
from pathlib import Path

import torch

from sepclip.audio.layout import Layout
from sepclip.config.load import load_config
from sepclip.mixing.batches import Batch
from sepclip.model.clustering import cluster_masks
from sepclip.model.losses import LOSSES
from sepclip.training.state import TrainingState, build_separator
from sepclip.training.step import take_step
from tests.pretend_device import NAME, pretended

SETTINGS = ("model.layers=2", "model.hidden=300", "precision=fp32", "optimizer.schedule=constant")


def count_step(loss: str, network: str) -> dict[str, int]:
    """Return the waits and launches of the second step, as the first one allocates the optimizer's state."""
    config = load_config(settings=[*SETTINGS, f"loss.name={loss}", f"model.network={network}"])
    sources = 0.1 * torch.randn(8, 2, 59 * 64, generator=torch.Generator().manual_seed(0))
    with pretended() as device:
        state = TrainingState.start(config, build_separator(config, Layout(8000, 2)), torch.device(NAME, 0), 10)
        state.separator.train()
        batch = Batch(sources.sum(1), sources).to(state.device)
        take_step(state, batch, config)
        device.waits.clear()
        device.launches.clear()
        take_step(state, batch, config)
        return {"waits": sum(device.waits.values()), "launches": sum(device.launches.values())}


def count_clustering(excerpts: int = 25) -> dict[str, float]:
    """Return the waits and launches of the masks of a batch, for each excerpt."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.rand(excerpts, 400, 129, 20, generator=generator)
    embeddings = torch.nn.functional.normalize(vectors + 0.5 * torch.eye(20)[torch.arange(400) % 2, None], dim=-1)
    magnitude = 10 ** (-3 * torch.rand(excerpts, 400, 129, generator=generator))
    with pretended() as device:
        cluster_masks(embeddings.to(NAME), magnitude.to(NAME), 2, settings=load_config().kmeans)
        counts = {"waits": sum(device.waits.values()), "launches": sum(device.launches.values())}
    return {name: count / excerpts for name, count in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table: dict[str, dict[str, float]] = {f"step of {loss}, blstm": {**count_step(loss, "blstm")} for loss in LOSSES}
    table["step of si-sdr, conv-tasnet"] = {**count_step("si-sdr", "conv-tasnet")}
    table["k-means, for each of 25 excerpts"] = count_clustering()
    for name, counts in table.items():
        print(f"{name:34} {counts['waits']:8.4g} waits {counts['launches']:8.4g} launches", flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
