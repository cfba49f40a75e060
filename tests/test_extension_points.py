"""What CONTRIBUTING promises to whoever adds a network, a loss, a clipping rule, a corpus or a metric.

A scratch script adds one of each, as a contributor would in the package, and runs the commands with them.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, SPEECH, TINY

TOYS = '''
"""A toy of every kind: each is registered as its table asks for, and nothing else in the package is changed."""

import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

from sepclip import corpora
from sepclip.scoring.table import METRICS, Metric


def count_wrong_signs(est, ref, rate_hz):
    return float((est * ref < 0).mean())


METRICS["wrong_signs"] = Metric(
    "wrong signs", "share of samples with the wrong sign", "function", unit="share", function=count_wrong_signs
)
corpora.__path__.append(str(HERE / "corpora"))


def add_to_training():
    import pydantic.dataclasses
    import torch
    from torch import Tensor, nn

    from sepclip.clip import RULES, NormRule
    from sepclip.config import load
    from sepclip.model.losses import LOSSES, Loss
    from sepclip.model.network_base import STRICT, MaskNetwork
    from sepclip.model.networks import NETWORKS, Network

    load.configs_folder = lambda: HERE / "configs"

    @pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
    class ToySettings:
        width: int

    class ToyNetwork(MaskNetwork):
        """Masks from three neighbouring frames, without a recurrent layer and with nothing but forward."""

        def __init__(self, bins, sources, heads, settings):
            super().__init__(bins, sources, heads)
            self.first = nn.Conv1d(bins, settings.width, 3, padding=1)
            self.last = nn.Linear(settings.width, bins * sources)

        def forward(self, magnitude):
            hidden = self.first((magnitude + 1e-4).log().mT).relu().mT  # (B, N, width)
            masks = self.last(hidden).sigmoid().unflatten(2, (self.sources, self.bins))
            return {"mask": masks.transpose(1, 2)}  # (B, S, N, F)

    def toy_loss(outputs, signals, settings):
        """Return the squared error of the masked magnitudes, without any permutation."""
        error = outputs["mask"] * signals.magnitude.unsqueeze(1) - signals.sources.abs()
        return error.square().mean((1, 2, 3))

    class Halve(NormRule):
        """Halve every gradient that is longer than a threshold."""

        name = "halve"
        grammar = "halve:V (halve gradients above the norm V)"

        def __init__(self, threshold: float):
            super().__init__()
            self.threshold = threshold

        def _threshold(self, norm):
            return norm / 2 if norm > self.threshold else float("inf")

        def __repr__(self):
            return f"halve:{self.threshold:g}"

    NETWORKS["toy"] = Network(ToyNetwork, ToySettings, "toy")
    LOSSES["toy"] = Loss(toy_loss, ("mask",), "mask")
    RULES["halve"] = Halve


if __name__ == "__main__":
    from sepclip.cli import main

    if sys.argv[1] != "prepare":
        add_to_training()
    main(sys.argv[1:])
'''

CORPUS = '''
"""A toy corpus: a voice is the first word of a file name."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.corpora import Card, Corpus
from sepclip.corpora.command import Check, Jobs, Json, Out, carry_out

CARD = Card("toycorpus", "Toys that talk.", "ROOT/VOICE-*.flac", "tiny", "none", "here")


def prepare(
    root: Annotated[Path, typer.Argument(help="Folder of the recordings.", show_default=False)],
    out: Out,
    check: Check = False,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Make the mixture set."""
    from sepclip.corpora.speakers.plan import VoiceSettings, plan_voices

    counts, fractions = {"tr": 8, "cv": 2, "tt": 2}, {"tr": 0.6, "cv": 0.2, "tt": 0.2}
    settings = VoiceSettings(counts, fractions, speaker_from="^[^+]+", audio=False)
    carry_out(plan_voices(root, out, settings, corpus=CARD.name, jobs=jobs), check=check, as_json=as_json)


CORPORA = (Corpus(CARD, prepare),)
'''


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the script, a corpus module, recordings, and base.yaml with the key of the network."""
    folder = tmp_path_factory.mktemp("scratch")
    (folder / "toys.py").write_text(TOYS, encoding="utf-8")
    (folder / "corpora").mkdir()
    (folder / "corpora" / "toycorpus.py").write_text(CORPUS, encoding="utf-8")
    shutil.copytree(REPOSITORY / "configs", folder / "configs")
    with (folder / "configs" / "base.yaml").open("a", encoding="utf-8") as file:
        file.write("\ntoy:\n  width: 8  # channels\n")
    (folder / "recordings").mkdir()
    for path in SPEECH.glob("*/*.flac"):
        shutil.copy(path, folder / "recordings" / f"{path.parent.name}+{path.name}")
    return folder


def run(scratch: Path, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, scratch / "toys.py", *map(str, arguments)],
        cwd=scratch,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def toy_set(scratch: Path) -> Path:
    run(scratch, "prepare", "toycorpus", scratch / "recordings", scratch / "set")
    return scratch / "set"


def test_toy_corpus_is_listed_and_prepared(scratch: Path, toy_set: Path) -> None:
    assert "Toys that talk." in run(scratch, "prepare", "--list")
    about = json.loads((toy_set / "set.json").read_text(encoding="utf-8"))
    assert (about["settings"]["corpus"], about["counts"]) == ("toycorpus", {"tr": 8, "cv": 2, "tt": 2})


@pytest.mark.parametrize(
    ("toy", "chosen"),
    [
        ("network", ("--set", "model.network=toy", "--set", "toy.width=5", "--loss", "mi")),
        ("wave loss of the toy network", ("--set", "model.network=toy", "--loss", "snr")),
        ("loss", ("--loss", "toy")),
        ("rule", ("--clip", "halve:1e-6", "--loss", "mi")),
    ],
)
def test_toy_trains_resumes_separates_and_is_scored(scratch: Path, toy_set: Path, toy: str, chosen: tuple[str]) -> None:
    name = toy.replace(" ", "-")
    tiny = [part for setting in (*TINY, "precision=fp32") for part in ("--set", setting)]
    for steps in (10, 20):
        run(
            scratch, "train", toy_set, "--run", name, "--steps", steps, *tiny, *chosen, "--no-report", "--device", "cpu"
        )
    if toy == "rule":
        rows = [json.loads(line) for line in (scratch / name / "metrics.jsonl").read_text().splitlines()]
        assert rows[0]["clipped_share"] > 0
        assert "halve:1e-06" in (scratch / name / "config.yaml").read_text()
    voices = sorted((scratch / "recordings").glob("*.flac"))[:3]
    # a recording longer than a block, and short ones that go through the network together
    long = scratch / f"{name}-long.wav"
    import numpy as np
    import soundfile

    wave, rate_hz = soundfile.read(voices[0])
    soundfile.write(long, np.tile(wave, -(-65 * rate_hz // len(wave)))[: 65 * rate_hz], rate_hz)
    run(scratch, "separate", name, long, *voices, "--out", f"{name}-out", "--precision", "fp32")
    assert soundfile.info(scratch / f"{name}-out" / f"{long.stem}_s1.wav").frames == 65 * rate_hz
    assert len(list((scratch / f"{name}-out").glob("*_s[12].wav"))) == 8
    result = json.loads(run(scratch, "eval", name, toy_set, "--metrics", "si_sdr", "--oracles", "none", "--json"))
    assert len(result["rows"]) == 4


def test_toy_metric_is_scored_shown_and_compared(scratch: Path, toy_set: Path) -> None:
    folder = scratch / "scored"
    tiny = [part for setting in TINY for part in ("--set", setting)]
    run(scratch, "train", toy_set, "--run", folder, "--steps", 10, *tiny, "--no-report", "--device", "cpu")
    words = run(scratch, "eval", folder, toy_set, "--metrics", "si_sdr,wrong_signs", "--oracles", "none", "--jobs", 2)
    assert "wrong signs" in words
    scores = json.loads((folder / "eval" / "set-tt" / "scores.json").read_text(encoding="utf-8"))
    assert all(0 < row["wrong_signs"] < 1 for row in scores["rows"])
    assert scores["units"]["wrong_signs"] == "share"
