"""Reading, finding and writing sound files, and replacing any file in one step."""

import io
import os
import re
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from sepclip.errors import UserError

# What libsndfile reads, by the extensions in use; RAW is left out, for it says nothing of its own rate.
EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *(format_name.lower() for format_name in soundfile.available_formats() if format_name != "RAW"),
        *("aif", "aifc", "oga", "opus", "wave", "snd", "sph", "nist"),
    )
)
HIDDEN = "hidden"
NOT_READ = "not read by libsndfile"
# Sound that libsndfile does not read, so that it is named and not passed over
UNREAD = frozenset({".m4a", ".mp4", ".aac", ".ac3", ".wma", ".ape", ".shn", ".wv", ".wv1", ".wv2", ".webm", ".amr"})
# libsndfile shortens a file whose header promises more than is there, and says so only in its log (WAV, AIFF, AU, W64)
_SIZES = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_OGG_CUT = ("lacks an end-of-stream bit", "without an End-Of-Stream flag")  # as its log says of Ogg
_BLOCK = 1 << 22  # samples that are read at a time
WAV_HEADER = 44  # bytes before the samples in a WAV file of 16 bits
_LARGEST_WAV = 0xFFFFFFFF - WAV_HEADER  # bytes; what its header can say
_STREAMED = 0x7F000000  # bytes; programs that write to a pipe promise this much or more, for they cannot know


class BadSound(UserError):
    """A sound file that cannot be used; ``reason`` says why in a few words."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type["BadSound"], tuple[Path, str]]:
        """Come out of another process as it was raised there."""
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class Sound:
    """A sound as read: samples (C, T) in float32, their rate, and what the file stored them as."""

    samples: NDArray[np.float32]
    rate_hz: int
    subtype: str


@dataclass(frozen=True)
class Header:
    """What a sound file says of itself."""

    rate_hz: int
    channels: int
    subtype: str


@contextmanager
def _open(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open a sound file; what goes wrong within the block is told as BadSound."""
    try:
        if not path.is_file():
            raise BadSound(path, "is a folder, not a sound file" if path.is_dir() else "no such file")
        with soundfile.SoundFile(path) as file:
            yield file
    except PermissionError as error:
        raise BadSound(path, "no permission to read it") from error
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise BadSound(path, _why_not(path)) from error


def _why_not(path: Path) -> str:
    """Return why a file could not be read as sound; libsndfile does not say that it was not allowed to."""
    try:
        with path.open("rb"):
            return "not readable as sound (damaged, or not a sound file)"
    except PermissionError:
        return "no permission to read it"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def read_header(path: Path) -> Header:
    """Read what a sound file says of itself; BadSound where it is missing or no sound."""
    with _open(path) as file:
        return Header(file.samplerate, file.channels, file.subtype)


def read_sound(path: Path, *, start: int = 0, frames: int = -1) -> Sound:
    """Read a sound file, or ``frames`` samples of it from ``start`` on (fewer where it ends before).

    Raises BadSound when it is missing, no sound, holds NaN or infinite samples, or ends before its header says.
    A file of 0 samples is read as such.
    """
    with _open(path) as file:
        rate_hz, subtype = file.samplerate, file.subtype
        blocks = list(_read_blocks(path, file, start, frames, _BLOCK))
        samples = np.concatenate(blocks, axis=1) if len(blocks) != 1 else blocks[0]  # (C, T)
    return Sound(np.ascontiguousarray(samples), rate_hz, subtype)


def stream_sound(path: Path, block: int, *, whole: bool = True) -> Iterator[NDArray[np.float32]]:
    """Read a sound file in pieces (C, T) of ``block`` samples, so that memory does not grow with its length.

    Raises BadSound as :func:`read_sound`, once the piece is reached that is wrong. With ``whole`` False what is there
    is taken for all: a program that wrote to a pipe could not go back to put the length right.
    """
    with _open(path) as file:
        yield from _read_blocks(path, file, 0, -1, block, whole)


def _read_blocks(
    path: Path, file: soundfile.SoundFile, start: int, frames: int, block: int, whole: bool = True
) -> Iterator[NDArray[np.float32]]:
    """Yield ``frames`` samples from ``start`` on, all for -1, so that memory follows what is there, not a header."""
    wanted = file.frames - start if frames < 0 else min(frames, file.frames - start)
    if start:
        file.seek(min(start, file.frames))
    found, last = 0, False
    while not last:
        most = block if frames < 0 else min(frames - found, block)
        samples = file.read(most, dtype="float32", always_2d=True).T
        found += samples.shape[1]
        last = samples.shape[1] < most or found == frames
        if not np.isfinite(samples).all():
            raise BadSound(path, "holds NaN or infinite samples")
        if last and whole and (found < wanted or is_truncated(file.extra_info)):
            raise BadSound(path, "truncated: it ends before its header says")
        yield samples


def is_truncated(log: str) -> bool:
    """Tell from libsndfile's log whether the samples of a WAV, AIFF, AU, W64 or Ogg file are cut short.

    Ogg promises no length but marks its last page; a cut within that page cannot be told.
    """
    if any(words in log for words in _OGG_CUT):
        return True
    return any(int(there) < int(promised) < _STREAMED for promised, there in _SIZES.findall(log))


def find_sounds(root: Path) -> tuple[list[Path], dict[Path, str]]:
    """Return the sound files below ``root``, sorted, and those left out, each with the reason.

    Left out are formats that libsndfile does not read, and hidden files: a name that begins with a dot, such as the
    ``._name`` twins that macOS leaves in archives. Links are followed, but not to a folder that they lie in. Raises
    UserError for a folder that may not be read.
    """
    found: list[Path] = []
    left_out: dict[Path, str] = {}
    known = EXTENSIONS | UNREAD
    ways = {root: frozenset({root.resolve()})}  # the real folders on the way to each
    for name_of_folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        folder = Path(name_of_folder)
        way = ways.pop(folder)
        hidden = any(part.startswith(".") for part in folder.relative_to(root).parts)
        for name in list(folders):
            real = (folder / name).resolve()
            if real in way:
                folders.remove(name)
            else:
                ways[folder / name] = way | {real}
        for name in names:
            stem, _, extension = name.rpartition(".")
            suffix = f".{extension.lower()}"
            if not stem or suffix not in known:
                continue
            path = folder / name
            if hidden or name.startswith("."):
                left_out[path] = HIDDEN
            elif suffix in UNREAD:
                left_out[path] = f"{NOT_READ} ({suffix}): convert it, ffmpeg -i NAME{suffix} NAME.flac"
            else:
                found.append(path)
    return sorted(found), dict(sorted(left_out.items()))


def name_below(path: Path, root: Path) -> str:
    """Return the path of a file below ``root`` with slashes; a byte that is no UTF-8 is written as an escape."""
    return path.relative_to(root).as_posix().encode(errors="backslashreplace").decode()


def _refuse(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise UserError(f"{error.filename}: no permission to read this folder") from error


def replace_file(path: Path, write: Callable[[Path], object], *, flush: bool = True) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in its place in one step.

    A reader sees the old file or the new one, never half of it. ``flush`` brings it to the disk first. Raises
    UserError when the disk is full or the folder cannot be written.
    """
    start = path.name.encode(errors="ignore")[:80].decode(errors="ignore")  # a name has 255 bytes at most
    temporary = path.with_name(f".{start}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        if not path.parent.is_dir():  # asked first, for of a thousand waves all but one find it
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
    """Write a UTF-8 text file in one step."""
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_sound(
    path: Path, samples: NDArray[np.generic], rate_hz: int, subtype: str = "PCM_16", *, flush: bool = True
) -> None:
    """Write ``samples`` (C, T) or (T,) as WAV in one step; int16 samples are stored bit for bit."""
    # encoded in memory first, for libsndfile does not say why a write failed, and the disk may be full
    if samples.dtype == np.int16 and subtype == "PCM_16" and samples.nbytes <= _LARGEST_WAV:
        encoded = _wav_16(samples, rate_hz)
    else:
        memory = io.BytesIO()
        soundfile.write(memory, samples.T, rate_hz, subtype=subtype, format="WAV")
        encoded = memory.getbuffer()
    replace_file(path, lambda temporary: temporary.write_bytes(encoded), flush=flush)


def _wav_16(samples: NDArray[np.generic], rate_hz: int) -> memoryview:
    """Return ``samples`` (C, T) or (T,) of 16 bits as a WAV file, byte for byte as libsndfile makes it.

    There is nothing to convert, and libsndfile takes several times as long to write into memory.
    """
    channels = 1 if samples.ndim == 1 else len(samples)
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", WAV_HEADER - 8 + samples.nbytes, b"WAVE"),
        *(b"fmt ", 16, 1, channels, rate_hz, 2 * channels * rate_hz, 2 * channels, 16),
        *(b"data", samples.nbytes),
    )
    return memoryview(header + samples.T.astype("<i2", copy=False).tobytes())


def mono_at_rate(samples: NDArray[np.float32], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    """Average the channels of ``samples`` (C, T) and resample: (T',)."""
    mono: NDArray[np.float32] = samples.mean(0)
    if from_hz == to_hz:
        return mono
    import torch  # a second of start-up that a corpus of the right rate does not need

    from sepclip.audio.resample import resample

    return resample(torch.from_numpy(mono), from_hz, to_hz).numpy()
