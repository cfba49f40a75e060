"""Reading, finding and writing sound files, and replacing any file atomically."""

import errno
import io
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from sepclip.audio.arrays import AnyArray, Float32
from sepclip.audio.leftovers import temporary_suffix
from sepclip.errors import UserError

# Extensions of what libsndfile reads. RAW is left out because such a file does not state its own rate.
EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *(format_name.lower() for format_name in soundfile.available_formats() if format_name != "RAW"),
        *("aif", "aifc", "oga", "opus", "wave", "snd", "sph", "nist"),
    )
)
HIDDEN = "hidden"
NOT_READ = "not read by libsndfile"
# Extensions of sound that libsndfile does not read: such files are reported, not silently ignored
UNREAD = frozenset({".m4a", ".mp4", ".aac", ".ac3", ".wma", ".ape", ".shn", ".wv", ".wv1", ".wv2", ".webm", ".amr"})
# libsndfile silently shortens a file whose header promises too many samples; only its log says so (WAV, AIFF, AU, W64)
_SIZES = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_OGG_CUT = ("lacks an end-of-stream bit", "without an End-Of-Stream flag")  # the messages for Ogg
_BLOCK = 1 << 22  # samples read at a time
WAV_HEADER = 44  # bytes before the samples in a 16-bit WAV file
_LARGEST_WAV = 0xFFFFFFFF - WAV_HEADER  # bytes; the header has 32 bits for the size
_STREAMED = 0x7F000000  # bytes; programs that write to a pipe do not know the size and put this or more


class BadSound(UserError):
    """A sound file that cannot be used; ``reason`` says why in a few words."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type["BadSound"], tuple[Path, str]]:
        """Pickle it with its own arguments: the default would call ``__init__`` with the message."""
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class Sound:
    """A sound as read: samples (C, T) in float32, their rate, and the subtype in which the file stored them."""

    samples: Float32
    rate_hz: int
    subtype: str


@dataclass(frozen=True)
class Header:
    """The header of a sound file."""

    rate_hz: int
    channels: int
    subtype: str


@contextmanager
def _open(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open a sound file; errors inside the ``with`` block are raised as BadSound."""
    try:
        if not path.is_file():
            raise BadSound(path, _missing_reason(path))
        with soundfile.SoundFile(os.fsencode(path)) as file:  # bytes, because a name need not be UTF-8
            yield file
    except PermissionError as error:
        raise BadSound(path, "no permission to read it") from error
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise BadSound(path, _unreadable_reason(path)) from error


def _missing_reason(path: Path) -> str:
    """Return why there is no regular file at ``path``."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno == errno.ENOENT:
            return "a link to a file that does not exist" if path.is_symlink() else "no such file"
        return "a loop of symbolic links" if error.errno == errno.ELOOP else (error.strerror or str(error)).lower()
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return f"is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a sound file"


def _unreadable_reason(path: Path) -> str:
    """Return why a file could not be read as sound; libsndfile does not report a lack of permission."""
    try:
        with path.open("rb"):
            return "not readable as sound (damaged, or not a sound file)"
    except PermissionError:
        return "no permission to read it"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def read_header(path: Path) -> Header:
    """Return the header of a sound file. Raises BadSound if it is missing or not a sound file."""
    with _open(path) as file:
        return Header(file.samplerate, file.channels, file.subtype)


def read_sound(path: Path, *, start: int = 0, frames: int = -1) -> Sound:
    """Return a sound file, or ``frames`` samples from ``start`` on (fewer if the file ends earlier).

    Raises BadSound if the file is missing, is not a sound file, contains NaN or infinite samples, or ends before its
    header says. A file of 0 samples is valid.
    """
    with _open(path) as file:
        rate_hz, subtype = file.samplerate, file.subtype
        blocks = list(_read_blocks(path, file, start, frames, _BLOCK))
        samples = np.concatenate(blocks, axis=1) if len(blocks) != 1 else blocks[0]  # (C, T)
    return Sound(np.ascontiguousarray(samples), rate_hz, subtype)


def stream_sound(path: Path, block: int, *, whole: bool = True) -> Iterator[Float32]:
    """Yield a sound file in pieces (C, T) of ``block`` samples, so that memory does not grow with its length.

    Raises BadSound as :func:`read_sound`, but only once the bad piece is reached. ``whole=False`` accepts a file that
    ends before its header says: a program that writes to a pipe cannot go back and correct the length.
    """
    with _open(path) as file:
        yield from _read_blocks(path, file, 0, -1, block, whole)


def _read_blocks(
    path: Path, file: soundfile.SoundFile, start: int, frames: int, block: int, whole: bool = True
) -> Iterator[Float32]:
    """Yield ``frames`` samples from ``start`` on, or all if -1. Memory follows the data, not what the header says."""
    expected = file.frames - start if frames < 0 else min(frames, file.frames - start)
    if start:
        file.seek(min(start, file.frames))
    count, last = 0, False
    while not last:
        size = block if frames < 0 else min(frames - count, block)
        samples = file.read(size, dtype="float32", always_2d=True).T  # (C, T)
        count += samples.shape[1]
        last = samples.shape[1] < size or count == frames
        if not np.isfinite(samples).all():
            raise BadSound(path, "contains NaN or infinite samples")
        if last and whole and (count < expected or is_truncated(file.extra_info)):
            raise BadSound(path, "truncated: it ends before its header says")
        yield samples


def is_truncated(log: str) -> bool:
    """Return whether libsndfile's log says that a WAV, AIFF, AU, W64 or Ogg file is cut short.

    Ogg states no length but marks its last page; a cut within that page is not detected.
    """
    if any(words in log for words in _OGG_CUT):
        return True
    return any(int(actual) < int(promised) < _STREAMED for promised, actual in _SIZES.findall(log))


def find_sounds(root: Path) -> tuple[list[Path], dict[Path, str]]:
    """Return the sound files below ``root``, sorted, and those left out, each with the reason.

    Formats that libsndfile does not read and hidden files are left out: names that begin with a dot, such as the
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
            if not stem or suffix not in known:
                continue
            path = folder / name
            if hidden or name.startswith("."):
                left_out[path] = HIDDEN
            elif suffix in UNREAD:
                left_out[path] = f"{NOT_READ} ({suffix}): convert it, ffmpeg -i NAME{suffix} NAME.flac"
            else:
                sounds.append(path)
    return sorted(sounds), dict(sorted(left_out.items()))


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


def mono_at_rate(samples: Float32, from_hz: int, to_hz: int) -> Float32:
    """Return the mean of the channels of ``samples`` (C, T), resampled to ``to_hz``: (T',)."""
    mono: Float32 = samples.mean(0)  # (T,)
    if from_hz == to_hz:
        return mono
    import torch  # takes a second, and a corpus with the right rate does not need it

    from sepclip.audio.resample import resample

    return resample(torch.from_numpy(mono), from_hz, to_hz).numpy()
