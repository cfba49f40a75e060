"""What `sepclip separate` writes, by its options, through the real command."""

import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sepclip.cli import main
from sepclip.separation.origins import FILE
from tests.conftest import SPEECH, assert_told, sepclip
from tests.processes import wait_until

RATE = 8000


@pytest.fixture
def separate(tiny_run: Path, capfd: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Return the command, run in this process: its exit code and its stderr."""

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as exit_code:
            main(["separate", str(tiny_run), *map(str, arguments)])
        return int(exit_code.value.code or 0), capfd.readouterr().err

    return run


def speech(seconds: float = 1.5, peak: float = 0.5) -> np.ndarray:
    wave = soundfile.read(SPEECH / "en-f" / "0000.flac")[0][: int(seconds * RATE)]
    return wave * peak / np.abs(wave).max()


def written(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: soundfile.read(path, always_2d=True)[0] for path in sorted(folder.glob("[!.]*"))}


@pytest.mark.parametrize(
    ("stored", "format_name", "subtype", "step"),
    [
        ("PCM_16", "wav", None, 2**-15),
        ("PCM_24", "wav", None, 2**-23),
        ("PCM_U8", "wav", None, 2**-7),
        ("PCM_16", "flac", "PCM_24", 2**-23),
        ("FLOAT", "wav", None, 2**-23),
        ("DOUBLE", "wav", "PCM_16", 2**-15),
        ("PCM_32", "flac", None, 2**-15),
    ],
)
def test_parts_and_residual_add_up_to_the_mixture(stored, format_name, subtype, step, separate, tmp_path: Path) -> None:
    mixture = np.stack([speech(), speech()[::-1]], 1)
    soundfile.write(tmp_path / "in.wav", mixture, RATE, subtype=stored)
    options = ["--residual", "--format", format_name, *(["--subtype", subtype] if subtype else [])]
    assert separate(tmp_path / "in.wav", "--out", tmp_path / "out", *options)[0] == 0
    parts = written(tmp_path / "out")
    assert list(parts) == [f"in_{name}.{format_name}" for name in ("residual", "s1", "s2")]
    assert soundfile.info(tmp_path / "out" / f"in_s1.{format_name}").subtype == (
        subtype or ("PCM_16" if format_name == "flac" else stored)
    )
    assert np.abs(parts[f"in_residual.{format_name}"]).max() > 0  # or the test would be empty
    original = soundfile.read(tmp_path / "in.wav")[0]
    assert np.abs(sum(parts.values()) - original).max() <= step


def test_residual_has_the_band_above_the_rate_of_the_network(separate, tmp_path: Path) -> None:
    tone = 0.1 * np.sin(2 * np.pi * 10000 * np.arange(44100) / 44100)
    soundfile.write(tmp_path / "in.wav", tone, 44100, subtype="FLOAT")
    assert separate(tmp_path / "in.wav", "--out", tmp_path / "out", "--residual")[0] == 0
    parts = written(tmp_path / "out")
    inner = slice(4410, -4410)  # without the ends of the tone
    np.testing.assert_allclose(parts["in_residual.wav"][inner, 0], tone[inner], atol=1e-5)
    assert np.abs(parts["in_s1.wav"][inner]).max() < 1e-5


@pytest.mark.parametrize(("options", "where"), [([], "--residual has it"), (["--residual"], "the residual has it")])
def test_lost_bandwidth_is_told_once(options, where, separate, tmp_path: Path) -> None:
    for rate_hz in (RATE, 11025, 44100):
        for index in range(3):
            soundfile.write(tmp_path / f"{rate_hz}_{index}.wav", speech(0.2), rate_hz)
    code, stderr = separate(*tmp_path.glob("8000_*"), "--out", tmp_path / "out", *options)
    assert (code, stderr.count("the model works at")) == (0, 0)
    code, stderr = separate(*tmp_path.glob("*.wav"), "--out", tmp_path / "out", *options, "--jobs", "3")
    assert code == 0
    message = f"the model works at 8 kHz: no sound above 4 kHz in the results; {where}\n"
    assert stderr.count("the model works at") == stderr.count(message) == 1


@pytest.fixture
def loud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file whose first estimate, by a mask of 1.5, reaches 1.35."""
    import torch

    from sepclip.model.networks import Blstm

    values = torch.tensor([1.5, 0.1]).reshape(1, 2, 1, 1)
    monkeypatch.setattr(Blstm, "decode", lambda self, encoded, _: values.expand(1, 2, encoded.shape[1], self.bins))
    soundfile.write(tmp_path / "in.wav", speech(peak=0.9), RATE)
    return tmp_path / "in.wav"


@pytest.mark.parametrize(
    ("options", "subtype", "peak", "message"),
    [
        (["--overload", "float"], "FLOAT", 1.35, "written as 32-bit float"),
        (["--overload", "rescale"], "PCM_16", 1.0, "0.741 times as loud"),
        (["--overload", "clamp"], "PCM_16", 1.0, "is clamped"),
        (["--format", "flac"], "PCM_16", 1.0, "0.741 times as loud"),
        (["--subtype", "FLOAT", "--overload", "clamp"], "FLOAT", 1.35, None),
    ],
)
def test_overload_option_decides_about_loud_estimates(options, subtype, peak, message, loud, separate) -> None:
    code, stderr = separate(loud, "--out", loud.parent / "out", *options)
    assert code == 0
    assert (message in stderr) if message else (stderr == "")
    path = next((loud.parent / "out").glob("in_s1.*"))
    assert soundfile.info(path).subtype == subtype
    wave = soundfile.read(path)[0]
    assert np.abs(wave).max() == pytest.approx(peak, abs=1e-3)
    true = 1.5 * speech(peak=0.9)
    expected = np.clip(true, -1, 1) if "clamped" in (message or "") else true * (peak / 1.35)
    np.testing.assert_allclose(wave, expected, atol=1e-3)


def test_rescaled_parts_and_residual_add_up_to_the_rescaled_mixture(loud, separate) -> None:
    out = loud.parent / "out"
    assert separate(loud, "--out", out, "--residual", "--overload", "rescale")[0] == 0
    parts = written(out)
    np.testing.assert_allclose(sum(parts.values())[:, 0], soundfile.read(loud)[0] / 1.35, atol=2**-15 * 1.5)


def test_residual_beyond_full_scale_is_reported(loud, separate, monkeypatch) -> None:
    import torch

    from sepclip.model.networks import Blstm

    monkeypatch.setattr(Blstm, "decode", lambda self, encoded, _: torch.full((1, 2, encoded.shape[1], self.bins), 1.5))
    code, stderr = separate(loud, "--out", loud.parent / "out", "--residual", "--overload", "clamp")
    assert code == 0
    assert "the residual exceeds full scale" in stderr


def test_clipped_input_is_separated_without_change(separate, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", np.clip(speech(peak=3), -1, 1), RATE)
    assert separate(tmp_path / "in.wav", "--out", tmp_path / "out", "--residual", "--overload", "clamp")[0] == 0
    assert (
        np.abs(sum(written(tmp_path / "out").values())[:, 0] - soundfile.read(tmp_path / "in.wav")[0]).max() <= 2**-15
    )


def test_empty_file_cannot_be_written_as_flac(separate, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", np.zeros(0), RATE)
    code, stderr = separate(tmp_path / "in.wav", "--out", tmp_path / "out", "--format", "flac")
    assert code == 1
    assert "0 samples" in stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("samples", "format_name"), [(0, "wav"), (0, "ogg"), (1, "wav"), (1, "flac"), (1, "ogg"), (100, "ogg")]
)
def test_very_short_files_are_written_in_every_format(samples, format_name, separate, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", np.full(samples, 0.1), RATE)
    assert separate(tmp_path / "in.wav", "--out", tmp_path / "out", "--format", format_name)[0] == 0
    for name in ("s1", "s2"):
        assert soundfile.info(tmp_path / "out" / f"in_{name}.{format_name}").frames == samples


def test_names_follow_the_template_and_trees_are_kept(separate, tmp_path: Path) -> None:
    for name in ("a/x.wav", "b/x.wav"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        soundfile.write(tmp_path / "in" / name, speech(0.5), RATE)
    assert separate(tmp_path / "in", "--out", tmp_path / "out", "--name", "{source}/{name}-voice")[0] == 0
    results = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.wav"))
    assert results == ["a/s1/x-voice.wav", "a/s2/x-voice.wav", "b/s1/x-voice.wav", "b/s2/x-voice.wav"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "{name}"], "{source}"),
        (["--name", "{nme}_{source}"], "{name}"),
        (["--name", "../{name}_{source}"], "stay in --out"),
        (["--name", "/{name}_{source}"], "stay in --out"),
        (["--name", "{name}_{source"], "such as {name}_{source}"),
        (["--subtype", "PCM_12"], "wav has PCM_16"),
        (["--subtype", "FLOAT", "--format", "flac"], "flac has PCM_16"),
        (["--format", "ogg", "--residual"], "lossy"),
        (["--format", "flac", "--overload", "float"], "no float samples"),
        (["--masks", "soft"], "masks, no embeddings"),
        (["--precision", "fp16"], "'auto', 'fp32', 'bf16'"),
    ],
)
def test_invalid_options_are_reported(options, message, separate, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", speech(0.5), RATE)
    code, stderr = separate(tmp_path / "in.wav", "--out", tmp_path / "out", *options)
    assert code in (1, 2)
    assert message in stderr.replace("\n", " ")
    assert not list((tmp_path / "out").glob("*"))


def test_existing_results_are_only_replaced_with_overwrite(separate, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", speech(0.5), RATE)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "in_s2.wav").write_text("mine")
    os.utime(tmp_path / "out" / "in_s2.wav", (0, 0))
    code, stderr = separate(tmp_path / "in.wav", "--out", tmp_path / "out")
    assert code == 1
    assert "--overwrite" in stderr
    assert (tmp_path / "out" / "in_s2.wav").read_text() == "mine"
    assert separate(tmp_path / "in.wav", "--out", tmp_path / "out", "--overwrite")[0] == 0
    assert soundfile.info(tmp_path / "out" / "in_s2.wav").frames == 4000


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_do_not_depend_on_the_number_of_jobs(jobs, separate, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(5):
        soundfile.write(tmp_path / "in" / f"{index}.wav", speech(0.5 + index / 4), RATE)
    (tmp_path / "in" / "bad.wav").write_text("no sound")
    code, stderr = separate(tmp_path / "in", "--out", tmp_path / "out", "--jobs", jobs)
    assert code == 1
    assert "1 input could not be separated" in stderr
    assert "5 files separated, 0.1 min of sound" in stderr
    assert "bad.wav" in stderr
    assert separate(tmp_path / "in" / "3.wav", "--out", tmp_path / "alone")[0] == 0
    assert len(list((tmp_path / "out").glob("[!.]*"))) == 10
    for name, wave in written(tmp_path / "alone").items():
        np.testing.assert_allclose(written(tmp_path / "out")[name], wave, atol=2**-15)


def as_wav(wave: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, RATE, format="WAV")
    return file.getvalue()


def test_stdin_is_separated_even_if_its_header_promises_too_much(tiny_run: Path, tmp_path: Path) -> None:
    whole = as_wav(speech(1.0))
    promising = whole[:40] + (len(whole) + 1000).to_bytes(4, "little") + whole[44:]  # as sox writes to a pipe
    for content in (whole, promising):
        process = subprocess.run(
            [sys.executable, "-m", "sepclip", "separate", tiny_run, "-", "--out", tmp_path / "out", "--overwrite"],
            input=content,
            capture_output=True,
            timeout=600,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["stdin_s1.wav", "stdin_s2.wav"]
        assert soundfile.info(tmp_path / "out" / "stdin_s1.wav").frames == RATE


@pytest.mark.skipif(shutil.which("sox") is None, reason="sox is not installed")
@pytest.mark.parametrize("format_name", ["wav", "flac"])
def test_pipe_from_sox_is_separated(format_name, tiny_run: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "talk.flac", np.stack([speech(1.0)] * 2, 1), RATE)
    separate = f"{sys.executable} -m sepclip separate {tiny_run} - --out {tmp_path / 'out'}"
    line = f"sox {tmp_path / 'talk.flac'} -t {format_name} - | {separate}"
    process = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=600, check=False
    )
    assert process.returncode == 0, process.stderr
    for source in ("s1", "s2"):
        info = soundfile.info(tmp_path / "out" / f"stdin_{source}.wav")
        assert (info.samplerate, info.frames, info.channels, info.subtype) == (RATE, RATE, 2, "PCM_16")


def test_empty_stdin_is_an_error(tiny_run: Path, tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "sepclip", "separate", tiny_run, "-", "--out", tmp_path / "out"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=600,
        text=True,
        check=False,
    )
    assert_told(process, "stdin is empty")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("extension", ["m4a", "mkv"])
def test_formats_of_ffmpeg_are_separated(extension, separate, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "a.wav", np.stack([speech(1.0)] * 2, 1), RATE)
    path = tmp_path / "in" / f"a.{extension}"
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", path], timeout=60, check=True)
    argument = tmp_path / "in" if extension == "m4a" else path  # in a folder the name decides
    assert separate(argument, "--out", tmp_path / "out")[0] == 0
    info = soundfile.info(tmp_path / "out" / "a_s1.wav")
    assert (info.samplerate, info.channels, info.subtype) == (RATE, 2, "PCM_16")
    assert RATE <= info.frames < 1.5 * RATE  # a lossy codec fills its last frame
    path.write_bytes(path.read_bytes()[:500])
    code, stderr = separate(path, "--out", tmp_path / "out2")
    assert code == 1
    assert "a." in stderr


def test_interrupted_command_leaves_whole_files_and_resumes(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(40):
        soundfile.write(tmp_path / "in" / f"{index}.wav", np.resize(speech(5), 15 * RATE), RATE)
    # where a shell runs the tests in the background, they ignore Ctrl-C, and so would the command
    start = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", start + "runpy.run_module('sepclip', run_name='__main__')"]
    command += ["separate", tiny_run, tmp_path / "in", "--out", tmp_path / "out"]
    with subprocess.Popen([*command, "--jobs", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
        wait_until(lambda: list((tmp_path / "out").glob("*_s2.wav")), running)
        running.send_signal(signal.SIGINT)
        message = running.communicate(timeout=60)[1].decode()
    assert running.returncode == 130, message
    assert "Traceback" not in message
    left = sorted(path.name for path in (tmp_path / "out").iterdir() if path.name != FILE)
    assert 2 <= len(left) < 80
    assert all(name[0] != "." and soundfile.info(tmp_path / "out" / name).frames == 15 * RATE for name in left)
    stamps = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in left}
    second = sepclip("separate", tiny_run, tmp_path / "in", "--out", tmp_path / "out")
    assert second.returncode == 0, second.stderr
    assert len(list((tmp_path / "out").glob("[!.]*"))) == 80
    pairs = [name for name in left if {name.replace("_s1", "_s2"), name.replace("_s2", "_s1")} <= set(left)]
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == stamps[name] for name in pairs)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_length(tiny_run: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom sepclip.cli import main\ntry:\n    main(sys.argv[1:])\n"
        "finally:\n    print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    peaks = {}
    for seconds in (1540, 6160):  # both make many full batches of blocks
        path = tmp_path / f"{seconds}.wav"
        soundfile.write(path, np.resize(speech(6).astype(np.float32), seconds * RATE), RATE)
        command = [sys.executable, "-c", script, "separate", tiny_run, path, "--out", tmp_path / "out", "--residual"]
        process = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
        peaks[seconds] = int(process.stdout.split()[-1]) / 1024  # MB
        assert soundfile.info(tmp_path / "out" / f"{seconds}_s2.wav").frames == seconds * RATE
    # whole and in float32, one source of the longer one takes 148 MB more, its spectra and hidden layers far more
    assert peaks[6160] < peaks[1540] + 100, peaks
    assert peaks[6160] < 1000
