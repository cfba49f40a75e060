"""Files whose header promises more, less or nothing, through the commands: the whole sound and one warning each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sepclip.audio.decoding import ffmpeg
from sepclip.separation.separate_files import separate_files
from sepclip.training.run import Run
from tests.audio.wrong_lengths import (
    CONTAINERS,
    FAULTS,
    RATE,
    TAILS,
    mp3,
    named,
    wave,
    with_fault,
    without_number,
    write,
)
from tests.conftest import REPOSITORY, sepclip

SECONDS = 4.0
CASES = next((p / "shared/cases/lengths.py" for p in REPOSITORY.parents if (p / "shared/cases").is_dir()), None)
EXPECTED = {
    **dict.fromkeys(("size0.wav", "size2e9.wav", "plus44.wav", "zero.au", "rf64_killed.wav", "pipe.flac"), 20.0),
    **dict.fromkeys(("cbr_noheader.mp3", "vbr_long_noheader.mp3", "vbr_short_noheader.mp3"), 20.088),
    "chained.ogg": 40.0,
}


@pytest.fixture(scope="module")
def wrong(tmp_path_factory) -> dict[Path, float]:
    """Return files with wrong headers, and the seconds that each holds."""
    folder, files = tmp_path_factory.mktemp("wrong"), {}
    for container in CONTAINERS:
        data = write(named(folder, "right", container), container, wave(SECONDS))
        named(folder, "right", container).unlink()
        tail = next(iter(TAILS[container].values()))
        for fault in FAULTS:
            for what, content in (("bare", data), ("tail", data + tail)):
                path = named(folder, f"{container}-{fault.replace(' ', '-')}-{what}", container)
                path.write_bytes(with_fault(content, container, fault))
                files[path] = SECONDS
    loud_last = np.concatenate([wave(2) // 100, wave(2)]) / 32768
    for mode in ("CONSTANT", "VARIABLE"):
        path = folder / f"{mode.lower()}.mp3"
        path.write_bytes(without_number(mp3(folder / "right.mp3", loud_last, mode=mode)))
        files[path] = SECONDS * RATE / 16000
    for subtype in ("VORBIS", "OPUS"):
        soundfile.write(folder / "one.ogg", wave(SECONDS), RATE, format="OGG", subtype=subtype)
        path = folder / f"chained-{subtype}.ogg"
        path.write_bytes(2 * (folder / "one.ogg").read_bytes())
        files[path] = 2 * SECONDS
    for name in ("right.mp3", "one.ogg"):
        (folder / name).unlink()
    return files


def assert_separated_whole(expected: dict[Path, float], out: Path, tiny_run: Path, capfd) -> None:
    """Separate files and assert that each result has the seconds of its file, with one warning on its header."""
    separator = Run.open(tiny_run).separator(torch.device("cpu"))
    result = separate_files(separator, list(expected), out, device=torch.device("cpu"))
    assert not result.failed
    told = capfd.readouterr().err
    for path, seconds in expected.items():
        info = soundfile.info(result.written[path][0])
        assert info.frames / info.samplerate == pytest.approx(seconds, abs=0.11 if path.suffix == ".mp3" else 1e-6)
        lines = [line for line in told.splitlines() if f"{path}: " in line and "join" not in line]
        assert len(lines) == 1, (path, lines)
        assert "its header" in lines[0] or "streams one after the other" in lines[0]


def test_whole_sound_of_every_wrong_header_is_separated(wrong, tiny_run, tmp_path, capfd) -> None:
    assert_separated_whole(wrong, tmp_path / "out", tiny_run, capfd)


@pytest.mark.skipif(CASES is None, reason="the shared cases are not beside the repository")
def test_shared_cases_of_lengths_are_separated_whole(tiny_run, tmp_path, capfd) -> None:
    subprocess.run([sys.executable, CASES], cwd=tmp_path, check=True, capture_output=True)
    files = {tmp_path / name: seconds for name, seconds in EXPECTED.items()}
    assert_separated_whole(files, tmp_path / "out", tiny_run, capfd)


def test_a_stream_on_stdin_is_separated_whole(tiny_run, tmp_path) -> None:
    data = with_fault(write(tmp_path / "a.wav", "WAV", wave(SECONDS)), "WAV", "size 0")
    result = subprocess.run(
        [sys.executable, "-m", "sepclip", "separate", tiny_run, "-", "--out", tmp_path / "out"],
        input=data,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert b"its header does not state the length" in result.stderr
    assert soundfile.info(tmp_path / "out" / "stdin_s1.wav").frames == SECONDS * RATE


def test_prepare_uses_the_whole_sound_and_leaves_out_what_is_cut(wrong, tmp_path) -> None:
    cut = write(tmp_path / "a.wav", "WAV", wave(SECONDS))
    for index, path in enumerate(wrong):
        target = tmp_path / "corpus" / f"voice{index % 3}" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (tmp_path / "corpus" / "voice0" / "cut.wav").write_bytes(cut[: len(cut) // 2])
    result = sepclip("prepare", "speakers", tmp_path / "corpus", tmp_path / "set", "--tr", 2, "--cv", 1, "--tt", 1)
    assert "1 truncated" in result.stderr  # most others are duplicates: the samples of a right file
    for path in wrong:
        assert f"{path.name}: its header" in result.stderr or f"{path.name}: 2 streams" in result.stderr


def test_eval_scores_the_whole_sound_and_leaves_out_what_is_cut(tmp_path) -> None:
    first, second = wave(SECONDS, 1), wave(SECONDS, 2)
    for kind in ("references", "estimates"):
        for source, samples in (("s1", first), ("s2", second)):
            folder = tmp_path / kind / source
            folder.mkdir(parents=True)
            noise = 0 if kind == "references" else 40 * np.random.default_rng(3).standard_normal(len(samples))
            data = write(folder / "right.wav", "WAV", (samples + noise).astype(np.int16))
            (folder / "size0.wav").write_bytes(with_fault(data, "WAV", "size 0"))
            (folder / "cut.wav").write_bytes(data[: len(data) // 2] if kind == "estimates" else data)
    result = sepclip(
        *("eval", "--estimates", tmp_path / "estimates", "--references", tmp_path / "references"),
        *("--out", tmp_path / "scores", "--metrics", "si_sdr", "--json"),
    )
    assert result.returncode == 0, result.stderr
    rows = {(row["name"], row["source"]): row for row in json.loads(result.stdout)["rows"]}
    for source in ("s1", "s2"):
        assert rows["size0", source]["si_sdr"] == rows["right", source]["si_sdr"]
        assert rows["cut", source]["reason"].startswith("truncated")
    for kind in ("references", "estimates"):
        for source in ("s1", "s2"):
            name = f"{kind}/{source}/size0.wav: its header does not state the length"
            assert result.stderr.count(name) == 1


def test_damaged_mp3_is_separated_as_far_as_it_goes(tiny_run, tmp_path, capfd) -> None:
    data = mp3(tmp_path / "a.mp3", wave(20) / 32768)
    middle = len(data) // 2
    (tmp_path / "a.mp3").write_bytes(data[:middle] + bytes(2000) + data[middle + 2000 :])
    separator = Run.open(tiny_run).separator(torch.device("cpu"))
    result = separate_files(separator, [tmp_path / "a.mp3"], tmp_path / "out", device=torch.device("cpu"))
    assert not result.failed
    told = capfd.readouterr().err
    assert "a.mp3: damaged:" in told
    assert "bytes are no MPEG frames, the first at 0:0" in told
    assert "that can be read are separated" in told


def test_file_of_which_nothing_can_be_read_fails(tiny_run, tmp_path) -> None:
    soundfile.write(tmp_path / "a.ogg", wave(1), RATE, format="OGG")
    os.truncate(tmp_path / "a.ogg", 4000)  # before the first page with sound ends
    separator = Run.open(tiny_run).separator(torch.device("cpu"))
    result = separate_files(separator, [tmp_path / "a.ogg"], tmp_path / "out", device=torch.device("cpu"))
    assert not result.written
    assert "truncated" in result.failed[tmp_path / "a.ogg"]


@pytest.mark.skipif(ffmpeg() is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("extension", ["mkv", "mov", "3gp", "m4b", "mka", "webm"])
def test_sound_of_other_containers_is_decoded_by_ffmpeg(tiny_run, tmp_path, extension) -> None:
    write(tmp_path / "a.wav", "WAV", wave(SECONDS))
    (tmp_path / "in").mkdir()
    rate = 48000 if extension == "webm" else RATE
    codec = "libopus" if extension == "webm" else "aac"
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-ar", str(rate), "-c:a", codec]
    subprocess.run([*command, tmp_path / "in" / f"a.{extension}"], check=True, timeout=60)
    separator = Run.open(tiny_run).separator(torch.device("cpu"))
    result = separate_files(separator, [tmp_path / "in"], tmp_path / "out", device=torch.device("cpu"))
    (targets,) = result.written.values()
    info = soundfile.info(targets[0])
    assert info.frames / info.samplerate == pytest.approx(SECONDS, abs=0.3)
