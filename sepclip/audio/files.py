"""Reading, finding and writing sound files, and replacing any file atomically."""

import io
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from sepclip.audio.arrays import AnyArray, Float32
from sepclip.audio.bad_sound import BadSound as BadSound  # for all that read files
from sepclip.audio.extent import SoundReader, open_sound
from sepclip.audio.leftovers import temporary_suffix
from sepclip.errors import UserError

# Extensions of what libsndfile reads. RAW is left out because such a file does not state its own rate.
EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *(format_name.lower() for format_name in soundfile.available_formats() if format_name != "RAW"),
        *("aif", "aifc", "oga", "opus", "wave", "bwf", "snd", "sph", "nist", "mp2", "mpga"),
    )
)
HIDDEN = "hidden"
NOT_READ = "not read by libsndfile"
# Extensions of sound that libsndfile does not read: such files are reported, not silently ignored
UNREAD = frozenset(
    f".{name}"
    for name in (
        *("m4a", "m4b", "aac", "ac3", "wma", "ape", "shn", "wv", "wv1", "wv2", "amr", "mka"),
        *("mp4", "webm", "mkv", "mov", "3gp"),  # videos, whose sound is used
    )
)
# the first bytes of FLAC, Ogg, AU, CAF, W64, SPHERE, MP3 with a tag, and MPEG frames of layers II and III
_SOUND_STARTS = (
    *(b"fLaC", b"OggS", b".snd", b"caff", b"riff\x2e\x91\xcf\x11", b"NIST_1A", b"ID3"),
    *(bytes([0xFF, second]) for second in (0xE2, 0xE3, 0xF2, 0xF3, 0xFA, 0xFB, 0xFC, 0xFD)),
)
_SOUND_FORMS = {(b"RIFF", b"WAVE"), (b"RIFX", b"WAVE"), (b"RF64", b"WAVE"), (b"BW64", b"WAVE")}
_SOUND_FORMS |= {(b"FORM", b"AIFF"), (b"FORM", b"AIFC")}
_BLOCK = 1 << 22  # samples read at a time
WAV_HEADER = 44  # bytes before the samples in a 16-bit WAV file
_LARGEST_WAV = 0xFFFFFFFF - WAV_HEADER  # bytes; the header has 32 bits for the size


@dataclass(frozen=True)
class Sound:
    """A sound as read: samples (C, T) in float32, their rate, and the subtype in which the file stored them.

    ``header_fault`` says what is wrong with the header of the file, if anything is.
    """

    samples: Float32
    rate_hz: int
    subtype: str
    header_fault: str = ""


@dataclass(frozen=True)
class Header:
    """What a sound file holds, measured: its header may promise more or less (:mod:`sepclip.audio.extent`).

    ``header_fault`` says what is wrong with the header of a file whose sound is whole, and ``loss`` what is missing of
    a sound that is not; both are empty if nothing is.
    """

    rate_hz: int
    channels: int
    subtype: str
    samples: int
    header_fault: str = ""
    loss: str = ""


def read_header(path: Path) -> Header:
    """Return what a sound file holds. Raises BadSound if it is missing or not a sound file."""
    with open_sound(path) as file:
        return Header(file.rate_hz, file.channels, file.subtype, file.frames, file.header_fault, file.loss)


def read_sound(path: Path, *, start: int = 0, frames: int = -1) -> Sound:
    """Return a sound file, or ``frames`` samples from ``start`` on (fewer if the file ends earlier).

    All that the file holds is read, even if its header promises more or less. Raises BadSound if the file is missing,
    is not a sound file, contains NaN or infinite samples, or is truncated or damaged. A file of 0 samples is valid.
    """
    with open_sound(path) as file:
        blocks = list(_read_blocks(file, start, frames, _BLOCK))
        samples = np.concatenate(blocks, axis=1) if len(blocks) != 1 else blocks[0]  # (C, T)
        return Sound(np.ascontiguousarray(samples), file.rate_hz, file.subtype, file.header_fault)


def stream_sound(path: Path, block: int, *, whole: bool = True) -> Iterator[Float32]:
    """Yield a sound file in pieces (C, T) of ``block`` samples, so that memory does not grow with its length.

    Raises BadSound as :func:`read_sound`, but only once the bad piece is reached. ``whole=False`` accepts a file that
    is truncated or damaged, as far as it can be read.
    """
    with open_sound(path) as file:
        yield from _read_blocks(file, 0, -1, block, whole)


def _read_blocks(file: SoundReader, start: int, frames: int, block: int, whole: bool = True) -> Iterator[Float32]:
    """Yield ``frames`` samples from ``start`` on, or all if -1. Memory follows the data, not what the header says."""
    if whole and file.loss:
        raise BadSound(file.path, file.loss)
    expected = file.frames - start if frames < 0 else min(frames, file.frames - start)
    if start:
        file.seek(start)
    count, last = 0, False
    while not last:
        size = block if frames < 0 else min(frames - count, block)
        try:
            samples = file.read(size)  # (C, T)
        except soundfile.SoundFileError:
            if whole or not count:
                raise
            return
        count += samples.shape[1]
        last = samples.shape[1] < size or count == frames
        if not np.isfinite(samples).all():
            raise BadSound(file.path, "contains NaN or infinite samples")
        if last and whole and count < expected:
            missing = f"{expected - count:,} of its {file.frames:,} samples"
            raise BadSound(file.path, f"truncated or damaged: {missing} cannot be read")
        yield samples


def find_sounds(root: Path) -> tuple[list[Path], dict[Path, str]]:
    """Return the sound files below ``root``, sorted, and those left out, each with the reason.

    A file is a sound by its extension or, with another or none, by its first bytes. Formats that libsndfile does not
    read and hidden files are left out: names that begin with a dot, such as the
    ``._name`` twins that macOS leaves in archives. Links are followed, but not to a folder that contains the link.
    Raises UserError for a folder without read permission.
    """
    sounds: list[Path] = []
    left_out: dict[Path, str] = {}
    known = EXTENSIONS | UNREAD
    ancestors = {
        root: frozenset({Path(os.path.realpath(root))})
    }  # of each folder still to visit, itself included, links resolved
    for name_of_folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        folder = Path(name_of_folder)
        above = ancestors.pop(folder)
        hidden = any(part.startswith(".") for part in folder.relative_to(root).parts)
        for name in list(folders):
            real = Path(os.path.realpath(folder / name))
            if real in above:  # a link to a folder above it: os.walk would never end
                folders.remove(name)
            else:
                ancestors[folder / name] = above | {real}
        for name in names:
            stem, _, extension = name.rpartition(".")
            suffix = f".{extension.lower()}"
            path = folder / name
            if (not stem or suffix not in known) and (hidden or name.startswith(".") or not begins_as_sound(path)):
                continue
            if hidden or name.startswith("."):
                left_out[path] = HIDDEN
            elif suffix in UNREAD:
                left_out[path] = f"{NOT_READ} ({suffix}): convert it, ffmpeg -i NAME{suffix} NAME.flac"
            else:
                sounds.append(path)
    return sorted(sounds), dict(sorted(left_out.items()))


def begins_as_sound(path: Path) -> bool:
    """Tell whether a file begins like one of a format that libsndfile recognises by its content."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:
        return False
    return start.startswith(_SOUND_STARTS) or (start[:4], start[8:]) in _SOUND_FORMS


def name_below(path: Path, root: Path) -> str:
    """Return the path of a file relative to ``root``, with slashes; bytes that are not UTF-8 become escapes."""
    return path.relative_to(root).as_posix().encode(errors="backslashreplace").decode()


def _refuse(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise UserError(f"{error.filename}: no permission to read this folder") from error


def replace_file(path: Path, write: Callable[[Path], object], *, flush: bool = True) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it to ``path``.

    A reader sees the old file or the new one, never half of it. ``flush`` writes it to the disk before the rename.
    Raises UserError if the disk is full or the folder cannot be written.
    """
    start = path.name.encode(errors="ignore")[:80].decode(errors="ignore")  # names are limited to 255 bytes
    temporary = path.with_name(f".{start}{temporary_suffix()}")
    try:
        if not path.parent.is_dir():  # cheaper than mkdir, which only the first file of a folder needs
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            if flush:
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_sound(path: Path, samples: AnyArray, rate_hz: int, subtype: str = "PCM_16", *, flush: bool = True) -> None:
    """Write ``samples`` (C, T) or (T,) as a WAV file, atomically; int16 samples are stored bit for bit."""
    # encode in memory first, because libsndfile does not say why a write failed, such as a full disk
    if samples.dtype == np.int16 and subtype == "PCM_16" and samples.nbytes <= _LARGEST_WAV:
        encoded = _wav_16(samples, rate_hz)
    else:
        memory = io.BytesIO()
        soundfile.write(memory, samples.T, rate_hz, subtype=subtype, format="WAV")
        encoded = memory.getbuffer()
    replace_file(path, lambda temporary: temporary.write_bytes(encoded), flush=flush)


def _wav_16(samples: AnyArray, rate_hz: int) -> memoryview:
    """Return 16-bit ``samples`` (C, T) or (T,) encoded as a WAV file, byte for byte as libsndfile writes it.

    There is nothing to convert, and libsndfile takes several times as long to write to memory.
    """
    channels = 1 if samples.ndim == 1 else len(samples)
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", WAV_HEADER - 8 + samples.nbytes, b"WAVE"),
        *(b"fmt ", 16, 1, channels, rate_hz, 2 * channels * rate_hz, 2 * channels, 16),
        *(b"data", samples.nbytes),
    )
    return memoryview(header + samples.T.astype("<i2", copy=False).tobytes())
