import os
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from sepclip.errors import UserError
from sepclip.mixing.mixture_set import MixtureSet
from tests.conftest import assert_told, sepclip
from tests.mixing.conftest import WHOLE, make_corpus, prepare, samples, sentence, tree, write_wave
from tests.processes import kill, wait_until

# Runs the command line, and holds at the given write of a set until the file GO is there
_HELD = """
import sys, time
from pathlib import Path
from sepclip.cli import main
from sepclip.corpora import write_set

step, held, go = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
calls = 0

def hold(write):
    def write_or_hold(*arguments, **options):
        global calls
        calls += 1
        if calls == step:
            held.touch()
            deadline = time.monotonic() + 60
            while not go.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        return write(*arguments, **options)
    return write_or_hold

for name in ("write_text", "replace_file", "write_sound"):
    setattr(write_set, name, hold(getattr(write_set, name)))
main(sys.argv[4:])
"""
BEFORE_WAVES = 4  # writes: unfinished.json and the recipes of three splits


def start_held(folder, step, *arguments):
    """Start `sepclip prepare` and return its process when it is about to make the write number ``step``."""
    held, go = folder / f"held-{step}", folder / "go"
    held.unlink(missing_ok=True)
    command = [sys.executable, "-c", _HELD, str(step), str(held), str(go), "prepare", "speakers", *map(str, arguments)]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell makes what it runs in the background ignore Ctrl-C, and everything that starts from there too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_until(held.exists, seconds=60, process=running)
    return running


def make_unfinished(mixtures, out):
    """Copy a finished set and set it back to before its last step."""
    shutil.copytree(mixtures.path, out)
    (out / "set.json").rename(out / "unfinished.json")
    return out


def test_a_killed_run_is_resumed_to_the_same_bytes(corpus, mixtures, tmp_path):
    out = tmp_path / "out"
    arguments = ("--tr", 20, "--cv", 6, "--tt", 4, "--mode", "max", "--jobs", 1)
    # killed before the first file, between the recipes, and before the given wave; whole mixtures are kept, and the
    # three waves of one that was begun are written again
    for step, waves in ((1, 0), (3, 0), (BEFORE_WAVES + 1, 0), (BEFORE_WAVES + 2, 1), (40, 35), (40, 33 + 35)):
        running = start_held(tmp_path, step, corpus, out, *arguments)
        kill(running)
        assert len(list(out.rglob("*.wav"))) == waves
        assert not (out / "set.json").exists()
    assert sepclip("prepare", "speakers", corpus, out, *arguments).returncode == 0
    assert tree(out) == tree(mixtures.path)


def test_files_that_a_killed_run_left_are_completed(corpus, mixtures, tmp_path):
    out = make_unfinished(mixtures, tmp_path / "out")
    waves = sorted((out / "tr").glob("*/*.wav"))
    kept = waves[-1].stat().st_ino
    waves[0].unlink()
    os.truncate(waves[1], 1000)
    (out / "cv.jsonl").unlink()
    (out / ".tr.jsonl.77-88.tmp").write_text("half a fi")
    (out / "tr" / "mix" / ".00000_a_b.wav.77-88.tmp").write_text("half a wa")
    prepare(corpus, out, **WHOLE)
    assert tree(out) == tree(mixtures.path)
    assert waves[-1].stat().st_ino == kept  # what was whole is not written again


def test_a_kill_before_the_first_file_does_not_bar_the_folder(corpus, mixtures, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".unfinished.json.77-88.tmp").write_text("half")
    assert tree(prepare(corpus, tmp_path / "out", **WHOLE).path) == tree(mixtures.path)


def test_a_kill_after_the_last_file_leaves_a_finished_set(corpus, mixtures, tmp_path, capsys):
    out = shutil.copytree(mixtures.path, tmp_path / "out")
    shutil.copy(out / "set.json", out / "unfinished.json")
    prepare(corpus, out, **WHOLE)
    assert "is already prepared with these settings" in capsys.readouterr().out
    assert tree(out) == tree(mixtures.path)


def test_a_corpus_that_changed_leaves_no_old_waves(corpus, tmp_path):
    root = shutil.copytree(corpus, tmp_path / "voices")
    out = make_unfinished(prepare(root, tmp_path / "first"), tmp_path / "out")
    for path in (root / "en-f").iterdir():  # other words in files of the same length
        write_wave(path, np.resize(samples(sentence("en-f", 9)), len(samples(path))))
    prepare(root, out)
    assert tree(out) == tree(prepare(root, tmp_path / "fresh").path)


def test_a_second_run_changes_nothing(corpus, mixtures, capsys):
    before = {path: path.stat().st_mtime_ns for path in mixtures.path.rglob("*")}
    prepare(corpus, mixtures.path, **WHOLE)
    result = capsys.readouterr()
    assert (result.out, result.err) == (f"{mixtures.path} is already prepared with these settings\n", "")
    assert {path: path.stat().st_mtime_ns for path in mixtures.path.rglob("*")} == before


def test_an_interrupted_run_says_so_and_leaves_no_half_files(corpus, tmp_path):
    running = start_held(tmp_path, BEFORE_WAVES + 2, corpus, tmp_path / "out", "--tr", 1000, "--jobs", 1)
    running.send_signal(signal.SIGINT)
    (tmp_path / "go").touch()
    out, err = running.communicate(timeout=600)
    assert running.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in out + err
    assert not list(tmp_path.rglob("*.tmp"))
    assert len(list(tmp_path.rglob("*.wav"))) < 3 * 1000  # fewer than planned
    with pytest.raises(UserError, match="is unfinished: run the same `sepclip prepare` again"):
        MixtureSet.open(tmp_path / "out")


def test_a_full_disk_is_reported_and_costs_only_time(corpus, mixtures, tmp_path):
    out = tmp_path / "out"
    arguments = ("prepare", "speakers", corpus, out, "--tr", 20, "--cv", 6, "--tt", 4, "--mode", "max")
    result = subprocess.run(
        [sys.executable, "-m", "sepclip", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        # Python ignores SIGXFSZ: a write beyond the limit fails as on a full disk
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)),
    )
    assert_told(result, "error: ", ".wav cannot be written: File too large")
    assert not list(out.rglob("*.tmp"))
    assert not (out / "set.json").exists()
    assert sepclip(*arguments).returncode == 0
    assert tree(out) == tree(mixtures.path)


def test_a_disk_too_small_is_reported_before_anything_is_written(corpus, tmp_path):
    mount = f"mount -t tmpfs -o size=500k none {tmp_path}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    command = f"{sys.executable} -m sepclip prepare speakers {corpus} {tmp_path}/sub/out"
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{mount}; {command}; code=$?; ls -A {tmp_path}; exit $code"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert_told(result, "GB free and the mixtures need", "--no-audio")
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"thesis.tex": ""}, r"already contains something else \(thesis.tex\): choose a new or empty folder"),
        (dict.fromkeys("abcd", ""), r"\(a, b, c ...\)"),
        ({"set.json": "{"}, "set.json is damaged: remove .* and prepare it again"),
        ({"unfinished.json": "[]"}, "unfinished.json is damaged"),
        ({"set.json": '{"settings": 3}'}, "set.json is damaged"),
    ],
)
def test_a_folder_with_other_files_is_left_alone(corpus, tmp_path, files, words):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    before = tree(tmp_path)
    with pytest.raises(UserError, match=words):
        prepare(corpus, tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("unfinished", [False, True])
def test_a_set_with_other_settings_is_left_alone(corpus, mixtures, tmp_path, unfinished):
    out = make_unfinished(mixtures, tmp_path / "out") if unfinished else mixtures.path
    before = tree(out)
    with pytest.raises(UserError, match=r"other settings \(mode was 'max', now 'min'; seed was 0, now 1\)"):
        prepare(corpus, out, **WHOLE | {"mode": "min", "seed": 1})
    with pytest.raises(UserError, match="root was "):
        prepare(make_corpus(tmp_path / "other"), out, **WHOLE)
    assert tree(out) == before
