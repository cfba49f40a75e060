import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sepclip.model.inference import BlockSeparator
from sepclip.separation.jobs import make_plan, unusual_names
from sepclip.separation.origins import FILE
from sepclip.separation.output import choose_encoding
from sepclip.separation.separate_files import Options, separate_files
from sepclip.training.run import Run
from tests.conftest import SPEECH, assert_told, sepclip

RATE = 8000


@pytest.fixture(scope="module")
def separator(tiny_run: Path) -> BlockSeparator:
    return Run.open(tiny_run).separator(torch.device("cpu"))


def constant_masks(separator: BlockSeparator, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Make the network return masks of one ``value``."""
    network = type(separator.model.network)
    decode = network.decode
    monkeypatch.setattr(network, "decode", lambda self, *inputs: torch.full_like(decode(self, *inputs), value))


def speech(seconds: float = 2.0) -> np.ndarray:
    return soundfile.read(SPEECH / "en-f" / "0000.flac")[0][: int(seconds * RATE)]


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3", "aiff"])
@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
def test_rate_length_and_channels_are_kept(extension: str, rate_hz: int, tiny_run: Path, tmp_path: Path) -> None:
    stereo = np.random.default_rng(0).normal(0, 0.1, (rate_hz + 77, 2))
    path = tmp_path / f"in.{extension}"
    soundfile.write(path, stereo, rate_hz)
    separator = Run.open(tiny_run).separator(torch.device("cpu"))
    result = separate_files(separator, [path], tmp_path / "out", device=torch.device("cpu"))
    info = soundfile.info(path)
    assert [target.name for target in result.written[path]] == ["in_s1.wav", "in_s2.wav"]
    for target in result.written[path]:
        written = soundfile.info(target)
        assert (written.samplerate, written.frames, written.channels) == (rate_hz, info.frames, 2)


def test_output_follows_the_level_of_the_input(separator: BlockSeparator, tmp_path: Path) -> None:
    for gain in (1.0, 0.01):
        soundfile.write(tmp_path / f"at{gain}.wav", speech() * gain, RATE, subtype="FLOAT")
    separate_files(separator, sorted(tmp_path.glob("at*.wav")), tmp_path / "out", device=torch.device("cpu"))
    loud, quiet = (soundfile.read(tmp_path / "out" / f"at{gain}_s1.wav")[0] for gain in (1.0, 0.01))
    np.testing.assert_allclose(quiet, loud * 0.01, atol=1e-6)


def test_masks_of_one_return_the_file(separator: BlockSeparator, tmp_path: Path, monkeypatch) -> None:
    constant_masks(separator, monkeypatch, 1.0)
    soundfile.write(tmp_path / "in.wav", speech(), RATE)
    separate_files(separator, [tmp_path / "in.wav"], tmp_path / "out", device=torch.device("cpu"))
    expected, _ = soundfile.read(tmp_path / "in.wav", dtype="int16")
    for name in ("in_s1.wav", "in_s2.wav"):
        assert np.abs(soundfile.read(tmp_path / "out" / name, dtype="int16")[0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("samples", [0, 1, 50, 255, 400])
@pytest.mark.parametrize("channels", [1, 2])
def test_very_short_files_keep_their_length(
    samples: int, channels: int, separator: BlockSeparator, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "in.wav", np.full((samples, channels), 0.1), RATE)
    result = separate_files(separator, [tmp_path / "in.wav"], tmp_path / "out", device=torch.device("cpu"))
    assert not result.failed
    for target in result.written[tmp_path / "in.wav"]:
        assert soundfile.info(target).frames == samples
        assert soundfile.info(target).channels == channels


def test_a_source_called_residual_is_not_overwritten() -> None:
    plan = make_plan([Path("in.wav")], Path("out"), ("vocals", "residual"), extension="wav", residual=True)
    assert [path.name for path in plan.jobs[0].results] == [
        "in_vocals.wav", "in_residual.wav", "in_mixture_minus_sources.wav",
    ]  # fmt: skip
    (message,) = unusual_names(plan, ("vocals", "residual"), True)
    assert "the mixture minus the sources is mixture_minus_sources" in message


def test_silence_gives_silence(separator: BlockSeparator, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", np.zeros(RATE), RATE)
    separate_files(separator, [tmp_path / "in.wav"], tmp_path / "out", device=torch.device("cpu"))
    for name in ("in_s1.wav", "in_s2.wav"):
        assert not soundfile.read(tmp_path / "out" / name)[0].any()


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_channels_that_cancel_are_separated(separator: BlockSeparator, tmp_path: Path, capfd, noise) -> None:
    """The masks are those of one channel, not those of the noise that the mean of the channels contains."""
    hiss = noise * np.random.default_rng(0).standard_normal(len(speech()))
    soundfile.write(tmp_path / "in.wav", np.stack([speech(), hiss - speech()], 1), RATE, subtype="FLOAT")
    separate_files(separator, [tmp_path / "in.wav"], tmp_path / "out", device=torch.device("cpu"))
    assert "its channels cancel: what to separate is found in channel 1" in capfd.readouterr().err
    left, right = soundfile.read(tmp_path / "out" / "in_s1.wav")[0].T
    assert np.abs(left).max() > 0.01
    np.testing.assert_allclose(left, -right, atol=1e-6 + 10 * noise)
    soundfile.write(tmp_path / "mono.wav", speech(), RATE, subtype="FLOAT")
    separate_files(separator, [tmp_path / "mono.wav"], tmp_path / "out", device=torch.device("cpu"))
    np.testing.assert_allclose(left, soundfile.read(tmp_path / "out" / "mono_s1.wav")[0], atol=1e-6)


def test_sample_format_is_kept_if_the_container_has_it() -> None:
    stored = ("PCM_16", "PCM_24", "FLOAT", "DOUBLE", "PCM_S8", "VORBIS")
    assert [choose_encoding(name).subtype for name in stored] == [
        "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "PCM_U8", "PCM_16",
    ]  # fmt: skip
    assert [choose_encoding(name, "flac").subtype for name in stored] == [
        "PCM_16", "PCM_24", "PCM_16", "PCM_16", "PCM_S8", "PCM_16",
    ]  # fmt: skip


def test_loud_estimate_is_reported_and_not_clipped(separator, tmp_path: Path, monkeypatch, capfd) -> None:
    constant_masks(separator, monkeypatch, 1.5)
    soundfile.write(tmp_path / "in.wav", speech() / np.abs(speech()).max() * 0.9, RATE)
    separate_files(separator, [tmp_path / "in.wav"], tmp_path / "out", device=torch.device("cpu"))
    assert "exceeds full scale" in capfd.readouterr().err
    assert soundfile.info(tmp_path / "out" / "in_s1.wav").subtype == "FLOAT"
    assert np.abs(soundfile.read(tmp_path / "out" / "in_s1.wav")[0]).max() > 1.3


def test_folders_keep_their_tree_and_a_second_run_keeps_the_files(tiny_run: Path, tmp_path: Path) -> None:
    for name in ("a/x.wav", "a/b/x.wav"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "in" / name, speech(0.5), RATE)
    out = tmp_path / "in" / "separated"  # inside the folder: a second run must not separate its own results
    assert sepclip("separate", tiny_run, tmp_path / "in", "--out", out).returncode == 0
    results = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.wav"))
    assert results == ["a/b/x_s1.wav", "a/b/x_s2.wav", "a/x_s1.wav", "a/x_s2.wav"]
    stamp = (out / results[0]).stat().st_mtime_ns
    second = sepclip("separate", tiny_run, tmp_path / "in", "--out", out)
    assert second.returncode == 0
    assert "2 files already separated" in second.stderr
    assert (out / results[0]).stat().st_mtime_ns == stamp
    assert sepclip("separate", tiny_run, tmp_path / "in", "--out", out, "--overwrite").returncode == 0
    assert (out / results[0]).stat().st_mtime_ns > stamp


def test_bad_files_are_reported_and_good_files_separated(tiny_run: Path, tmp_path: Path) -> None:
    files = tmp_path / "in"
    files.mkdir()
    soundfile.write(files / "good.wav", speech(0.5), RATE)
    soundfile.write(files / "nan.wav", np.full(4000, np.nan, np.float32), RATE, subtype="FLOAT")
    (files / "text.wav").write_text("these are words\n" * 20)
    (files / "cut.wav").write_bytes((files / "good.wav").read_bytes()[:2000])
    result = sepclip("separate", tiny_run, files, tmp_path / "missing.wav", "--out", tmp_path / "out")
    assert_told(
        result,
        *("3 inputs", "nan.wav: contains NaN", "text.wav: not readable", "no such file"),
        "cut.wav: truncated: its header promises 8,000 bytes of sound and the file holds 1,956 bytes (0.12 s); the "
        "0.12 s that can be read are separated",
    )
    written = sorted(path.name for path in (tmp_path / "out").glob("[!.]*"))
    assert written == ["cut_s1.wav", "cut_s2.wav", "good_s1.wav", "good_s2.wav"]
    assert soundfile.info(tmp_path / "out" / "cut_s1.wav").frames == (2000 - 44) // 2


def test_outdated_results_are_only_replaced_with_overwrite(separator, tmp_path: Path) -> None:
    path, out, device = tmp_path / "in.wav", tmp_path / "out", torch.device("cpu")
    soundfile.write(path, speech(), RATE)
    assert separate_files(separator, [path], out, device=device).written
    assert separate_files(separator, [path], out, device=device).kept
    before = (out / "in_s2.wav").stat().st_mtime - 100
    for written in (path, out / "in_s1.wav", out / "in_s2.wav"):
        os.utime(written, (before, before))
    for weights_time in (before + 10, 0.0):
        result = separate_files(separator, [path], out, device=device, weights_time=weights_time)
        assert "--overwrite replaces it" in result.failed[path]
        assert (out / "in_s2.wav").stat().st_mtime == before
        os.utime(path, (before + 10, before + 10))
    assert separate_files(separator, [path], out, device=device, options=Options(overwrite=True)).written
    os.utime(path, (0, 0))
    (out / "in_s1.wav").unlink()  # as an interruption leaves it
    assert separate_files(separator, [path], out, device=device).written


def test_results_of_another_file_or_other_options_are_reported(separator, tmp_path: Path) -> None:
    first, second, out = tmp_path / "a" / "in.wav", tmp_path / "b" / "in.wav", tmp_path / "out"
    for path in (first, second):
        path.parent.mkdir()
        soundfile.write(path, speech(), RATE)
        os.utime(path, (1, 1 + (path == second)))  # of one length, and older than all results

    def run(path: Path, *, overwrite: bool = False, **provenance: object):
        options = Options(overwrite=overwrite)
        return separate_files(
            separator, [path], out, device=torch.device("cpu"), provenance=provenance, options=options
        )

    assert run(first, run="runs/a", misi=0).written
    assert run(first, run="runs/a", misi=0).kept
    before = (out / "in_s1.wav").stat().st_mtime_ns
    for words, refused in (
        (f"made from {first}", run(second, run="runs/a", misi=0)),
        ("made by runs/a", run(first, run="runs/b", misi=0)),
        ("made with --misi 0", run(first, run="runs/a", misi=3)),
    ):
        (reason,) = refused.failed.values()
        assert words in reason
        assert "--overwrite replaces it, another --out keeps both" in reason
    assert (out / "in_s1.wav").stat().st_mtime_ns == before
    first.rename(tmp_path / "in.wav")  # the same file elsewhere
    assert run(tmp_path / "in.wav", run="runs/a", misi=0).kept
    assert run(second, run="runs/b", misi=0, overwrite=True).written
    assert run(second, run="runs/b", misi=0).kept
    with (out / FILE).open("a") as file:
        file.write('{"result": "in_s1.w')  # a kill
    assert run(second, run="runs/b", misi=0).kept


def test_wrong_dates_do_not_stop_a_second_run(separator, tmp_path: Path) -> None:
    path, out, future = tmp_path / "in.wav", tmp_path / "out", time.time() + 86400
    soundfile.write(path, speech(0.5), RATE)
    os.utime(path, (future, future))
    for provenance in (None, {"run": "a"}):
        options = Options(overwrite=True)
        run = partial(separate_files, separator, [path], out, device=torch.device("cpu"), provenance=provenance)
        assert run(options=options).written
        assert run().kept
        assert run(weights_time=future).kept
    for result in out.glob("in_*"):  # the date of the file has passed meanwhile
        os.utime(result, (0, 0))
    assert run().kept
    os.utime(path, (future + 1, future + 1))
    assert "another version" in run().failed[path]


def test_input_is_never_overwritten(separator, tmp_path: Path) -> None:
    for name in ("a.wav", "a_s1.wav"):
        soundfile.write(tmp_path / name, speech(0.5), RATE)
    before = (tmp_path / "a_s1.wav").read_bytes()
    inputs = [tmp_path / "a.wav", tmp_path / "a_s1.wav"]
    result = separate_files(separator, inputs, tmp_path, device=torch.device("cpu"))
    assert "a_s1.wav is an input too" in result.failed[inputs[0]]
    assert list(result.written) == [inputs[1]]
    assert (tmp_path / "a_s1.wav").read_bytes() == before


def test_unreadable_formats_are_reported(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "phone.m4a").touch()
    soundfile.write(tmp_path / "in" / "good.wav", speech(0.5), RATE)
    result = sepclip("separate", tiny_run, tmp_path / "in", "--out", tmp_path / "out", PATH="")  # without ffmpeg
    assert result.returncode == 0
    assert "phone.m4a: not read by libsndfile (.m4a)" in result.stderr
    alone = sepclip("separate", tiny_run, tmp_path / "in" / "phone.m4a", "--out", tmp_path / "out", PATH="")
    assert_told(alone, "phone.m4a: libsndfile does not read it: install ffmpeg")


@pytest.mark.parametrize("rate_hz", [22254, 44099])
def test_odd_rates_are_resampled(rate_hz: int, separator, tmp_path: Path, monkeypatch) -> None:
    constant_masks(separator, monkeypatch, 1.0)
    wave = 0.1 * np.sin(2 * np.pi * 440 * np.arange(5 * rate_hz) / rate_hz)
    soundfile.write(tmp_path / "odd.wav", wave, rate_hz)
    assert not separate_files(separator, [tmp_path / "odd.wav"], tmp_path / "out", device=torch.device("cpu")).failed
    result, written_rate = soundfile.read(tmp_path / "out" / "odd_s1.wav")
    assert (written_rate, len(result)) == (rate_hz, 5 * rate_hz)
    assert np.abs(result - wave)[1000:-1000].max() < 1e-3


def test_rate_too_low_for_sound_is_refused(separator, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "sensor.wav", np.zeros(100), 2)
    result = separate_files(separator, [tmp_path / "sensor.wav"], tmp_path / "out", device=torch.device("cpu"))
    assert "its rate of 2 Hz is below 1000 Hz" in result.failed[tmp_path / "sensor.wav"]


def test_wrong_arguments_are_errors(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "x.wav", speech(0.5), RATE)
    out = tmp_path / "out"
    assert_told(sepclip("separate", tiny_run, tmp_path / "empty", "--out", out), "without sound files")
    assert_told(sepclip("separate", tmp_path / "norun", tmp_path / "a", "--out", out), "no such run", "sepclip train")
    assert_told(sepclip("separate", tmp_path / "empty", tmp_path / "a", "--out", out), "is not a run")
    assert_told(sepclip("separate", tiny_run, tmp_path / "a", "--out", tmp_path / "file"), "is a file")
    assert not out.exists()
