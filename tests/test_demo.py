"""The whole demo as a user runs it: real voices, real training, killed once in the middle. Takes minutes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from tests.conftest import SPEECH, assert_told, sepclip
from tests.processes import kill, wait_until
from tests.report.browser import Browser
from tests.report.looks import assert_good_looks, assert_valid

FINISHED = "The demo was already finished"


def step_of(out: Path) -> int:
    try:
        return int(json.loads((out / "run" / "checkpoints" / "last" / "state.json").read_text())["step"])
    except (OSError, ValueError):
        return 0


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run the demo, kill it after its training has saved a checkpoint, and run it again to its end."""
    out = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "sepclip", "demo", "--data", str(SPEECH), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: step_of(out) > 0, process, seconds=600)
    kill(process)
    result = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert result.returncode == 0, result.stderr
    return out, result


@pytest.mark.slow
def test_killed_demo_resumes(demo) -> None:
    out, result = demo
    assert "resuming" in result.stderr
    steps = [json.loads(line)["step"] for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


@pytest.mark.slow
def test_demo_separates_the_voices_it_learned(demo) -> None:
    out, _ = demo
    scores = json.loads((out / "run" / "eval" / "mixtures-tt" / "scores.json").read_text())
    groups = scores["summary"]["groups"]
    assert groups["seen"]["mean"]["si_sdr_improvement"] >= 5
    assert groups["seen"]["count"]["files"] == groups["unseen"]["count"]["files"] == 60
    assert 12 < groups["seen"]["mean"]["ibm_si_sdr_improvement"] < 16
    assert scores["summary"]["excluded"] == {}


@pytest.mark.slow
def test_demo_clips_with_autoclip(demo) -> None:
    out, _ = demo
    last = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines() if "loss" in line][-2]
    assert 0 < last["clipped_share"] <= 1
    assert last["threshold"] > 0
    assert "clip: auto:10" in (out / "run" / "config.yaml").read_text()


@pytest.mark.slow
def test_demo_lists_what_to_listen_to(demo) -> None:
    out, result = demo
    folders = [Path(line.strip()) for line in result.stdout.splitlines() if line.startswith(f"  {out}/")]
    assert [folder.parent.name for folder in folders] == ["pretrained", *["listen"] * 4]
    assert f"listen to mixture.wav, mixture_s1.wav and mixture_s2.wav in {folders[0]}" in result.stderr
    for folder in folders:
        names = {"mixture.wav", "mixture_s1.wav", "mixture_s2.wav", "true_s1.wav", "true_s2.wav"}
        assert {path.name for path in folder.iterdir()} == names
        assert len({soundfile.info(folder / name).frames for name in names}) == 1
    assert (out / "run" / "report.html").read_text(encoding="utf-8").count("<audio") == 15
    for words in (
        "six voices of its training",
        "it-f: http://www.voip.ammdomus.it",
        "Time: ",
        str(out / "run" / "report.html"),
    ):
        assert words in result.stdout.replace("\n", " ")


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_demo_report_opens_in_a_browser(demo, browser: Browser, width: int) -> None:
    page = demo[0] / "run" / "report.html"
    assert_valid(page.read_text(encoding="utf-8"))
    assert_good_looks(browser, page, width, "light")


@pytest.mark.slow
def test_demo_with_scores_but_no_marker_is_not_finished(demo, tmp_path: Path) -> None:
    out, _ = demo
    assert json.loads((out / "demo.json").read_text())["seconds"]["train"] > 0
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (copy / "demo.json").unlink()
    shutil.rmtree(copy / "listen")
    again = sepclip("demo", "--data", SPEECH, "--out", copy, "--json")
    assert json.loads(again.stdout)["summary"]["groups"]["seen"]["count"]["files"] == 60
    assert len(list((copy / "listen").iterdir())) == 4


@pytest.mark.slow
def test_finished_demo_is_only_read(demo) -> None:
    out, _ = demo
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = sepclip("demo", "--data", SPEECH, "--out", out)
    assert again.returncode == 0
    assert FINISHED in again.stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


def test_demo_without_the_voices_says_where_they_are(tmp_path: Path) -> None:
    assert_told(sepclip("demo", "--out", tmp_path / "out", cwd=tmp_path), "data/speech from a clone")
    assert not (tmp_path / "out").exists()
