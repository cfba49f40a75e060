"""A run with scores, and the command that makes its page."""

import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from sepclip.cli import app
from sepclip.errors import UserError
from sepclip.evaluation.sets import evaluate_set
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.scoring.items import ScoringPlan
from sepclip.training.run import Run

PLAN = ScoringPlan(("si_sdr",), ())
EVIL = '<script>window.hacked=1</script>"><img src=x onerror="window.hacked=1">&amp;'


def report(*arguments: object) -> Result:
    """Run ``sepclip report`` in this process, which saves the seconds of importing torch."""
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def assert_refused(result: Result, *words: str) -> None:
    """Assert that a command ended in a UserError whose message contains all ``words``."""
    assert isinstance(result.exception, UserError)
    for word in words:
        assert word in str(result.exception)


def score(run: Path, data: Path, folder: Path) -> None:
    """Score a run by SI-SDR only, which is fast."""
    device = torch.device("cpu")
    separator, about = Run.open(run).separator(device), {"run": str(run), "limit": None}
    evaluate_set(separator, MixtureSet.open(data), "tt", folder, about, device=device, plan=PLAN, jobs=0)


@pytest.fixture(scope="session")
def scored_run(tiny_run: Path, small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose folder, voices, groups and reasons would be markup if they were not escaped."""
    folder = tmp_path_factory.mktemp("scored")
    data, run = folder / "data", folder / "<b>run&lt;"
    shutil.copytree(small_set, data)
    shutil.copytree(tiny_run, run)
    recipes = data / "tt.jsonl"
    quoted = EVIL.replace("\\", "\\\\").replace('"', '\\"')
    recipes.write_text(recipes.read_text().replace('"voice": "', f'"voice": "{quoted}'))
    score(run, data, run / "eval" / "data-tt")
    return run
