"""MUSDB18 as `.stem.mp4`: decoded by ffmpeg, or told what to do without it."""

import shutil
import subprocess

import numpy as np
import pytest

from sepclip.audio.files import BadSound
from sepclip.audio.stem_file import STREAMS, probe_stems, read_stem
from sepclip.errors import UserError
from tests.corpora.tracks import FOUR, stems

RATE, SECONDS = 44100, 0.5
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def hum(name):
    """Return the pitch of each stem, an even number of periods."""
    return {"drums": 200, "bass": 400, "other": 800, "vocals": 1600}[name]


def encode(path, streams=STREAMS):
    """Make a stem file by ffmpeg: a hum on the left of each stream, half of it on the right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sources, maps = [], []
    for index, name in enumerate(streams):
        parts = FOUR if name == "mixture" else (name,)
        left = "+".join(f"0.1*sin(2*PI*{hum(part)}*t)" for part in parts)
        sources += ["-f", "lavfi", "-i", f"aevalsrc={left}|0.5*({left}):s={RATE}:d={SECONDS}"]
        maps += ["-map", f"{index}:a"]
    subprocess.run(
        ["ffmpeg", "-v", "error", *sources, *maps, "-c:a", "aac", "-b:a", "256k", "-f", "mp4", path],
        timeout=60,
        check=True,
    )
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("stems") / "A & B - C.stem.mp4")


@needs_ffmpeg
def test_every_stream_is_decoded_by_its_name(file):
    samples, rate_hz, channels = probe_stems(file)
    assert (rate_hz, channels) == (RATE, 2)
    assert SECONDS * RATE <= samples <= SECONDS * RATE + 1024  # the codec fills its last frame
    time = np.arange(4000, 18000) / RATE
    for name in STREAMS:
        sound = read_stem(file, name)
        assert sound.samples.shape == (2, samples)
        parts = FOUR if name == "mixture" else (name,)
        true = sum(0.1 * np.sin(2 * np.pi * hum(part) * time) for part in parts)
        assert np.abs(sound.samples[0, 4000:18000] - true).max() < 0.01
        assert np.abs(sound.samples[1, 4000:18000] - true / 2).max() < 0.01


@needs_ffmpeg
def test_a_set_is_made_of_stem_files(file, tmp_path):
    for place in ("train/a", "train/b", "test/c"):
        target = tmp_path / "music" / f"{place}.stem.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    made = stems(tmp_path / "music", tmp_path / "out")
    assert made.audio
    assert made.layout.names == FOUR
    (recipe,) = made.recipes("tt")
    assert recipe.name == "c"
    waves = made.waves("tt", recipe)
    assert waves.shape == (5, 2, recipe.length)
    assert recipe.length == probe_stems(file)[0]
    assert np.abs(waves[0].astype(int) - waves[1:].sum(0, dtype=int)).mean() < 300  # of 32768; the codec is lossy
    with pytest.raises(BadSound, match="does not have the 5 streams"):
        probe_stems(encode(tmp_path / "few.stem.mp4", STREAMS[:2]))


def test_without_ffmpeg_the_way_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for place in ("train/a", "train/b", "test/c"):
        (tmp_path / "music" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "music" / f"{place}.stem.mp4").write_bytes(b"\0")
    with pytest.raises(UserError, match=r"only ffmpeg can decode.*install ffmpeg, or use MUSDB18-HQ"):
        stems(tmp_path / "music", tmp_path / "out")
