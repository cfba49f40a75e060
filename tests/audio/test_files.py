import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sepclip.audio.files import BadSound, find_sounds, read_sound, replace_file, write_sound, write_text
from sepclip.errors import UserError
from tests.audio.fresh import python

RAMP = np.arange(-32768, 32768, 64, dtype=np.int16)


def sound_file(path, samples=RAMP, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, 8000, **options)
    return path


def with_sizes(path, riff, data):
    """Replace the sizes in the header of a WAV file."""
    raw = bytearray(path.read_bytes())
    at = raw.index(b"data") + 4
    raw[4:8], raw[at : at + 4] = riff.to_bytes(4, "little"), data.to_bytes(4, "little")
    path.write_bytes(raw)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def reason(path):
    """Return why a sound file cannot be used."""
    with pytest.raises(BadSound) as error:
        read_sound(path)
    assert str(error.value) == f"{path}: {error.value.reason}"
    return error.value.reason


@pytest.fixture
def unprivileged():
    """Yield a folder, and drop the rights of root, who may read and write everything."""
    with tempfile.TemporaryDirectory() as name:
        folder, root = Path(name), os.geteuid() == 0
        folder.chmod(0o777)
        try:
            if root:
                os.seteuid(65534)
        except PermissionError:
            pytest.skip("this process cannot drop its rights")
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "DOUBLE"])
def test_int16_samples_survive_every_format_bit_for_bit(tmp_path, subtype):
    stereo = np.stack([RAMP, RAMP[::-1]])
    write_sound(tmp_path / "a.wav", stereo if subtype == "PCM_16" else stereo / 32768, 16000, subtype)
    sound = read_sound(tmp_path / "a.wav")
    assert (sound.rate_hz, sound.subtype, sound.samples.dtype) == (16000, subtype, np.float32)
    assert np.array_equal(sound.samples, stereo.astype(np.float32) / 32768)


@pytest.mark.parametrize("shape", [(0,), (1,), (1024,), (1, 512), (2, 512), (3, 341), (6, 0)])
def test_16_bit_wave_files_equal_those_of_libsndfile(tmp_path, shape):
    wave = RAMP[: int(np.prod(shape))].reshape(shape)
    write_sound(tmp_path / "ours.wav", wave, 44100)
    soundfile.write(tmp_path / "theirs.wav", wave.T, 44100, subtype="PCM_16")
    assert (tmp_path / "ours.wav").read_bytes() == (tmp_path / "theirs.wav").read_bytes()
    assert np.array_equal(
        soundfile.read(tmp_path / "ours.wav", dtype="int16", always_2d=True)[0].T, np.atleast_2d(wave)
    )


@pytest.mark.parametrize(
    ("start", "frames", "want"), [(0, 10, slice(0, 10)), (5, -1, slice(5, None)), (1000, 99, slice(1000, 1024))]
)
def test_read_sound_reads_part_of_a_file(tmp_path, start, frames, want):
    path = sound_file(tmp_path / "a.flac")
    assert np.array_equal(read_sound(path, start=start, frames=frames).samples[0], RAMP[want] / np.float32(32768))


def test_read_sound_returns_no_samples_beyond_the_end(tmp_path):
    assert read_sound(sound_file(tmp_path / "a.wav"), start=5000, frames=10).samples.shape == (1, 0)


@pytest.mark.parametrize("channels", [1, 2])
def test_file_without_samples_is_valid(tmp_path, channels):
    assert read_sound(sound_file(tmp_path / "a.wav", np.zeros((0, channels)))).samples.shape == (channels, 0)
    write_sound(tmp_path / "b.wav", np.zeros((channels, 0)), 8000)
    assert read_sound(tmp_path / "b.wav").samples.shape == (channels, 0)


def test_missing_file_and_folder_are_reported(tmp_path):
    assert reason(tmp_path / "a.wav") == "no such file"
    assert reason(tmp_path) == "is a folder, not a sound file"


@pytest.mark.parametrize("content", ["", "RIFF", "these are words\n" * 100])
def test_file_that_is_not_sound_is_reported(tmp_path, content):
    (tmp_path / "a.wav").write_text(content)
    assert "not a sound file" in reason(tmp_path / "a.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_reported(tmp_path, value):
    samples = np.zeros(100, np.float32)
    samples[50] = value
    assert reason(sound_file(tmp_path / "a.wav", samples, subtype="FLOAT")) == "contains NaN or infinite samples"


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.au", "a.w64", "a.caf", "a.flac", "a.mp3", "a.ogg"])
def test_truncated_file_is_reported(tmp_path, name):
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 8000)
    path = sound_file(tmp_path / name, noise)
    assert read_sound(path).samples.shape == (1, 8000)
    os.truncate(path, path.stat().st_size // 2)
    assert "truncated" in reason(path) or "damaged" in reason(path)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000], ids=["all bits", "SoX"])
def test_streamed_wav_is_read_whole(tmp_path, size):
    # as a program writes to a pipe, because it cannot go back and fill in the sizes
    path = with_sizes(sound_file(tmp_path / "a.wav"), size, size)
    assert np.array_equal(read_sound(path).samples[0], RAMP / np.float32(32768))


def test_locked_file_is_reported(unprivileged):
    sound_file(unprivileged / "a.wav").chmod(0)
    assert reason(unprivileged / "a.wav") == "no permission to read it"


def test_locked_folder_is_reported(unprivileged):
    path = sound_file(unprivileged / "locked" / "a.wav")
    path.parent.chmod(0)
    try:
        assert reason(path) == "no permission to read it"
        with pytest.raises(UserError, match="locked: no permission to read this folder"):
            find_sounds(unprivileged)
    finally:
        path.parent.chmod(0o700)


def test_sounds_are_found_and_hidden_ones_reported(tmp_path):
    names = [
        "b.WAV",
        "a/c.flac",
        "a/B/d.mp3",
        ".x.wav",
        "a/._c.flac",
        "._b.wav",
        ".trash/e.wav",
        "f.txt",
        "g.raw",
        "h.M4A",
        "wav",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    sounds, left_out = find_sounds(tmp_path)
    assert sounds == [tmp_path / name for name in ("a/B/d.mp3", "a/c.flac", "b.WAV")]
    hidden = [tmp_path / name for name in ("._b.wav", ".trash/e.wav", ".x.wav", "a/._c.flac")]
    unread = "not read by libsndfile (.m4a): convert it, ffmpeg -i NAME.m4a NAME.flac"
    assert left_out == {**dict.fromkeys(hidden, "hidden"), tmp_path / "h.M4A": unread}


def test_broadcast_and_mpeg_names_are_found_and_videos_reported(tmp_path):
    for name in ("a.bwf", "b.mp2", "c.MPGA", "d.mkv", "e.mov", "f.3gp", "g.m4b", "h.mka", "i.webm"):
        (tmp_path / name).touch()
    sounds, left_out = find_sounds(tmp_path)
    assert [path.name for path in sounds] == ["a.bwf", "b.mp2", "c.MPGA"]
    assert [path.name for path in left_out] == ["d.mkv", "e.mov", "f.3gp", "g.m4b", "h.mka", "i.webm"]


def test_a_hidden_folder_above_the_root_hides_nothing(tmp_path):
    path = sound_file(tmp_path / ".cache" / "a.wav")
    assert find_sounds(tmp_path / ".cache") == ([path], {})


def test_linked_folders_are_followed(tmp_path):
    sound_file(tmp_path / "far" / "a.wav")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "far")
    assert find_sounds(tmp_path / "root")[0] == [tmp_path / "root" / "link" / "a.wav"]


def test_a_link_to_a_folder_above_lists_no_file_twice(tmp_path):
    sound_file(tmp_path / "a" / "a.wav")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert len(find_sounds(tmp_path)[0]) == 1


def test_write_text_replaces_old_content(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "one")
    write_text(tmp_path / "new" / "a.txt", "Zürich")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "Zürich".encode()
    assert names(tmp_path / "new") == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError])
def test_failing_writer_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise error

    with pytest.raises(error):
        replace_file(path, fail)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("name", ["n" * 251 + ".wav", "語" * 83 + ".wav"], ids=["ascii", "utf-8"])
def test_any_name_that_the_file_system_takes_can_be_written(tmp_path, name):
    write_sound(tmp_path / name, RAMP, 8000)
    assert names(tmp_path) == [name]


def test_path_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"{path.name} cannot be written"):
            write_text(path, "words")
    assert names(tmp_path) == ["file", "folder"]


def test_folder_without_permission_is_reported(unprivileged):
    unprivileged.joinpath("locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match="Permission denied"):
        write_text(unprivileged / "locked" / "a.txt", "words")


@pytest.mark.parametrize("write", ["write_sound(path, np.zeros(9999), 8000)", "write_text(path, 'word' * 9999)"])
def test_full_disk_is_reported_and_keeps_the_old_file(tmp_path, write):
    (tmp_path / "a").write_text("old")
    printed = python(
        "import resource, signal, sys, numpy as np\nfrom pathlib import Path\nfrom sepclip.audio.files import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"path = Path({str(tmp_path / 'a')!r})\ntry: {write}\nexcept UserError as error: print(error)"
    )
    assert printed == f"{tmp_path / 'a'} cannot be written: File too large"
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"
