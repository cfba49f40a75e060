"""What files hold whose header promises more, less or nothing: the whole sound, and one sentence on the header."""

import os
import shutil
import struct
import subprocess

import numpy as np
import pytest
import soundfile

from sepclip.audio.extent import scan
from sepclip.audio.files import BadSound, read_header, read_sound, stream_sound
from tests.audio.wrong_lengths import (
    CONTAINERS,
    FAULTS,
    RATE,
    TAILS,
    chunk,
    mp3,
    named,
    size_field,
    wave,
    with_fault,
    without_number,
    write,
)

SAMPLES = wave(3)
SCALED = SAMPLES / np.float32(32768)


def of(folder, name, container, data):
    path = named(folder, name, container)
    path.write_bytes(data)
    return path


def assert_holds(path, expected, *, fault):
    """Assert that a file is measured and read as ``expected`` (T,), and whether its header is called wrong."""
    header, sound = read_header(path), read_sound(path)
    assert (header.samples, header.loss, bool(header.header_fault)) == (len(expected), "", fault), header
    assert sound.header_fault == header.header_fault
    assert np.array_equal(sound.samples[0], expected)
    middle = read_sound(path, start=len(expected) // 2, frames=100).samples[0]
    assert np.array_equal(middle, expected[len(expected) // 2 :][:100])


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_whole_sound_is_read_if_the_header_is_wrong(tmp_path, container, fault):
    data = write(named(tmp_path, "right", container), container, SAMPLES)
    assert_holds(named(tmp_path, "right", container), SCALED, fault=False)
    assert_holds(of(tmp_path, "wrong", container, with_fault(data, container, fault)), SCALED, fault=True)


@pytest.mark.parametrize(("container", "tail"), [(name, tail) for name in CONTAINERS for tail in TAILS[name]])
def test_chunks_and_tags_after_the_sound_are_never_sound(tmp_path, container, tail):
    data = write(named(tmp_path, "right", container), container, SAMPLES) + TAILS[container][tail]
    assert_holds(of(tmp_path, "tail", container, data), SCALED, fault=False)
    if tail in ("zeros", "cut LIST"):
        return  # only a right header tells these from sound
    for fault in FAULTS:
        wrong = with_fault(data, container, fault)
        assert_holds(of(tmp_path, fault.replace(" ", ""), container, wrong), SCALED, fault=True)


@pytest.mark.parametrize("container", [name for name in CONTAINERS if name not in ("AU", "FLAC")])
@pytest.mark.parametrize("subtype", ["PCM_24", "FLOAT", "ULAW"])
def test_other_sample_formats_are_read_through_another_header(tmp_path, container, subtype):
    data = write(named(tmp_path, "right", container), container, SAMPLES, subtype)
    expected = read_sound(named(tmp_path, "right", container))
    for fault in FAULTS[:3]:
        path = of(tmp_path, fault.replace(" ", ""), container, with_fault(data, container, fault))
        sound = read_sound(path)
        assert sound.header_fault
        assert (sound.subtype, sound.rate_hz) == (expected.subtype, RATE)
        assert np.array_equal(sound.samples, expected.samples)


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610"])
@pytest.mark.parametrize("fault", FAULTS[:3])
def test_coded_wav_of_a_killed_recorder_is_read_whole(tmp_path, subtype, fault):
    data = write(tmp_path / "right.wav", "WAV", SAMPLES, subtype)
    (tmp_path / "wrong.wav").write_bytes(with_fault(data, "WAV", fault))
    right, wrong = read_sound(tmp_path / "right.wav"), read_sound(tmp_path / "wrong.wav")
    shorter = min(right.samples.shape[1], wrong.samples.shape[1])
    assert (
        abs(right.samples.shape[1] - wrong.samples.shape[1]) < 1200
    )  # a block; only the right header says where it ends
    assert np.array_equal(right.samples[:, :shorter], wrong.samples[:, :shorter])


@pytest.mark.parametrize("excess", [2, 8, 36, 44])
def test_size_that_includes_the_header_is_no_truncation(tmp_path, excess):
    data = bytearray(write(tmp_path / "a.wav", "WAV", SAMPLES))
    at, kind, value = size_field(data, "WAV")
    struct.pack_into(kind, data, at, value + excess)
    for name, tail in (("bare", b""), ("list", TAILS["WAV"]["LIST"])):
        (tmp_path / f"{name}.wav").write_bytes(bytes(data) + tail)
        assert_holds(tmp_path / f"{name}.wav", SCALED, fault=True)


def test_chunk_that_the_size_includes_is_no_sound(tmp_path):
    data = bytearray(write(tmp_path / "a.wav", "WAV", SAMPLES))
    at, kind, value = size_field(data, "WAV")
    struct.pack_into(kind, data, at, value + len(TAILS["WAV"]["LIST"]))
    (tmp_path / "a.wav").write_bytes(bytes(data) + TAILS["WAV"]["LIST"])
    assert_holds(tmp_path / "a.wav", SCALED, fault=True)


@pytest.mark.parametrize("place", ["before", "after"])
def test_odd_chunk_without_a_pad_byte_is_passed_over(tmp_path, place):
    data, odd = write(tmp_path / "a.wav", "WAV", SAMPLES), b"junk" + struct.pack("<I", 3) + b"odd"
    at = data.find(b"data") if place == "before" else len(data)
    rest = b"" if place == "before" else TAILS["WAV"]["LIST"]
    (tmp_path / "a.wav").write_bytes(data[:at] + odd + data[at:] + rest)
    assert_holds(tmp_path / "a.wav", SCALED, fault=place == "before")
    if place == "before":
        assert "chunk junk has an odd size and no pad byte" in read_header(tmp_path / "a.wav").header_fault


@pytest.mark.parametrize("container", ["WAV", "W64", "AIFF", "AU", "CAF", "RF64"])
def test_size_that_wrapped_at_4_gib_gives_all_samples(tmp_path, container):
    path = named(tmp_path, "large", container)
    data = write(path, container, SAMPLES)
    with path.open("r+b") as file:  # a hole of 4 GiB before the last half of the sound
        file.seek(2**32 + len(data) - 24000)
        file.write(data[-24000:])
    header = read_header(path)
    assert header.header_fault
    assert header.samples == len(SAMPLES) + 2**31
    assert np.array_equal(read_sound(path, start=header.samples - 12000).samples[0], SCALED[-12000:])
    assert np.array_equal(read_sound(path, frames=12000).samples[0], SCALED[:12000])


def test_empty_file_stays_empty(tmp_path):
    for container in CONTAINERS[:-1]:  # libsndfile does not open an empty FLAC
        path = named(tmp_path, container, container)
        write(path, container, SAMPLES[:0])
        assert read_header(path).samples == 0
        if container in ("WAV", "RF64"):
            path.write_bytes(path.read_bytes() + TAILS["WAV"]["many"])
            assert_holds(path, SCALED[:0], fault=False)


@pytest.mark.parametrize("container", [*CONTAINERS, "OGG", "MP3"])
def test_truncated_file_is_measured_and_read_only_as_far_as_it_goes(tmp_path, container):
    path = named(tmp_path, "a", container)
    samples = wave(20)  # the pages of Ogg have up to 4 s
    soundfile.write(path, samples, RATE, format=container)
    whole = read_sound(path).samples
    os.truncate(path, path.stat().st_size // 2 + 1)
    header = read_header(path)
    assert header.loss.startswith("truncated")
    with pytest.raises(BadSound, match="truncated"):
        read_sound(path)
    part = np.concatenate(list(stream_sound(path, 5000, whole=False)), 1)
    assert 0.3 * len(samples) < part.shape[1] < 0.7 * len(samples)
    assert np.abs(part - whole[:, : part.shape[1]])[:, :-2000].max() < 1e-6


@pytest.mark.parametrize(("mode", "order"), [("CONSTANT", 1), ("VARIABLE", 1), ("VARIABLE", -1)])
@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("tail", [b"", b"TAG".ljust(128, b"\0"), b"APETAGEX" + bytes(4000)])
def test_mp3_without_a_number_of_frames_is_read_whole(tmp_path, mode, order, rate, tail):
    noise = np.random.default_rng(0).normal(0, 0.2, 4 * rate)
    tone = 0.3 * np.sin(np.arange(4 * rate) * 0.1)
    samples = np.concatenate([tone, noise][::order])
    data = without_number(mp3(tmp_path / "right.mp3", samples, rate=rate, mode=mode))
    path = tmp_path / "a.mp3"
    path.write_bytes(data + tail)
    header, sound = read_header(path), read_sound(path).samples[0]
    assert "does not state the length" in header.header_fault
    assert not header.loss
    # the encoder and the decoder add about a tenth of a second
    assert len(samples) <= header.samples == len(sound) <= len(samples) + 0.1 * rate
    right = read_sound(tmp_path / "right.mp3").samples[0]
    delay = 576 + 529  # of the encoder and the decoder, which only the frame that is missing could state
    assert np.abs(sound[delay : delay + len(right)] - right).max() < 1e-4
    assert np.array_equal(np.concatenate(list(stream_sound(path, 7001)), 1)[0], sound)


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("has_number", [True, False])
def test_mp3_from_its_middle_equals_the_whole(tmp_path, mode, has_number):
    samples = np.concatenate([wave(4), wave(4, 1) // 64, wave(4, 2)]) / 32768
    data = mp3(tmp_path / "a.mp3", samples, mode=mode, rate=24000)
    if not has_number:
        (tmp_path / "a.mp3").write_bytes(without_number(data))
    whole = read_sound(tmp_path / "a.mp3").samples
    for start in (1, 577, 20000, 50001, whole.shape[1] - 300):
        part = read_sound(tmp_path / "a.mp3", start=start, frames=3000).samples
        assert np.abs(part - whole[:, start : start + 3000]).max() < 1e-6


def test_joined_mp3_files_are_read_whole(tmp_path):
    first, second = mp3(tmp_path / "1.mp3", wave(3) / 32768), mp3(tmp_path / "2.mp3", wave(4, 1) / 32768)
    expected = np.concatenate([read_sound(tmp_path / f"{n}.mp3").samples for n in (1, 2)], 1)
    for name, between in (("bare", b""), ("tags", b"TAG".ljust(128, b"\0") + TAILS["WAV"]["ID3v2"])):
        path = tmp_path / f"{name}.mp3"
        path.write_bytes(first + between + second)
        assert "2 streams one after the other" in read_header(path).header_fault
        assert np.array_equal(read_sound(path).samples, expected)
        assert np.abs(read_sound(path, start=40000, frames=20000).samples - expected[:, 40000:60000]).max() < 1e-6
    (tmp_path / "bare.mp3").write_bytes(without_number(first) + without_number(second))
    assert read_header(tmp_path / "bare.mp3").samples == pytest.approx(expected.shape[1], abs=4000)
    other = mp3(tmp_path / "3.mp3", wave(3) / 32768, rate=22050)
    (tmp_path / "bare.mp3").write_bytes(first + other)
    with pytest.raises(BadSound, match=r"different rates or channels \(1 x 16000 Hz, 1 x 22050 Hz\)"):
        read_sound(tmp_path / "bare.mp3")


@pytest.mark.parametrize("fault", [None, "size 0"])
def test_mp3_in_a_wav_file_is_read_whole(tmp_path, fault):
    data = without_number(mp3(tmp_path / "a.mp3", wave(4) / 32768, rate=44100))
    (tmp_path / "a.mp3").write_bytes(data)
    expected = read_sound(tmp_path / "a.mp3").samples[0]
    fmt = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 44100, 8000, 1, 0, 12, 1, 2, 417, 1, 0)
    body = b"WAVE" + chunk(b"fmt ", fmt) + chunk(b"data", data) + TAILS["WAV"]["LIST"]
    content = b"RIFF" + struct.pack("<I", len(body)) + body
    (tmp_path / "a.wav").write_bytes(with_fault(content, "WAV", fault) if fault else content)
    assert_holds_nearly(tmp_path / "a.wav", expected, fault=fault is not None)


def test_damage_in_an_mp3_is_named_with_its_place(tmp_path):
    data = mp3(tmp_path / "right.mp3", wave(20) / 32768)
    middle = len(data) // 2
    path = tmp_path / "damaged.mp3"
    path.write_bytes(data[:middle] + bytes(3000) + data[middle + 3000 :])
    header = read_header(path)
    assert "damaged" in header.loss
    assert "bytes are no MPEG frames, the first at 0:" in header.loss
    with pytest.raises(BadSound, match="no MPEG frames, the first at 0:"):
        read_sound(path)
    part = np.concatenate(list(stream_sound(path, 5000, whole=False)), 1)
    assert part.shape[1] > 0.8 * read_header(tmp_path / "right.mp3").samples


def test_number_of_a_vbri_frame_and_bytes_before_an_mp3_are_understood(tmp_path):
    data = without_number(mp3(tmp_path / "a.mp3", wave(4) / 32768, rate=44100))
    frames = read_header_of(tmp_path / "plain.mp3", data).samples // 1152
    size = 417  # of a frame of 128 kbit/s at 44.1 kHz
    head = (0xFFFB90C4).to_bytes(4, "big").ljust(36, b"\0")
    for promised in (frames, frames // 2):
        tag = b"VBRI" + struct.pack(">HHHII", 1, 0, 50, len(data), promised)
        header = read_header_of(tmp_path / f"{promised}.mp3", (head + tag).ljust(size, b"\0") + data)
        assert header.samples == frames * 1152
        assert bool(header.header_fault) == (promised != frames)
    header = read_header_of(tmp_path / "junk.mp3", b"some words before" * 30 + data)
    assert header.samples == frames * 1152


def read_header_of(path, data):
    path.write_bytes(data)
    return read_header(path)


@pytest.mark.parametrize("counted", [0, 1, -1])
def test_frames_counted_in_another_way_are_no_fault(tmp_path, counted):
    data = bytearray(mp3(tmp_path / "a.mp3", wave(4) / 32768))
    at = max(data.find(b"Xing"), data.find(b"Info")) + 8
    (number,) = struct.unpack_from(">I", data, at)
    expected = read_sound(tmp_path / "a.mp3").samples
    struct.pack_into(">I", data, at, number + counted)
    header = read_header_of(tmp_path / "b.mp3", data)
    assert (header.header_fault, header.loss) == ("", "")
    samples = read_sound(tmp_path / "b.mp3").samples
    assert expected.shape[1] <= samples.shape[1] < expected.shape[1] + 1152
    assert np.array_equal(samples[:, : expected.shape[1]], expected)


def test_known_chunk_behind_the_sound_shows_that_its_size_is_right(tmp_path):
    data = write(tmp_path / "a.wav", "WAV", SAMPLES) + TAILS["WAV"]["LIST"] + b"\x01\x02 no chunk"
    (tmp_path / "a.wav").write_bytes(data)
    assert_holds(tmp_path / "a.wav", SCALED, fault=False)


def test_right_mp3_with_tags_has_no_fault(tmp_path):
    data = mp3(tmp_path / "right.mp3", wave(3) / 32768)
    expected = read_sound(tmp_path / "right.mp3").samples[0]
    picture = b"ID3\x03\0\0" + bytes([0, 6, 0, 0]) + np.random.default_rng(0).bytes(6 << 14)
    for index, tagged in enumerate((picture + data, data + b"TAG".ljust(128, b"\0"), picture + data + bytes(300))):
        path = tmp_path / f"{index}.mp3"
        path.write_bytes(tagged)
        assert_holds_nearly(path, expected)


def assert_holds_nearly(path, expected, *, fault=False):
    header = read_header(path)
    assert (header.samples, bool(header.header_fault), header.loss) == (len(expected), fault, "")
    assert np.array_equal(read_sound(path).samples[0], expected)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_streams_are_read_one_after_the_other(tmp_path, subtype):
    for name, seconds in (("1", 3), ("2", 2), ("3", 1)):
        soundfile.write(tmp_path / f"{name}.ogg", wave(seconds), RATE, format="OGG", subtype=subtype)
    expected = np.concatenate([read_sound(tmp_path / f"{n}.ogg").samples for n in "123"], 1)
    path = tmp_path / "chain.ogg"
    path.write_bytes(b"".join((tmp_path / f"{n}.ogg").read_bytes() for n in "123"))
    header = read_header(path)
    assert header.samples == expected.shape[1]
    assert "3 streams" in header.header_fault
    assert np.array_equal(read_sound(path).samples, expected)
    assert np.abs(read_sound(path, start=30000, frames=5000).samples - expected[:, 30000:35000]).max() < 1e-4
    assert np.array_equal(np.concatenate(list(stream_sound(path, 7001)), 1), expected)
    assert not read_header(tmp_path / "1.ogg").header_fault


def test_causes_are_named(tmp_path):
    data = bytearray(write(tmp_path / "aac.wav", "WAV", SAMPLES))
    struct.pack_into("<H", data, data.find(b"fmt ") + 8, 0x00FF)
    (tmp_path / "aac.wav").write_bytes(data)
    with pytest.raises(BadSound, match="contains AAC, which libsndfile does not read in a WAV file"):
        read_header(tmp_path / "aac.wav")
    write(tmp_path / "slow.wav", "WAV", SAMPLES, rate=2)
    with pytest.raises(BadSound, match="its rate of 2 Hz is below 1000 Hz"):
        read_header(tmp_path / "slow.wav")


def test_right_files_are_opened_as_they_are(tmp_path):
    for container in CONTAINERS:
        path = named(tmp_path, container, container)
        write(path, container, SAMPLES)
        assert not scan(path).parts
    mp3(tmp_path / "a.mp3", wave(3) / 32768)
    assert not scan(tmp_path / "a.mp3").parts


def test_changed_file_is_measured_again(tmp_path):
    path = tmp_path / "a.wav"
    write(path, "WAV", SAMPLES)
    assert read_header(path).samples == len(SAMPLES)
    path.write_bytes(write(tmp_path / "b.wav", "WAV", SAMPLES[:1000]) + chunk(b"LIST", b"INFO"))
    assert_holds(path, SCALED[:1000], fault=False)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("rate", [44100, 48000, 22050])
def test_mp2_is_read_whole(tmp_path, rate):
    write(tmp_path / "a.wav", "WAV", wave(5), rate=rate)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-c:a", "mp2"]
    subprocess.run([*command, tmp_path / "a.mp2"], check=True, timeout=60)
    with (tmp_path / "a.mp2").open("ab") as file:
        file.write(b"TAG".ljust(128, b"\0"))
    header = read_header(tmp_path / "a.mp2")
    assert (header.samples, header.header_fault) == (-(-len(wave(5)) // 1152) * 1152, "")
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.mp2", "-f", "f32le", "-"]
    decoded = np.frombuffer(subprocess.run(command, check=True, timeout=60, capture_output=True).stdout, np.float32)
    samples = read_sound(tmp_path / "a.mp2").samples[0]
    assert len(samples) == len(decoded)
    assert np.abs(samples - decoded).max() < 1e-3
