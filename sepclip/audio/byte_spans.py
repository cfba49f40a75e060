"""A sound file seen through its bytes: which of them are sound, and a file object that has only these."""

import io
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from mmap import mmap
from pathlib import Path

import soundfile

Bytes = bytes | mmap


@dataclass(frozen=True)
class RawEncoding:
    """How samples without a header are stored; ``subtype`` and ``endian`` are those of soundfile."""

    rate_hz: int
    channels: int
    subtype: str
    endian: str


@dataclass(frozen=True)
class Part:
    """A part of a file that libsndfile can open on its own.

    It is ``prefix``, a header that is right, followed by the bytes from ``start`` to ``stop`` of each span. ``raw`` is
    the encoding of a part without any header. ``samples`` is their number if libsndfile cannot know it.
    """

    spans: tuple[tuple[int, int], ...]
    prefix: bytes = b""
    raw: RawEncoding | None = None
    samples: int | None = None

    def reader(self, path: Path) -> "SpanReader":
        """Return the bytes of the part of the file at ``path`` as a file object."""
        return SpanReader(path, self)

    def open(self, reader: "SpanReader") -> "SequentialFile":
        """Open the part with libsndfile, which does not close ``reader``. Raises SoundFileError if it cannot."""
        options = {}
        if self.raw is not None:
            options = {"format": "RAW", "subtype": self.raw.subtype, "endian": self.raw.endian}
            options |= {"samplerate": self.raw.rate_hz, "channels": self.raw.channels}  # type: ignore[dict-item]
        return SequentialFile(reader, **options)


@dataclass(frozen=True)
class Scan:
    """What the bytes of a file say about the sound in it.

    ``parts`` is empty if libsndfile reads all of the sound from the file as it is. ``header_fault`` says what is wrong
    with the header although the sound is whole, ``loss`` what part of the sound is missing; both are empty if nothing
    is. ``unreadable`` says why libsndfile cannot read the sound, although its header can be read.
    """

    parts: tuple[Part, ...] = ()
    header_fault: str = ""
    loss: str = ""
    unreadable: str = ""


class SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that is read from one sample to the next.

    soundfile seeks after every read, to the sample where the file is already. An MP3 decoder then starts again in the
    middle of the stream and lacks the bits of earlier frames: the first milliseconds of every block would be wrong.
    """

    def seekable(self) -> bool:
        """Return False, so that soundfile does not seek unless :meth:`seek` is called."""
        return False


class SpanReader(io.RawIOBase):
    """The bytes of a part as a file object."""

    def __init__(self, path: Path, part: Part):
        self._file = path.open("rb")
        self._prefix, self._spans = part.prefix, part.spans
        lengths = [len(part.prefix), *(stop - start for start, stop in part.spans)]
        self._begins = [0, *accumulate(lengths)]  # of the prefix and of each span, and the end of the last
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Continue at another position, and return it."""
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._begins[-1]}[whence] + offset
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill ``buffer`` as far as there are bytes; libsndfile takes fewer for the end of the file."""
        view = memoryview(buffer).cast("B")
        count = 0
        while count < len(view) and self._at < self._begins[-1]:
            index = bisect_right(self._begins, self._at) - 1
            size = min(len(view) - count, self._begins[index + 1] - self._at)
            within = self._at - self._begins[index]
            if index == 0:
                piece = self._prefix[within : within + size]
            else:
                self._file.seek(self._spans[index - 1][0] + within)
                piece = self._file.read(size)
            if not piece:  # the file was cut while it was read
                break
            view[count : count + len(piece)] = piece
            count, self._at = count + len(piece), self._at + len(piece)
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def end_without_tags(data: Bytes, start: int) -> int:
    """Return the position behind the last byte after ``start`` that belongs to no tag: ID3v1, ID3v2, APE or Lyrics3."""
    end = len(data)
    while True:
        if end - start >= 128 and data[end - 128 : end - 125] == b"TAG":
            tag = 128
            if end - start >= 355 and data[end - 355 : end - 351] == b"TAG+":
                tag = 355
        elif data[end - 32 : end - 24] == b"APETAGEX":
            has_header = data[end - 9] & 0x80
            tag = int.from_bytes(data[end - 20 : end - 16], "little") + (32 if has_header else 0)
        elif data[end - 10 : end - 7] == b"3DI":
            tag = 20 + _syncsafe(data[end - 4 : end])
        elif data[end - 9 : end] == b"LYRICS200" and data[end - 15 : end - 9].isdigit():
            tag = 15 + int(data[end - 15 : end - 9])
        else:
            return end
        if tag <= 0 or end - tag < start:
            return end
        end -= tag


def after_tag(data: Bytes, start: int) -> int:
    """Return the position behind the ID3v1, ID3v2, APE or Lyrics3 tag at ``start``, or ``start`` if there is none."""
    head = data[start : start + 32]
    if head[:3] == b"ID3" and len(head) >= 10 and head[3] < 0xFF and head[4] < 0xFF:
        return start + 10 + _syncsafe(head[6:10]) + (10 if head[5] & 0x10 else 0)
    if head[:8] == b"APETAGEX" and len(head) == 32:
        # the size includes the footer, not the header
        return start + int.from_bytes(head[12:16], "little") + (32 if head[23] & 0x20 else 0)
    if head[:4] == b"TAG+":
        return start + 227
    if head[:3] == b"TAG":
        return start + 128
    if head[:11] == b"LYRICSBEGIN":
        found = data.find(b"LYRICS200", start)
        return found + 9 if found >= 0 else start
    return start


def _syncsafe(four: bytes) -> int:
    """Return the number in four bytes of 7 bits."""
    return sum((byte & 0x7F) << shift for byte, shift in zip(four, (21, 14, 7, 0), strict=True))
