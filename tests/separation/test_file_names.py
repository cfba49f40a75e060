"""Files that must not stop the others: names, formats and kinds of files, through the real command."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sepclip.cli import main
from sepclip.errors import UserError
from sepclip.separation.containers import require_fit
from sepclip.separation.jobs import distinct_names, make_plan, residual_name, unusual_names
from tests.conftest import REPOSITORY

RATE = 8000
# beside the repository, or beside a folder above it
CASES = next((path for up in REPOSITORY.parents if (path := up / "shared/cases/names.sh").is_file()), None)


def tone(samples: int = 4000, channels: int = 1) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal((samples, channels))


def write(path: Path, rate_hz: int = RATE, channels: int = 1, **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(os.fsencode(path), tone(channels=channels), rate_hz, **options)
    return path


@pytest.fixture
def separate(tiny_run: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch):  # type: ignore[no-untyped-def]
    """Return the command, run in this process in a scratch folder: its exit code, its stdout and its stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_code:
            main(["separate", str(tiny_run), *map(str, arguments)])
        return int(exit_code.value.code or 0), *capfd.readouterr()

    return run


def names(folder: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("[!.]*") if path.is_file())


@pytest.mark.parametrize(
    ("options", "rate_hz", "channels", "words"),
    [
        (["--format", "ogg"], 384_000, 1, "384000 Hz does not fit ogg (VORBIS)"),
        (["--format", "ogg"], 200_001, 2, "200001 Hz does not fit ogg (VORBIS)"),
        (["--format", "ogg"], 8000, 256, "256 channels do not fit ogg (VORBIS)"),
        (["--format", "ogg", "--subtype", "opus"], 44_100, 1, "44100 Hz does not fit ogg (OPUS) (8, 12, "),
        (["--format", "opus"], 22_050, 1, "22050 Hz does not fit opus"),
        (["--format", "flac"], 8000, 12, "12 channels do not fit flac (at most 8)"),
        (["--format", "flac"], 88_205, 1, "88205 Hz does not fit flac"),
        (["--format", "mp3"], 96_000, 1, "96000 Hz does not fit mp3"),
        (["--format", "mp3"], 8000, 3, "3 channels do not fit mp3 (at most 2)"),
    ],
)  # fmt: skip
def test_file_beyond_the_limits_of_the_format_is_named_before_the_work(
    options, rate_hz, channels, words, separate, monkeypatch
) -> None:
    write(Path("in/bad.wav"), rate_hz, channels)
    write(Path("in/good.wav"))
    from sepclip.separation.recording import FileRecording

    read = []
    chunks = FileRecording.chunks
    monkeypatch.setattr(FileRecording, "chunks", lambda self: read.append(self.path.name) or chunks(self))
    code, _, stderr = separate("in", "--out", "out", *options)
    assert code == 1
    assert f"in/bad.wav: {words}" in stderr
    assert [name.partition(".")[0] for name in names("out")] == ["good_s1", "good_s2"]
    assert set(read) == {"good.wav"}


@pytest.mark.parametrize(
    ("format_name", "rate_hz", "subtype"), [("mp3", 44_100, "MPEG_LAYER_III"), ("opus", 48_000, "OPUS")]
)
def test_lossy_formats_keep_the_sound(format_name: str, rate_hz: int, subtype: str, separate, monkeypatch) -> None:
    import torch

    from sepclip.model.networks import Blstm

    monkeypatch.setattr(Blstm, "decode", lambda self, encoded, _: torch.full((1, 2, encoded.shape[1], self.bins), 0.5))
    wave = 0.3 * np.sin(2 * np.pi * 440 / rate_hz * np.arange(rate_hz + 77))
    soundfile.write("in.wav", np.stack([wave, -wave], 1) * [[1, 0.5]], rate_hz)
    code, _, stderr = separate("in.wav", "--out", "out", "--format", format_name)
    assert code == 0
    assert f"--residual has it (not with --format {format_name})\n" in stderr
    assert soundfile.info(f"out/in_s1.{format_name}").subtype == subtype
    result, rate = soundfile.read(f"out/in_s1.{format_name}")
    assert (rate, result.shape) == (rate_hz, (len(wave), 2))
    inner = slice(rate_hz // 10, -rate_hz // 10)
    assert np.abs(result[inner, 0] - wave[inner] / 2).max() < 0.02
    assert np.abs(result[inner, 1] + wave[inner] / 4).max() < 0.02


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_m4a_is_encoded_by_ffmpeg(separate) -> None:
    write(Path("in.wav"), 44_100, 6)
    assert separate("in.wav", "--out", "out", "--format", "m4a")[0] == 0
    assert names("out") == ["in_s1.m4a", "in_s2.m4a"]
    assert separate("out/in_s1.m4a", "--out", "again")[0] == 0
    info = soundfile.info("again/in_s1_s1.wav")
    assert (info.samplerate, info.channels, info.frames) == (44_100, 6, 4000)
    assert not [path for path in Path("out").iterdir() if path.suffix == ".tmp"]


@pytest.mark.parametrize(
    ("rate_hz", "channels", "fits"), [(44_100, 8, True), (7350, 1, True), (22_254, 1, False), (8000, 9, False)]
)
def test_m4a_has_the_limits_of_aac(rate_hz: int, channels: int, fits: bool) -> None:
    with nullcontext() if fits else pytest.raises(UserError, match="not fit m4a"):
        require_fit("m4a", "AAC", rate_hz, channels)


def test_m4a_without_ffmpeg_is_refused_before_any_file(separate, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    code, _, stderr = separate("no.wav", "--out", "out", "--format", "m4a")
    assert code == 1
    assert "--format m4a needs ffmpeg" in stderr


@pytest.mark.parametrize("format_name", ["mp3", "opus", "flac"])
def test_formats_that_cannot_be_empty_are_named(format_name: str, separate) -> None:
    soundfile.write("empty.wav", np.zeros(0), RATE)
    write(Path("good.wav"))
    code, _, stderr = separate("empty.wav", "good.wav", "--out", "out", "--format", format_name)
    assert code == 1
    assert f"empty.wav: 0 samples, which {format_name} cannot hold" in stderr
    assert len(names("out")) == 2


def test_names_that_are_not_utf8_are_separated(separate, tmp_path: Path, capfd) -> None:
    strange = Path(os.fsdecode(b"in/caf\xe9.wav"))
    write(strange)
    write(Path("in/ok.wav"))
    out = Path(os.fsdecode(b"out\xe9"))
    code, stdout, stderr = separate("in", "--out", out)
    assert code == 0, stderr
    assert r"caf\xe9_s1.wav" in stdout
    assert sorted(os.fsencode(path.name) for path in out.iterdir()) == [
        b".separated.jsonl", b"caf\xe9_s1.wav", b"caf\xe9_s2.wav", b"ok_s1.wav", b"ok_s2.wav",
    ]  # fmt: skip
    assert "2 files already separated" in separate("in", "--out", out)[2]
    # in JSON, the escapes are those that Python takes back as the name
    document = json.loads(separate("in", "--out", out, "--json")[1])
    assert set(document["kept"]) == {str(strange), "in/ok.wav"}


def test_control_characters_in_names_are_shown_as_escapes(separate) -> None:
    Path("x\033]0;TITLE\033\\\n\u202e.wav").write_text("nope")
    write(Path("ok\033[31m.wav"))
    code, stdout, stderr = separate(*Path().iterdir(), "--out", "out")
    assert code == 1
    assert "\033" not in stdout + stderr
    assert r"x\x1b]0;TITLE\x1b\\n\u202e.wav: not readable as sound" in stderr
    assert r"ok\x1b[31m_s1.wav" in stdout


def test_name_of_a_result_that_is_too_long_stops_no_other_file(separate) -> None:
    write(Path("in") / f"{'x' * 251}.wav")
    write(Path("in") / f"{'ä' * 124}.wav")  # in UTF-8 two bytes each
    write(Path("in") / f"{'y' * 248}.wav")  # the longest that fits
    code, _, stderr = separate("in", "z" * 300 + ".wav", "--out", "out")
    assert code == 1
    assert f"{'x' * 251}.wav: the name of its result has 258 bytes" in stderr
    assert f"{'ä' * 124}.wav: the name of its result has 255" not in stderr
    assert f"{'z' * 300}.wav: " in stderr
    assert "2 inputs could not be separated" in stderr
    assert len(names("out")) == 4


def test_files_of_the_same_name_get_distinct_results(separate) -> None:
    for name in ("same/a.wav", "same/a.flac", "same/b.wav", "p/x.wav", "q/x.wav"):
        write(Path(name))
    for _ in range(2):  # the second command finds the results of the first
        code, _, stderr = separate("same", "p/x.wav", "q/x.wav", "--out", "out")
        assert code == 0
        assert "same/a.flac as a.flac, same/a.wav as a.wav, p/x.wav as p/x, q/x.wav as q/x" in stderr
    assert "5 files already separated" in stderr
    assert names("out") == [
        "a.flac_s1.wav", "a.flac_s2.wav", "a.wav_s1.wav", "a.wav_s2.wav", "b_s1.wav", "b_s2.wav",
        "p/x_s1.wav", "p/x_s2.wav", "q/x_s1.wav", "q/x_s2.wav",
    ]  # fmt: skip


def test_distinct_names_never_take_that_of_another_file(tmp_path: Path) -> None:
    def paths(*names: str) -> list[Path]:
        return [tmp_path / name for name in names]

    files = {
        Path("a"): paths("in/a.wav", "in/a.flac"),
        Path("a.wav"): paths("in/a.wav.wav"),
        Path("x"): paths("p/x.wav", "q/x.wav", "q/x.flac"),
        Path("same"): paths("in/same.wav", "in/../in/same.wav"),
    }
    named, renamed = distinct_names(files)
    assert sorted(map(str, named)) == ["a-2", "a-3", "a.wav", "p/x.wav", "q/x.flac", "q/x.wav", "same"]
    assert named[Path("a.wav")] == tmp_path / "in/a.wav.wav"
    assert set(renamed) == {*files[Path("a")], *files[Path("x")]}


def test_results_of_two_files_are_never_one_file(separate) -> None:
    for name in ("in/a.wav", "in/a_s1.wav"):
        write(Path(name))
    before = Path("in/a_s1.wav").read_bytes()
    code, _, stderr = separate("in/a.wav", "in/a_s1.wav", "--out", "in", "--overwrite")
    assert code == 1
    assert "in/a.wav: its result in/a_s1.wav is an input too" in stderr
    assert names("in") == ["a.wav", "a_s1.wav", "a_s1_s1.wav", "a_s1_s2.wav"]
    assert Path("in/a_s1.wav").read_bytes() == before


def test_residual_is_never_written_over_a_source_of_that_name() -> None:
    assert residual_name(["s1", "s2"]) == "residual"
    assert residual_name(["vocals", "residual"]) == "mixture_minus_sources"
    assert residual_name(["Residual", "mixture_minus_sources", "mixture_minus_sources-2"]) == "mixture_minus_sources-3"
    sources = ("mixture", "residual", "vocals")
    plan = make_plan([Path("song.wav")], Path("out"), sources, extension="wav", residual=True)
    (job,) = plan.jobs
    assert [path.name for path in job.targets] == [f"song_{source}.wav" for source in sources]
    assert job.residual == Path("out/song_mixture_minus_sources.wav")
    (message,) = unusual_names(plan, sources, residual=True)
    assert "a source is called residual: the mixture minus the sources is mixture_minus_sources" in message
    assert not unusual_names(plan, sources, residual=False)


def test_loops_of_links_and_missing_files_stop_no_other_file(separate, tmp_path: Path) -> None:
    write(Path("in/ok.wav"))
    Path("loop_a").symlink_to("loop_b")
    Path("loop_b").symlink_to("loop_a")
    Path("in/loop.wav").symlink_to("loop.wav")
    Path("in/again").symlink_to("../in")
    Path("dangling.wav").symlink_to("nothing.wav")
    code, _, stderr = separate("loop_a", "loop_b/x.wav", "dangling.wav", "in", "no.wav", "ok.wav/x", "--out", "out")
    assert code == 1
    for line in (
        "loop_a: a loop of symbolic links",
        "loop_b/x.wav: a loop of symbolic links",
        "in/loop.wav: a loop of symbolic links",
        "dangling.wav: a link to a file that does not exist",
        "no.wav: no such file",
    ):
        assert f"  {line}\n" in stderr
    assert names("out") == ["ok_s1.wav", "ok_s2.wav"]
    code, _, stderr = separate("in/ok.wav", "--out", "loop_a")
    assert code == 1
    assert "in/ok.wav: loop_a" in stderr


def test_named_pipes_and_devices_are_read_or_named(separate) -> None:
    write(Path("in/ok.wav"))
    os.mkfifo("in/pipe.wav")
    code, _, stderr = separate("in", "/dev/null", "--out", "out")  # a pipe in a folder would block
    assert code == 1
    assert "in/pipe.wav: is a named pipe: to read it, give its path" in stderr
    assert "/dev/null: is a device, not a sound file" in stderr
    with subprocess.Popen(["cp", "in/ok.wav", "in/pipe.wav"]) as writer:
        code, _, stderr = separate("in/pipe.wav", "--out", "out")
        writer.wait(timeout=60)
    assert (code, stderr) == (0, "")
    for source in ("s1", "s2"):
        np.testing.assert_array_equal(
            soundfile.read(f"out/pipe_{source}.wav")[0], soundfile.read(f"out/ok_{source}.wav")[0]
        )


def test_stdin_and_process_substitution_are_separated(tiny_run: Path, tmp_path: Path) -> None:
    write(tmp_path / "ok.wav")
    command = f"'{sys.executable}' -m sepclip separate '{tiny_run}'"
    lines = (
        f"cat ok.wav | {command} /dev/stdin --out o1 && test -f o1/stdin_s1.wav",
        f"{command} /dev/stdin --out o2 < ok.wav && test -f o2/stdin_s1.wav",
        f"{command} <(cat ok.wav) --out o3 && ls o3/[0-9]*_s1.wav",
    )
    for line in lines:
        process = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
        )
        assert process.returncode == 0, process.stderr


def mask(path: str) -> int | None:
    from sepclip.audio.speaker_mask import read_mask

    return read_mask(Path(path))


@pytest.mark.parametrize("value", [0x3F, 0x60F, 0])
@pytest.mark.parametrize(("container", "subtype"), [("WAVEX", "PCM_16"), ("WAVEX", "FLOAT"), ("RF64", "PCM_24")])
def test_mask_of_loudspeakers_is_kept(value: int, container: str, subtype: str, separate) -> None:
    from sepclip.audio.speaker_mask import write_mask

    path = write(Path("in.wav"), channels=6, format=container, subtype=subtype)
    write_mask(path, value)
    assert separate("in.wav", "--out", "out", "--residual")[0] == 0
    for part in ("s1", "s2", "residual"):
        assert mask(f"out/in_{part}.wav") == value
        assert soundfile.info(f"out/in_{part}.wav").subtype == subtype
    # the sound is where it was
    parts = sum(soundfile.read(path)[0] for path in Path("out").glob("*.wav"))
    np.testing.assert_allclose(parts, soundfile.read("in.wav")[0], atol=2**-14)


def test_mask_is_only_written_where_there_was_one(separate) -> None:
    for channels, container in ((2, "WAVEX"), (6, "WAV"), (6, "FLAC")):
        write(Path(f"in{channels}.{container.lower()}"), channels=channels, format=container)
    assert separate(*Path().glob("in*"), "--out", "out")[0] == 0
    assert {mask(str(path)) for path in Path("out").glob("*.wav")} == {None}
    assert {soundfile.info(path).format for path in Path("out").glob("*.wav")} == {"WAV"}


def test_temporary_files_of_a_killed_command_are_removed_by_the_next(tiny_run: Path, tmp_path: Path, separate) -> None:
    for index in range(20):
        soundfile.write(f"{index}.wav", np.resize(tone(), 60 * RATE), RATE)
    os.mkfifo("pipe.wav")
    command = [sys.executable, "-m", "sepclip", "separate", tiny_run, *Path().glob("[0-9]*.wav"), "pipe.wav"]
    hidden = list[Path]()
    # the pipe delivers nothing, so its copy is there when the command is killed
    with subprocess.Popen([*command, "--out", "out", "--jobs", "2"], stderr=subprocess.DEVNULL) as killed:
        handle = os.open("pipe.wav", os.O_WRONLY)
        deadline = time.monotonic() + 60
        while not (hidden := list(Path("out").glob(".sepclip-*"))) and time.monotonic() < deadline:
            time.sleep(0.01)
        live = Path("out") / hidden[0].name  # of a process that is running
        assert separate("0.wav", "--out", "out", "--overwrite")[0] == 0
        assert live.exists()
        killed.kill()
        os.close(handle)
    (Path("out") / ".0_s1.wav.4194304999-7.tmp").write_text("half")  # of a process that cannot exist
    (Path("out") / ".mine").write_text("kept")
    assert separate("0.wav", "--out", "out", "--overwrite")[0] == 0
    assert sorted(path.name for path in Path("out").glob(".*")) == [".mine", ".separated.jsonl"]


@pytest.mark.skipif(CASES is None, reason="../shared/cases is not there")
def test_names_from_the_field(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, module in (("sepclip", "-m sepclip"), ("python", "")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    result = subprocess.run(
        ["bash", CASES, tiny_run],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        timeout=600,
        check=False,
    )
    codes = [line.split(b":")[0].decode() for line in result.stdout.splitlines() if line.startswith(b"exit ")]
    assert codes[:5] + codes[6:] == ["exit 1", "exit 0", "exit 0", "exit 1", "exit 0", "exit 1"]
    assert b"Traceback" not in result.stderr
    assert b"\033" not in result.stdout + result.stderr


def spoil(folder: Path) -> dict[str, str]:
    """Write 20 bad files of different kinds; return the names of the inputs and a word of the reason for each."""
    good = as_bytes(tone())
    flac = as_bytes(tone(), "FLAC")
    contents: dict[str, tuple[bytes, str]] = {
        "empty.wav": (b"", "not readable"),
        "text.wav": (b"these are words\n" * 50, "not readable"),
        "zeros.flac": (bytes(5000), "not readable"),
        "header_only.wav": (good[:20], "not readable"),
        "noise.mp3": (np.random.default_rng(1).bytes(3000), "not readable"),
        "html.ogg": (b"<!DOCTYPE html><html></html>", "not readable"),
        "caf\\xe9.aiff": (b"FORM\0\0\0\0AIFF", "not readable"),
        "flac_cut.flac": (flac[:30], "not readable"),
        "nan.wav": (as_bytes(np.full(4000, np.nan), subtype="FLOAT"), "NaN or infinite"),
        "inf.wav": (as_bytes(np.r_[tone()[:, 0], np.inf], subtype="DOUBLE"), "NaN or infinite"),
        "rate.wav": (as_bytes(tone(), rate_hz=500), "500 Hz"),
        "wide.wav": (as_bytes(tone(100, 12)), "12 channels do not fit flac"),
        "fast.wav": (as_bytes(tone(), rate_hz=800_000), "800000 Hz does not fit flac"),
        "none.wav": (as_bytes(np.zeros(0)), "0 samples"),
        f"{'x' * 248}.wav": (good, "the name of its result has 256 bytes"),
        "line\nbreak.wav": (b"nope", "not readable"),
    }
    for name, (content, _) in contents.items():
        (folder / os.fsdecode(name.replace("\\xe9", "\0").encode().replace(b"\0", b"\xe9"))).write_bytes(content)
    os.mkfifo(folder / "pipe.wav")
    (folder / "loop.wav").symlink_to("loop.wav")
    (folder / "dangling.wav").symlink_to("nothing.wav")
    reasons = {name.replace("\n", "\\n"): reason for name, (_, reason) in contents.items()}
    more = {"pipe.wav": "a named pipe", "loop.wav": "a loop of symbolic links", "dangling.wav": "does not exist"}
    return {**reasons, **more}


def as_bytes(wave: np.ndarray, container: str = "WAV", *, rate_hz: int = RATE, subtype: str = "PCM_16") -> bytes:
    memory = io.BytesIO()
    soundfile.write(memory, wave, rate_hz, format=container, subtype=subtype)
    return memory.getvalue()


@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_bad_files_among_many_are_named_and_the_command_resumes(count: int, separate) -> None:
    # many in a tree, the bad ones among them, and one argument that is not there
    for index in range(count - 20):
        folder = Path("in") / f"{index % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index:04d}.wav").write_bytes(as_bytes(tone(800 + index)))
    reasons = {f"in/3/{name}": reason for name, reason in spoil(Path("in/3")).items()}
    reasons["missing.wav"] = "no such file"
    assert len(reasons) == 20
    good = [f"{path.relative_to('in').with_suffix('')}" for path in Path("in").rglob("[0-9]*.wav")]
    assert len(good) == count - 20

    def check(stderr: str) -> None:
        assert "20 inputs could not be separated" in stderr
        for name, reason in reasons.items():
            (line,) = [line for line in stderr.splitlines() if line.startswith(f"  {name}: ")]
            assert reason in line

    code, _, stderr = separate("in", "missing.wav", "--out", "out", "--format", "flac")
    assert code == 1
    check(stderr)
    assert f"{count - 20} files separated" in stderr
    expected = sorted(f"{name}_{source}.flac" for name in good for source in ("s1", "s2"))
    assert names("out") == expected
    # as after a kill: some results are missing, and only these are made again
    for name in good[:5]:
        Path(f"out/{name}_s2.flac").unlink()
    stamps = {name: Path(f"out/{name}_s2.flac").stat().st_mtime_ns for name in good[5:]}
    code, _, stderr = separate("in", "missing.wav", "--out", "out", "--format", "flac")
    assert code == 1
    check(stderr)
    assert "5 files separated" in stderr
    assert f"{count - 25} files already separated" in stderr
    assert names("out") == expected
    assert stamps == {name: Path(f"out/{name}_s2.flac").stat().st_mtime_ns for name in good[5:]}
