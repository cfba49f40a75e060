"""What a sound file holds, whatever its header says: the one place where this is decided.

Three lengths can differ: what the header promises, what libsndfile reads, which trusts the header, and what is there.
:func:`scan` finds the last from the bytes of the file, without decoding them. In a file whose header agrees with its
bytes it looks at the header, and at the end of the file or the headers within it:

- WAV, RF64, W64, AIFF, AU, CAF: the headers of the chunks and the last 64 KB (``chunk_ends``)
- FLAC: the header and the last frames (``flac_frames``)
- MP3: the headers of all frames (``mpeg_frames``)
- Ogg: the headers of all pages (``ogg_pages``)

:func:`open_sound` then opens the whole sound. If the header is wrong, libsndfile gets a right one in front of the bytes
of sound. Other formats are read as libsndfile reads them.
"""

import errno
import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
import soundfile

from sepclip.audio.arrays import Float32
from sepclip.audio.bad_sound import NOT_SOUND, BadSound
from sepclip.audio.byte_spans import Bytes, Scan, SequentialFile
from sepclip.audio.chunk_formats import FOREIGN, scan_chunks, wave_format
from sepclip.audio.flac_frames import scan_flac
from sepclip.audio.mpeg_frames import scan_mpeg
from sepclip.audio.ogg_pages import scan_ogg

LEAST_RATE_HZ = 1000  # speech needs four times as much; a rate below is that of a sensor, or damage
_SCANNERS = (scan_chunks, scan_flac, scan_ogg, scan_mpeg)  # by the cost of finding out that it is another format
# the number of frames that an MP3 decoder needs before the first right one: a frame may use bits of those before it,
# 511 bytes at most, and frames of the lowest bit rate have 24
_MPEG_LEAD = 32 * 1152  # samples
# what libsndfile's log says about formats that are not scanned here
_SIZES = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_EMPTY_BYTES = 1 << 14  # a file without samples that is larger than this has sound that libsndfile does not find


@lru_cache(maxsize=1 << 16)
def _scan_version(path: Path, size: int, changed_ns: int) -> Scan:
    """Return the scan of one version of a file, which batches of training ask for again and again."""
    if not size:
        return Scan()
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        for scanner in _SCANNERS:
            try:
                result = scanner(data)
            except (struct.error, IndexError, OverflowError):  # a header that is cut
                continue
            if result is not None:
                return result
    return Scan()


def scan(path: Path) -> Scan:
    """Return what the bytes of a sound file say. Raises OSError if it cannot be read."""
    status = path.stat()
    return _scan_version(path, status.st_size, status.st_mtime_ns)


class SoundReader:
    """An open sound file: its parts as one sound of ``frames`` samples."""

    def __init__(self, path: Path, result: Scan, stack: ExitStack):
        self.path, self.header_fault, self.loss = path, result.header_fault, result.loss
        if result.unreadable:
            raise BadSound(path, result.unreadable)
        self._files: list[SequentialFile] = []
        self._lengths: list[int] = []  # samples of each
        for part in result.parts:
            reader = stack.enter_context(part.reader(path))
            file = stack.enter_context(part.open(reader))
            if part.samples is not None and file.frames < part.samples:
                raise BadSound(path, "libsndfile does not find all of its samples, which need ffmpeg")
            self._files.append(file)
            self._lengths.append(int(file.frames if part.samples is None else part.samples))
        if not result.parts:
            self._files.append(stack.enter_context(SequentialFile(os.fsencode(path))))
            self._lengths.append(int(self._files[0].frames))
        first = self._files[0]
        self.rate_hz, self.channels = int(first.samplerate), int(first.channels)
        self.subtype, self.format = str(first.subtype), str(first.format)
        self.frames = sum(self._lengths)
        self._index, self._at = 0, 0
        self._require_one_kind()
        if not result.parts and not self.loss and _is_truncated(first.extra_info):
            self.loss = "truncated: it ends before its header says"

    def _require_one_kind(self) -> None:
        kinds = dict.fromkeys((int(file.samplerate), int(file.channels)) for file in self._files)
        if len(kinds) > 1:
            listed = ", ".join(f"{channels} x {rate} Hz" for rate, channels in kinds)
            raise BadSound(self.path, f"several streams of different rates or channels ({listed}), which need ffmpeg")
        if self.rate_hz < LEAST_RATE_HZ:
            raise BadSound(self.path, f"its rate of {self.rate_hz} Hz is below {LEAST_RATE_HZ} Hz, the least for sound")
        if not self.frames and not self.loss and self.path.stat().st_size > _EMPTY_BYTES:
            size = self.path.stat().st_size
            raise BadSound(self.path, f"libsndfile finds no samples in its {size:,} bytes, which need ffmpeg")

    def seek(self, start: int) -> None:
        """Continue at the sample ``start``, or at the end if that is later."""
        self._index = 0
        while self._index < len(self._files) - 1 and start >= self._lengths[self._index]:
            start -= self._lengths[self._index]
            self._index += 1
        for file in self._files[self._index + 1 :]:
            file.seek(0)
        file = self._files[self._index]
        self._at = min(start, self._lengths[self._index])
        lead = min(self._at, _MPEG_LEAD) if self.subtype.startswith("MPEG") else 0
        file.seek(self._at - lead)
        if lead:  # decoded and dropped, so that the first sample is that of decoding from the beginning
            file.read(lead, dtype="float32")

    def read(self, frames: int) -> Float32:
        """Return the next ``frames`` samples (C, T), fewer at the end."""
        pieces: list[Float32] = []
        while True:
            file = self._files[self._index]
            size = min(frames, self._lengths[self._index] - self._at)
            piece = file.read(size, dtype="float32", always_2d=True).T  # (C, T)
            pieces.append(piece)
            self._at, frames = self._at + piece.shape[1], frames - piece.shape[1]
            if not frames or piece.shape[1] < size or self._index == len(self._files) - 1:
                break
            self._index, self._at = self._index + 1, 0
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, 1)


@contextmanager
def open_sound(path: Path) -> Iterator[SoundReader]:
    """Open a sound file; errors inside the ``with`` block are raised as BadSound."""
    try:
        if not path.is_file():
            raise BadSound(path, _missing_reason(path))
        with ExitStack() as stack:
            yield SoundReader(path, scan(path), stack)
    except PermissionError as error:
        raise BadSound(path, "no permission to read it") from error
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise BadSound(path, _unreadable_reason(path)) from error


def _is_truncated(log: str) -> bool:
    """Return whether libsndfile's log says that a file is cut short."""
    return any(int(actual) < int(promised) for promised, actual in _SIZES.findall(log))


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
        head: Bytes
        with path.open("rb") as file:
            head = file.read(1 << 16)
        number = wave_format(head)
        if number in FOREIGN:
            return f"contains {FOREIGN[number]}, which libsndfile does not read in a WAV file: it needs ffmpeg"
        loss = scan(path).loss
    except PermissionError:
        return "no permission to read it"
    except (OSError, ValueError, struct.error) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return loss or NOT_SOUND
