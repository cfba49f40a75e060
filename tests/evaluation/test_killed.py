"""Many files scored, killed and continued: the same files with the same bytes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sepclip.evaluation.evaluate_items import JOURNAL
from tests.conftest import sepclip
from tests.processes import kill, wait_until

RATE = 1000  # Hz: windows of 1000 samples, so that a thousand files take seconds


def lay_out(folder: Path, count: int) -> None:
    chance = np.random.default_rng(0)
    for part in ("ref", "est"):
        for source in ("s1", "s2"):
            (folder / part / source).mkdir(parents=True)
    for index in range(count):
        sources = chance.normal(0, 0.1, (2, RATE))
        for number, wave in enumerate(sources, start=1):
            name = f"s{number}/{index:04d}.wav"
            soundfile.write(folder / "ref" / name, wave, RATE, subtype="FLOAT")
            leak = wave + 0.1 * sources[2 - number] + chance.normal(0, 0.01, RATE)
            soundfile.write(folder / "est" / name, leak, RATE, subtype="FLOAT")


def arguments(folder: Path, out: str, *more: object) -> list[object]:
    places = ("--estimates", folder / "est", "--references", folder / "ref", "--out", folder / out)
    return ["eval", *places, "--museval-json", "--engine", "fast", *more]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kill_and_resume(tmp_path: Path, count: int, kill_at: int) -> None:
    lay_out(tmp_path, count)
    line = [sys.executable, "-m", "sepclip", *map(str, arguments(tmp_path, "out", "--jobs", 2))]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = tmp_path / "out" / JOURNAL
    wait_until(lambda: journal.is_file() and journal.read_bytes().count(b"\n") >= kill_at, process, seconds=300)
    kill(process)
    assert not (tmp_path / "out" / "scores.json").exists()
    journal_bytes = journal.read_bytes()
    again = sepclip(*arguments(tmp_path, "out", "--jobs", 2))
    assert again.returncode == 0, again.stderr
    assert f"files of {count} scored already" in again.stderr
    assert journal_bytes.count(b"\n") > kill_at - 1
    whole = sepclip(*arguments(tmp_path, "whole", "--jobs", 1))
    assert whole.returncode == 0, whole.stderr
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    rows = json.loads((tmp_path / "out" / "scores.json").read_text())["rows"]
    assert [row["name"] for row in rows[::2]] == [f"{index:04d}" for index in range(count)]
    assert len(list((tmp_path / "out" / "museval" / "test").iterdir())) == count


def test_a_killed_evaluation_resumes(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, 40, 6)


@pytest.mark.slow
def test_a_killed_evaluation_of_a_thousand_files_resumes(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, 1000, 300)


def test_museval_reads_the_museval_json_files(tmp_path: Path) -> None:
    lay_out(tmp_path, 2)
    result = sepclip(*arguments(tmp_path, "out", "--jobs", 1, "--json"))
    assert result.returncode == 0, result.stderr
    try:
        import museval
    except (ImportError, RuntimeError):
        pytest.skip("museval's stores need ffmpeg")
    store = museval.EvalStore()
    store.add_eval_dir(tmp_path / "out" / "museval")
    found = store.agg_frames_scores()
    for row in json.loads(result.stdout)["rows"]:
        for name in ("SDR", "ISR", "SIR", "SAR"):
            assert found[row["name"], row["source"], name] == pytest.approx(row[name.lower()], abs=1e-5)
