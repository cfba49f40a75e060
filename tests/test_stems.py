"""Stems of music the whole way on the command line: stereo at 44.1 kHz, each stem by its name."""

import csv
import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from sepclip.cli import app
from sepclip.errors import UserError
from tests.corpora.tracks import write

pytestmark = pytest.mark.process  # trains in this process

RATE = 44100
TRACKS = {"train": ("a", "b", "c"), "valid": ("v",), "test": ("t",)}
TINY = (
    "model.layers=1",
    "model.hidden=8",
    "model.input_norm=bins",
    "data.segment_frames=30",
    "data.batch_size=3",
    "data.excerpts=5",
    "data.valid_excerpts=2",
    "train.valid_every=60",
    "stft.window_seconds=0.02",
    "stft.hop_seconds=0.01",
    "optimizer.learning_rate=0.01",
)


def stem(name, seed, seconds):
    """Return a hum on the left for ``low``, a whistle on the right for ``high`` (T, C)."""
    chance = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    pitches = chance.uniform(*((100, 600) if name == "low" else (3000, 9000)), 4)
    wave = 0.05 * sum(np.sin(2 * np.pi * pitch * time + chance.uniform(0, 6)) for pitch in pitches)
    return wave[:, None] * ((1, 0.3) if name == "low" else (0.2, 1))


def sepclip(*arguments):
    """Run the command line in this process; returns what it printed."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    root = tmp_path_factory.mktemp("music")
    for split, names in TRACKS.items():
        for index, track in enumerate(names):
            for number, name in enumerate(("low", "high")):
                wave = stem(name, 10 * index + number, 1.2)
                write(root / split / track / f"{name}.wav", wave, RATE)
    return root


@pytest.fixture(scope="module")
def data(music, tmp_path_factory):
    out = tmp_path_factory.mktemp("sets") / "music"
    sepclip("prepare", "stems", music, out, "--stems", "low,high")
    return out


def train(data, run, *more):
    settings = [part for setting in TINY for part in ("--set", setting)]
    return sepclip("train", data, "--run", run, "--steps", 60, *settings, *more)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "music"
    assert "trained: 60 steps" in train(data, run, "--dynamic")
    return run


def test_the_run_keeps_its_window_in_samples_and_resumes(data, run):
    config = (run / "config.yaml").read_text()
    assert "window_length: 864" in config  # 441 samples are not fast, 432 = 2^4 3^3 are
    assert "hop_length: 432" in config
    assert "was already trained" in train(data, run, "--dynamic")


def test_stereo_is_separated_into_stereo_by_name(run, music, tmp_path):
    files = []
    for name in ("mono", "stereo"):
        wave = sum(stem(part, 40 + number, 1.2) for number, part in enumerate(("low", "high")))
        write(tmp_path / f"{name}.wav", wave if name == "stereo" else wave.mean(1), RATE)
        files.append(tmp_path / f"{name}.wav")
    sepclip("separate", run, *files, "--out", tmp_path / "out")
    found = {path.name: soundfile.read(path)[0] for path in (tmp_path / "out").glob("[!.]*")}
    assert set(found) == {"mono_low.wav", "mono_high.wav", "stereo_low.wav", "stereo_high.wav"}
    assert found["stereo_low.wav"].shape == (52920, 2)
    assert found["mono_low.wav"].shape == (52920,)
    for name, wave in found.items():
        levels = np.abs(np.fft.rfft(wave if wave.ndim == 1 else wave.mean(1)))
        low, high = levels[: 1200 * 1].sum(), levels[3000:].sum()  # bins of 1 / 1.2 Hz
        assert (low > 2 * high) if "low" in name else (high > 2 * low), name


def test_it_is_scored_in_the_order_of_its_stems(run, data):
    result = json.loads(sepclip("eval", run, data, "--jobs", 1, "--json"))
    assert [(row["name"], row["source"], row["voice"]) for row in result["rows"]] == [
        ("t", "low", "low"),
        ("t", "high", "high"),
    ]
    assert all(row["status"] == "ok" for row in result["rows"])
    assert result["summary"]["mean"]["si_sdr_improvement"] > 3
    with (run / "eval" / "music-tt" / "scores.csv").open() as file:
        assert [row["source"] for row in csv.DictReader(file)] == ["low", "high"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--stems", "high,low"), r"\(low, high\), 2 channels at 44100 Hz; .* \(high, low\), 2 channels"),
        (("--stems", "low,high", "--channels", "1"), r"2 channels at 44100 Hz; .* 1 channel at 44100 Hz"),
        (("--stems", "low,high", "--rate", "22050"), r"at 44100 Hz; .* at 22050 Hz"),
        (("--stems", "low"), r"2 sources in fixed order \(low, high\).*; .* has 1 source in fixed order \(low\)"),
    ],
)
def test_a_run_refuses_data_of_another_kind(run, music, options, words, tmp_path):
    sepclip("prepare", "stems", music, tmp_path / "other", *options)
    with pytest.raises(UserError, match=words):
        train(tmp_path / "other", run)
    with pytest.raises(UserError, match=words):
        sepclip("eval", run, tmp_path / "other")


def test_clusters_have_no_order_and_are_refused_before_any_work(data, tmp_path):
    with pytest.raises(
        UserError, match=r"--loss dc .* \(low, high\): choose --loss mi or chimera or snr or tsnr or si-sdr"
    ):
        train(data, tmp_path / "run", "--loss", "dc")
    assert not (tmp_path / "run" / "config.yaml").exists()
