"""Output on the terminal: bars and sparklines on a terminal, plain lines in a log, and --quiet and --verbose."""

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sepclip import terminal
from sepclip.cli import app
from sepclip.errors import UserError
from sepclip.report.sparklines import score_lines, sweep_lines, training_lines
from sepclip.terminal import AudioProgress, sparkline, track
from tests.conftest import TINY, sepclip, train_tiny


def on_a_terminal(*arguments: object, **environment: str) -> str:
    """Run the command line with a terminal as its stdout and stderr, and return what it prints."""
    reader, writer = pty.openpty()
    variables = {**os.environ, "COLUMNS": "100", "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment}
    command = [sys.executable, "-m", "sepclip", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=writer, stderr=writer, env=variables)
    os.close(writer)
    output = b""
    deadline = time.monotonic() + 300
    try:
        while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
            try:
                part = os.read(reader, 65536)
            except OSError:  # on Linux, reading from the terminal of a process that has ended fails
                break
            if not part:
                break
            output += part
        assert process.wait(60) == 0
    finally:
        process.kill()
        os.close(reader)
    return output.decode()


def info(path: Path) -> str:
    """Run ``sepclip info`` in this process and return what it prints."""
    result = CliRunner().invoke(app, ["info", str(path)])
    if isinstance(result.exception, UserError):
        raise result.exception
    return result.stdout


def test_sparkline_shows_the_values() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([3.0, 3.0]) == "▁▁"
    assert sparkline([0.0, None, 1.0]) == "▁ █"
    assert sparkline([]) == sparkline([None]) == ""
    assert sparkline([0.0] * 50 + [1.0] * 50, width=4) == "▁▁██"


def test_terminal_shows_the_curves_and_a_log_does_not(tiny_run: Path, small_set: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = [part for setting in TINY for part in ("--set", setting)]
    command = ("train", small_set, "--run", run, "--steps", 20, "--no-report", *settings)
    output = on_a_terminal(*command, NO_COLOR="1")
    assert "\x1b[3" not in output  # no colour; the progress bar still moves the cursor
    assert re.search(r"loss +[▁-█]{2}", output)
    assert "validation SI-SDRi" in output
    plain = sepclip(*command)  # already trained: it prints the result again, to a log
    assert not re.search(r"[▁-█]|\x1b", plain.stdout + plain.stderr)


def test_quiet_prints_only_results_and_verbose_every_row(small_set: Path, tmp_path: Path) -> None:
    quiet = train_tiny(small_set, tmp_path / "one", "--quiet", "--no-report")
    assert quiet.stderr == ""
    assert "is trained" in quiet.stdout
    verbose = train_tiny(small_set, tmp_path / "two", "--verbose", "--no-report", "--set", "train.log_every=5")
    assert len(re.findall(r"^step \d+/20 ", verbose.stderr, re.MULTILINE)) == 4 + 2  # every row of metrics.jsonl
    both = CliRunner().invoke(app, ["train", str(small_set), "--run", str(tmp_path / "two"), "-q", "-v"])
    assert both.exit_code == 2
    assert "not both" in both.output


def test_track_prints_lines_in_a_log(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(terminal, "_PLAIN_SECONDS", 0.0)
    assert list(track(range(3), 3, "scoring")) == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["scoring 1/3", "scoring 2/3"]
    assert all(re.search(r", [\d.e+]+ per second, about 0 s left$", line) for line in lines)


def test_audio_progress_prints_lines_in_a_log(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(terminal, "_PLAIN_SECONDS", -1.0)
    with AudioProgress("separating", 2) as progress:
        progress.expect(90.0)
        progress.advance(70.0)
        progress.file_done()
        progress.advance(20.0)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rsplit(",", 1)[0] for line in lines] == ["separating 0/2 files, 1:10", "separating 1/2 files, 1:30"]


def test_glance_lines_of_runs_scores_and_sweeps(tiny_run: Path, tmp_path: Path) -> None:
    assert [line.split()[0] for line in training_lines(tiny_run)] == ["loss", "validation", "gradient", "threshold"]
    rows = [{"si_sdr_improvement": value, "sdr_improvement": None} for value in (-1.0, 0.0, 9.0)]
    (line,) = score_lines({"rows": rows})
    assert line.split("  ")[-1] == "\u22121.0 to +9.0"
    lines = sweep_lines({f"clip={place}": tiny_run for place in range(30)})
    assert len(lines) == 1 + 24 + 1
    assert lines[-1] == "and 6 more"
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "metrics.jsonl").write_text("{\n")
    assert training_lines(broken) == sweep_lines({"a": broken}) == training_lines(tmp_path / "none") == []


def test_tensorboard_contains_the_scalars_of_the_metrics(small_set: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    assert train_tiny(small_set, run, "--tensorboard", "--no-report").returncode == 0
    resumed = train_tiny(small_set, run, "--no-report", "--steps", 30)  # without the option, but it still logs
    assert resumed.returncode == 0, resumed.stderr
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for key in ("loss", "valid_si_sdr_improvement"):
        wanted = [(row["step"], row[key]) for row in rows if key in row]
        got = [(event.step, event.value) for event in events.Scalars(key)]
        assert [step for step, _ in got] == [step for step, _ in wanted]
        assert [value for _, value in got] == pytest.approx([value for _, value in wanted], rel=1e-6)


def test_failing_report_does_not_fail_the_training(small_set: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "report.html").parent.mkdir()
    result = train_tiny(small_set, run)
    assert result.returncode == 0
    assert (run / "report.html").is_file()
    assert str(run / "report.html") in result.stdout
    (run / "report.html").unlink()
    (run / "report.html" / "in the way").mkdir(parents=True)
    (run / "metrics.jsonl").write_text("{}\n")
    again = train_tiny(small_set, run)
    assert again.returncode == 0
    assert "no report was written" in again.stderr
    assert "was already trained" in again.stdout


def test_info_summarises_a_run_and_a_set(tiny_run: Path, small_set: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("report.html"))
    text = info(run)
    for words in ("clipping: ", "auto:10, ", "at step 20", "2 sources", "none; `sepclip report"):
        assert words in text
    text = info(small_set)
    assert "12 mixtures (12 seen)" in text
    assert re.search(r"tt: +6 mixtures \(3 seen, 3 unseen\), 0\.\d min, \d voices", text)
    with pytest.raises(UserError, match="neither a run"):
        info(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        info(tmp_path / "none")
    moved = tmp_path / "moved"
    shutil.copytree(small_set, moved)
    text = (moved / "set.json").read_text()
    (moved / "set.json").write_text(re.sub(r'"root": "[^"]+"', '"root": "/nowhere"', text))
    assert "/nowhere, which does not exist" in info(moved)
