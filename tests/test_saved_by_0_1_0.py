"""Sets, runs, sweeps and scores that version 0.1.0 wrote still open, resume, compare and report."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sepclip.config.schema import ADDED
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.separation.trained import Separator
from tests.conftest import REPOSITORY, SPEECH, sepclip

SAVED = REPOSITORY / "tests" / "saved_by_0_1_0"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what was saved, with the paths of this machine in place of the two placeholders."""
    copy = tmp_path_factory.mktemp("saved") / "by_0_1_0"
    shutil.copytree(SAVED, copy)
    for path in (path for path in copy.rglob("*") if path.is_file() and path.suffix not in (".pt", ".safetensors")):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("@SPEECH@", str(SPEECH)).replace("@SAVED@", str(copy)), encoding="utf-8")
    return copy


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def measured(row: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a row of metrics that do not depend on the clock."""
    return {key: value for key, value in row.items() if key not in ("seconds", "steps_per_second", "waited_share")}


def test_saved_set_opens_and_renders_the_same_waves(saved: Path) -> None:
    mixtures = MixtureSet.open(saved / "set")
    recipes = mixtures.recipes("tt")
    assert (len(mixtures.recipes("tr")), len(recipes), mixtures.layout.rate_hz) == (12, 6, 8000)
    waves = mixtures.waves("tt", recipes[0])
    assert waves.dtype == np.int16
    assert waves.shape == (3, recipes[0].length)
    np.testing.assert_array_equal(waves[0], waves[1:].sum(0))


def test_saved_set_is_finished_for_the_same_prepare_command(saved: Path) -> None:
    arguments = ("--tr", 12, "--cv", 4, "--tt", 3, "--unseen", "fr-f,ru-m", "--no-audio")
    before = {path.name: path.read_bytes() for path in (saved / "set").iterdir()}
    result = sepclip("prepare", "speakers", SPEECH, saved / "set", *arguments)
    assert result.returncode == 0, result.stderr
    assert {path.name: path.read_bytes() for path in (saved / "set").iterdir()} == before


def test_prepare_writes_the_recipes_of_0_1_0(saved: Path, tmp_path: Path) -> None:
    arguments = ("--tr", 12, "--cv", 4, "--tt", 3, "--unseen", "fr-f,ru-m", "--no-audio")
    assert sepclip("prepare", "speakers", SPEECH, tmp_path / "set", *arguments).returncode == 0
    for name in ("tr.jsonl", "cv.jsonl", "tt.jsonl", "set.json"):
        assert (tmp_path / "set" / name).read_bytes() == (saved / "set" / name).read_bytes()


def test_interrupted_run_resumes_to_the_numbers_of_the_whole_run(saved: Path) -> None:
    assert json.loads((saved / "interrupted/checkpoints/last/state.json").read_text())["step"] == 10
    command = ["--clip", "auto:10,window=8", "--dynamics", "every=5", "--no-report", "--device", "cpu"]
    settings = "model.layers=1 model.hidden=6 data.segment_frames=60 data.batch_size=4 train.valid_every=10 threads=1"
    for setting in f"{settings} optimizer.schedule=constant precision=fp32 train.save_every=5".split():
        command += ["--set", setting]
    result = sepclip("train", saved / "set", "--run", saved / "interrupted", "--steps", 20, *command)
    assert result.returncode == 0, result.stderr
    for name in ("metrics.jsonl", "dynamics.jsonl"):
        resumed, whole = rows(saved / "interrupted" / name), rows(saved / "run" / name)
        assert len(resumed) == len(whole)
        for one, other in zip(resumed, whole, strict=True):
            assert measured(one) == pytest.approx(measured(other), rel=1e-3), name  # another processor rounds otherwise


def test_saved_run_separates_and_scores_as_it_did(saved: Path, tmp_path: Path) -> None:
    separated = Separator.load(saved / "run", device="cpu").separate(np.ones(8000, np.float32), 8000)
    assert separated.shape == (2, 8000)
    result = sepclip("eval", saved / "run", saved / "set", "--out", tmp_path / "scores", "--device", "cpu")
    assert result.returncode == 0, result.stderr
    now = json.loads((tmp_path / "scores" / "scores.json").read_text(encoding="utf-8"))
    then = json.loads((saved / "run/eval/set-tt/scores.json").read_text(encoding="utf-8"))
    assert set(now) == set(then)
    for one, other in zip(now["rows"], then["rows"], strict=True):
        assert list(one) == list(other)
        for column, value in other.items():
            same = pytest.approx(value, abs=0.05) if isinstance(value, float) else value  # dB, on another processor
            assert one[column] == same, (other["name"], column)


def test_saved_scores_compare(saved: Path) -> None:
    first, second = sorted((saved / "sweep/runs").glob("*_mi_*"))
    result = sepclip("compare", first, second, "--json")
    assert result.returncode == 0, result.stderr
    compared = json.loads(result.stdout)
    with (saved / "sweep/table.csv").open(encoding="utf-8") as file:
        table = [row for row in csv.DictReader(file) if row["loss.name"] == "mi"]
    means = {row["clip"]: float(row["mean_db"]) for row in table}
    (pair,) = compared["scores"]["si_sdr"]["pairs"]
    assert abs(pair["mean"]) == pytest.approx(abs(means["auto:10"] - means["none"]), abs=1e-3)


def without_added_keys(path: Path) -> Any:
    """Return a ``cells.json`` without the keys of configurations that 0.1.0 did not have."""
    document = json.loads(path.read_text(encoding="utf-8"))
    for cell in document["cells"]:
        for key in ADDED:
            section, _, name = key.partition(".")
            cell["config"][section].pop(name, None)
    return document


def test_saved_sweep_is_done_and_keeps_its_table(saved: Path) -> None:
    def means() -> list[tuple[str, ...]]:
        # the intervals of 0.1.0 were too narrow, and are others now
        with (saved / "sweep" / "table.csv").open(newline="") as file:
            return [(row["clip"], row["loss.name"], row["mean_db"]) for row in csv.DictReader(file)]

    before, scores = means(), (saved / "sweep" / "cells.csv").read_bytes()
    cells = without_added_keys(saved / "sweep/cells.json")
    result = sepclip("sweep", "grid.yaml", "set", "--out", "sweep", "--device", "cpu", cwd=saved)
    assert result.returncode == 0, result.stderr
    assert means() == before
    assert (saved / "sweep" / "cells.csv").read_bytes() == scores
    assert without_added_keys(saved / "sweep/cells.json") == cells


@pytest.mark.parametrize("what", ["run", "sweep", "run/eval/set-tt"])
def test_saved_folders_have_a_report(saved: Path, what: str) -> None:
    result = sepclip("report", saved / what)
    assert result.returncode == 0, result.stderr
    assert "<html" in (saved / what / "report.html").read_text(encoding="utf-8")


def test_saved_run_is_described(saved: Path) -> None:
    for what, words in (("run", "auto:10,window=8"), ("set", "8000")):
        result = sepclip("info", saved / what, "--json")
        assert result.returncode == 0, result.stderr
        assert words in result.stdout


def test_saved_dynamics_are_drawn(saved: Path) -> None:
    result = sepclip("dynamics", saved / "run", "--json")
    assert result.returncode == 0, result.stderr
