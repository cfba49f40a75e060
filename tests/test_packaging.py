"""The built wheel works outside the clone, in a separate environment."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, SPEECH


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    result = run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, REPOSITORY, cwd=folder)
    assert result.returncode == 0, result.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_contains_the_package_and_its_configs_and_no_speech(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for path in (REPOSITORY / "configs").rglob("*.yaml"):
        assert f"sepclip/{path.relative_to(REPOSITORY).as_posix()}" in names
    assert "sepclip/py.typed" in names
    for path in (REPOSITORY / "sepclip" / "report" / "assets").iterdir():
        assert f"sepclip/report/assets/{path.name}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("data", "tests", "configs")) or name.endswith(".flac")]


def test_installed_wheel_prepares_trains_and_scores(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    assert run(sys.executable, "-m", "venv", environment, cwd=tmp_path).returncode == 0
    python = environment / "bin" / "python"
    constraint = ("--constraint", REPOSITORY / "constraints.txt")
    installed = run(python, "-m", "pip", "install", "-q", *constraint, wheel, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    site = run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path).stdout.strip()
    where = run(python, "-c", "import sepclip; print(sepclip.__file__)", cwd=tmp_path).stdout
    assert where.startswith(site)
    command = environment / "bin" / "sepclip"
    facts = json.loads(run(command, "info", "--json", cwd=tmp_path).stdout)
    assert {"base", "demo", "paper/mi", "paper/dc", "small"} <= set(facts["configs"])
    failed = run(command, "demo", cwd=tmp_path)
    assert failed.returncode == 1
    assert "data/speech from a clone" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "demo").exists()
    prepared = run(command, "prepare", "speakers", SPEECH, "set", "--tr", "4", "--cv", "2", "--tt", "2", cwd=tmp_path)
    assert prepared.returncode == 0, prepared.stderr
    small = ("--set", "model.hidden=8", "--set", "model.layers=1", "--set", "data.segment_frames=50")
    trained = run(command, "train", "set", "--run", "run", "--config", "demo", "--steps", "3", *small, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    scored = run(command, "eval", "run", "set", cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    assert (tmp_path / "run" / "eval" / "set-tt" / "scores.json").is_file()
    assert "uPlot" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
