"""Makes a model from a run: ``python -m sepclip.pretrained.pack RUN FOLDER``.

The folder gets the best weights in half precision, the configuration, the environment and the validation scores; its
card is written by hand.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from sepclip.pretrained.model_cards import CONFIG, WEIGHTS


def pack(run: Path, folder: Path, data: str) -> None:
    """Write the best weights of ``run`` into ``folder``, with the name of its ``data`` instead of their path.

    Matrices are stored in float16; vectors (biases, statistics of the input) stay as they are, as they are small.
    """
    best = run / "checkpoints" / "best"
    average = best / "average.safetensors"
    weights = load_file(average if average.is_file() else best / WEIGHTS)
    folder.mkdir(parents=True, exist_ok=True)
    halves = {name: value.half() if value.dim() > 1 else value for name, value in weights.items()}
    (folder / WEIGHTS).write_bytes(save(halves))  # safetensors' own file would be readable by its owner only
    shutil.copyfile(run / CONFIG, folder / CONFIG)
    rows = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(row for row in rows if "valid_loss" in row), encoding="utf-8")
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    environment["data"]["path"] = data
    (folder / "environment.json").write_text(json.dumps(environment, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    pack(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "open-speech")
