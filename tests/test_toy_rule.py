"""A clipping rule is added by a class and its line in ``RULES``: toy rules from a scratch module obey every law."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY, TINY

TOY = '''
from __future__ import annotations  # options must be read from such a module too

from sepclip.clip import RULES, NormRule


class Toy(NormRule):
    """``toy:M``: the threshold is M times the norm of the step before."""

    name = "toy"
    grammar = "toy:M[,floor=F] (M > 0)"
    memory = ("previous",)

    def __init__(self, value: float, floor: float = 0.0, most_skipped: int = 100):
        super().__init__(most_skipped)
        self.value, self.floor, self.previous = value, floor, 0.0

    def _threshold(self, norm):
        threshold = max(self.value * self.previous, self.floor) if self.previous else float("inf")
        self.previous = norm
        return threshold


RULES["toy"] = Toy
'''
GUIDE = (REPOSITORY / "docs" / "CLIPPING.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the module ``toy_rule``, which adds the rule above and that of the guide to the table."""
    folder = tmp_path_factory.mktemp("scratch")
    (example,) = re.findall(r"```python\n(class .*?)```", GUIDE, re.DOTALL)
    (folder / "toy_rule.py").write_text(f'{TOY}\nimport math\n\n{example}\nRULES["recent"] = Recent\n')
    return folder


def run_python(scratch: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python in the repository with the scratch folder on its path."""
    path = os.pathsep.join([str(scratch), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "100"}
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def train_with_toy(
    scratch: Path, data: Path, run: Path, steps: int, clip: str = "toy:1"
) -> subprocess.CompletedProcess[str]:
    """Run ``sepclip train --clip toy:1`` in a process that has the toy rule."""
    command = "import toy_rule; from sepclip.cli import main; main()"
    settings = [part for setting in TINY for part in ("--set", setting)]
    options = ("--run", run, "--steps", steps, "--clip", clip, "--no-report", *settings)
    return run_python(scratch, "-c", command, "train", data, *options)


def saved_rule(run: Path) -> dict[str, object]:
    """Return the state of the rule in the last checkpoint."""
    state = torch.load(run / "checkpoints" / "last" / "state.pt", weights_only=True)
    rule: dict[str, object] = state["clip"]
    return rule


def test_parse_and_repr_know_an_added_rule(scratch: Path) -> None:
    code = """
import toy_rule
from sepclip.clip import all_grammars, parse
rule = parse("toy:2,floor=0.5")
assert repr(rule) == "toy:2,floor=0.5" and repr(parse("toy:1,floor=0")) == "toy:1"
assert [rule.observe(norm) for norm in (1.0, 5.0)] == [float("inf"), 2.0]
again = parse("toy:2,floor=0.5")
again.load_state_dict(rule.state_dict())
assert again.observe(1.0) == 10.0
assert "toy:M[,floor=F] (M > 0)" in all_grammars()
try: parse("toy:x")
except ValueError as error: print(error)
"""
    result = run_python(scratch, "-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("'toy:x' is not a clipping rule (value must be a number")


def test_every_law_runs_over_an_added_rule(scratch: Path) -> None:
    options = ("-p", "toy_rule", "-p", "no:cacheprovider", "-v", "-k", "toy:1 or recent:1")
    result = run_python(scratch, "-m", "pytest", "tests/test_clip.py", *options)
    assert result.returncode == 0, result.stdout
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed is not None
    assert int(passed[1]) > 50


def test_training_with_an_added_rule_resumes_exactly(scratch: Path, small_set: Path, tmp_path: Path) -> None:
    straight = train_with_toy(scratch, small_set, tmp_path / "straight", 30)
    assert straight.returncode == 0, straight.stderr
    for steps in (20, 30):
        resumed = train_with_toy(scratch, small_set, tmp_path / "resumed", steps)
        assert resumed.returncode == 0, resumed.stderr
    state = saved_rule(tmp_path / "resumed")
    assert state == saved_rule(tmp_path / "straight")
    assert (state["rule"], state["steps"]) == ("toy:1", 30)
    rows = [json.loads(line) for line in (tmp_path / "resumed" / "metrics.jsonl").read_text().splitlines()]
    assert 0 < [row["clipped_share"] for row in rows if "clipped_share" in row][-1] < 1


def test_training_refuses_a_bad_text_of_an_added_rule(scratch: Path, small_set: Path, tmp_path: Path) -> None:
    result = train_with_toy(scratch, small_set, tmp_path / "run", 20, clip="toy")
    assert result.returncode == 1
    assert "toy:M[,floor=F] (M > 0)" in result.stderr
    assert "Traceback" not in result.stderr
