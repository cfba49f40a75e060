"""The frames of an MPEG audio file (MP3, MP2), counted without decoding.

The header of every frame is visited, which costs a few per cent of decoding. A Xing or Info frame at the beginning may
state the number of frames; if not, libsndfile estimates it from the first ones. If the number is missing or wrong, a
stream is opened with an Info frame in front of it that has the right one. Sources: ISO 11172-3, ISO 13818-3, the Xing
and LAME tags.
"""

import struct
from dataclasses import dataclass, field

from sepclip.audio.byte_spans import Bytes, Part, Scan, after_tag, end_without_tags

# kbit/s by (is MPEG-1, layer)
_RATES = {
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAME = 0xFFFE0C00  # bits of a header that all frames of a stream share: sync, version, layer, sampling rate
_PREFIX_RATE = 9  # index of the bit rate of the frame with the number: large enough for it in all versions
_DECODER_DELAY = 529  # samples that mpg123 drops in addition to the delay of the encoder
_MOST_UNCOUNTED = 8  # frames of MP1 and MP2 that libsndfile's estimate may lack
_BLOCK = 1 << 20  # bytes
_CONTAINERS = (b"RIFF", b"RF64", b"FORM", b"caff", b"\x1aE\xdf\xa3", b"OggS", b"fLaC")
_CHAIN = 6  # frames that have to follow one another behind bytes that are no tag
_SEARCH = 1 << 16  # bytes at the beginning that are searched for the first frame


@dataclass(frozen=True)
class _Frame:
    """The header of a frame: its bytes, samples, and where its Xing or Info tag would be."""

    size: int
    samples: int
    rate_hz: int
    layer: int
    tag: int  # offset


@dataclass
class _Stream:
    """Frames of one kind in a row: their bytes and number, and the number and bytes that a tag promises."""

    bits: int  # of the first header
    frame: _Frame
    tag: tuple[int, int] | None = None  # span of the frame with the tag, which is not in the spans
    promised: int | None = None
    is_known_tag: bool = False  # whether libsndfile reads it: a Xing or Info tag, not VBRI
    count: int = 0
    spans: list[tuple[int, int]] = field(default_factory=list)
    gaps: list[tuple[float, int]] = field(default_factory=list)  # second and bytes that are no frames
    last: int = 0  # position of the last frame
    is_partial: bool = False  # whether the file ends within a frame
    skipped: int = 0  # bytes since the last frame that are none

    @property
    def seconds(self) -> float:
        """The duration of its frames."""
        return self.count * self.frame.samples / self.frame.rate_hz

    @property
    def is_as_promised(self) -> bool:
        """Whether a Xing or Info tag states the number of frames, and there is no damage."""
        return self.is_known_tag and self.promised == self.count and not self.gaps

    @property
    def is_cut(self) -> bool:
        """Whether a tag promises more frames than there are; some encoders also count the frame of the tag."""
        return self.promised is not None and self.count < self.promised - (0 if self.is_partial else 1)

    def add(self, start: int, stop: int) -> None:
        """Add a frame; bytes skipped before it are a gap, while those at the end of a stream are not."""
        if self.skipped:
            self.gaps.append((self.seconds, self.skipped))
            self.skipped = 0
        self.count += 1
        self.last = start
        if self.spans and self.spans[-1][1] == start:
            self.spans[-1] = self.spans[-1][0], stop
        else:
            self.spans.append((start, stop))


_headers: dict[int, _Frame | None] = {}  # by the first four bytes, of which files have few different ones


def _frame(bits: int) -> _Frame | None:
    """Return what the four bytes of a header say, or None if they are none."""
    if bits not in _headers:
        if len(_headers) > 1 << 16:
            _headers.clear()
        _headers[bits] = _parse(bits)
    return _headers[bits]


def _parse(bits: int) -> _Frame | None:
    version, layer = bits >> 19 & 3, 4 - (bits >> 17 & 3)
    rate_index, kind = bits >> 12 & 15, bits >> 10 & 3
    if bits >> 21 != 0x7FF or version == 1 or layer == 4 or rate_index in (0, 15) or kind == 3 or bits & 3 == 2:
        return None
    is_mpeg1 = version == 3
    rate_hz = (44100, 48000, 32000)[kind] >> (0 if is_mpeg1 else 1 if version == 2 else 2)
    samples = 384 if layer == 1 else 576 if layer == 3 and not is_mpeg1 else 1152
    slot = 4 if layer == 1 else 1
    kbits = _RATES[is_mpeg1, layer][rate_index]
    size = (samples // 8 * kbits * 1000 // rate_hz // slot + (bits >> 9 & 1)) * slot
    is_mono = bits >> 6 & 3 == 3
    side = (17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17)
    return _Frame(size, samples, rate_hz, layer, 4 + side)


def _at(data: Bytes, at: int) -> tuple[int, _Frame | None]:
    bits = int.from_bytes(data[at : at + 4], "big")
    return bits, _frame(bits)


def scan_mpeg(data: Bytes) -> Scan | None:
    """Return what the frames of an MPEG audio file say, or None for another file."""
    start = _skip_tags(data, 0)
    found = _next_frame(data, start, min(len(data), start + _SEARCH), None)
    if found is None or (found > start and not _is_chain(data, found)):
        return None
    start, stop = found, end_without_tags(data, found)
    streams = _walk(data, start, stop)
    if not streams:
        return None
    if len(streams) == 1 and streams[0].is_as_promised:
        return Scan() if stop == len(data) else Scan((Part(((start, stop),)),))
    return _result(data, streams)


def _is_chain(data: Bytes, at: int) -> bool:
    """Return whether several frames follow one another from ``at`` on, unless the file is of another format."""
    if data[:4] in _CONTAINERS or data[4:8] == b"ftyp":
        return False
    bits, frame = _at(data, at)
    for _ in range(_CHAIN):
        following, next_frame = _at(data, at + frame.size) if frame else (0, None)
        if frame is None or next_frame is None or (following ^ bits) & _SAME:
            return False
        at, frame = at + frame.size, next_frame
    return True


def _skip_tags(data: Bytes, at: int) -> int:
    """Return the position behind the tags at ``at`` and the zeros that some programs leave behind them."""
    while (following := after_tag(data, at)) > at and following < len(data):
        at = following
    if at and data[at] == 0:
        end = min(len(data), at + _SEARCH)
        while at < end and data[at] == 0:
            at += 1
    return at


def _next_frame(data: Bytes, at: int, end: int, like: int | None) -> int | None:
    """Return the first position from ``at`` on of a header that another of its kind follows, or the end of the file."""
    while (at := data.find(b"\xff", at, end)) >= 0:
        bits, frame = _at(data, at)
        if frame is not None and (like is None or not (bits ^ like) & _SAME):
            following, next_frame = _at(data, at + frame.size)
            if at + frame.size == len(data) or (next_frame and not (following ^ bits) & _SAME):
                return at
            if after_tag(data, at + frame.size) > at + frame.size:
                return at
        at += 1
    return None


def _tag_of(data: Bytes, at: int, frame: _Frame) -> tuple[int, int] | None:
    """Return the frames and bytes that the Xing or Info tag of a frame promises, -1 if not; None without a tag."""
    if frame.layer != 3:
        return None
    tag = data[at + frame.tag : at + frame.tag + 16]
    if tag[:4] in (b"Xing", b"Info"):
        flags, first, second = struct.unpack(">3I", tag[4:16])
        frames = first if flags & 1 else -1
        return frames, (second if flags & 1 else first) if flags & 2 else -1
    if data[at + 36 : at + 40] == b"VBRI":
        size, frames = struct.unpack(">II", data[at + 46 : at + 54])
        return frames, size
    return None


def _positions(data: Bytes, start: int, stop: int) -> set[int]:
    """Return the positions of the names of tags; to look for them in each frame would double the time."""
    positions = set()
    for begin in range(start, stop, _BLOCK):
        block = data[begin : min(stop, begin + _BLOCK + 3)]  # in bytes, a search is much faster than in a map
        for name in (b"Xing", b"Info", b"VBRI"):
            at = -1
            while (at := block.find(name, at + 1)) >= 0:
                positions.add(begin + at)
    return positions


def _walk(data: Bytes, start: int, stop: int) -> list[_Stream]:
    """Return the streams of frames from ``start`` to ``stop``: a tag or another kind of frame begins a new one."""
    streams: list[_Stream] = []
    at = start
    tags = _positions(data, start, stop)
    while at + 4 <= stop:
        bits, frame = _at(data, at)
        if frame is None or (streams and (bits ^ streams[-1].bits) & _SAME and not _follows(data, at, stop)):
            # tags between joined files are skipped in silence, everything else is damage
            following = _skip_tags(data, at)
            if following == at or following > stop:
                found = _next_frame(data, at + 1, stop, streams[-1].bits if streams else None)
                following = stop if found is None else found
                if streams:
                    streams[-1].skipped += following - at
            at = following
            continue
        tag = _tag_of(data, at, frame) if at + frame.tag in tags or at + 36 in tags else None
        if at + frame.size > stop:  # cut within its last frame
            if streams:
                streams[-1].is_partial = True
            break
        if tag is not None or not streams or (bits ^ streams[-1].bits) & _SAME:
            streams.append(_Stream(bits, frame))
        if tag is not None:
            streams[-1].tag = at, at + frame.size
            streams[-1].promised = tag[0] if tag[0] >= 0 else None
            streams[-1].is_known_tag = at + frame.tag in tags
        else:
            streams[-1].add(at, at + frame.size)
        at += frame.size
    return [stream for stream in streams if stream.count]


def _follows(data: Bytes, at: int, stop: int) -> bool:
    """Return whether the frame at ``at``, of another kind than those before, is followed by one of its own kind."""
    return _next_frame(data, at, at + 1, None) == at and at < stop


def _result(data: Bytes, streams: list[_Stream]) -> Scan:
    """Return the scan of a file whose tag is wrong, or that has none, or that consists of several streams."""
    parts = tuple(_part(data, stream) for stream in streams)
    held = f"{sum(stream.seconds for stream in streams):.2f} s"
    gaps = [gap for stream in streams for gap in stream.gaps]
    first = streams[0]
    loss = fault = ""
    if gaps:
        size, second = sum(gap[1] for gap in gaps), gaps[0][0]
        loss = f"damaged: {size:,} bytes are no MPEG frames, the first at {int(second) // 60}:{second % 60:05.2f}"
    elif any(stream.is_cut for stream in streams):
        seconds = (first.promised or 0) * first.frame.samples / first.frame.rate_hz
        loss = f"truncated: its header promises {seconds:.2f} s and the file holds {held}"
    if len(streams) > 1:
        fault = f"{len(streams)} streams one after the other: all {held} of them are used"
    elif first.promised is None and first.frame.layer == 3:
        fault = f"its header does not state the length: all {held} of sound are used"
    elif first.promised is not None and first.count > first.promised + 1:
        fault = (
            f"its header promises {first.promised:,} frames and the file holds {first.count:,} ({held}): all are used"
        )
    return Scan(parts, fault, loss)


def _part(data: Bytes, stream: _Stream) -> Part:
    """Return the part of a file that has one stream."""
    spans = tuple(stream.spans)
    if stream.frame.layer == 3:
        return Part(spans, _numbered_frame(data, stream))
    # libsndfile divides the bytes by those of the first frame, and there is no frame to state another number: with the
    # last frame again and again it gets too many, of which only the right number is read
    again = ((stream.last, spans[-1][1]),) * _MOST_UNCOUNTED
    return Part(spans + again, samples=stream.count * stream.frame.samples)


def _numbered_frame(data: Bytes, stream: _Stream) -> bytes:
    """Return the frame with the number of frames and bytes of a stream: its own, corrected, or a new one."""
    size = sum(stop - start for start, stop in stream.spans)
    if stream.tag and stream.is_known_tag and stream.promised is not None:
        own = data[stream.tag[0] : stream.tag[1]]
        return own if stream.is_as_promised else _renumbered(own, stream.frame.tag, stream.count, len(own) + size)
    # the same kind of frame, without a checksum, with the number of frames and of bytes
    bits = stream.bits & ~0xF200 | 1 << 16 | _PREFIX_RATE << 12
    frame = _frame(bits)
    assert frame is not None  # since only the bit rate is another one
    tag = b"Info" + struct.pack(">3I", 3, stream.count + 1, 2 * frame.size + size)
    # with such a frame, the decoder drops its delay and the encoder's. The sum is made one frame, and a silent frame
    # comes before the others, so that no sample of theirs is dropped.
    delays = (frame.samples - _DECODER_DELAY) << 12
    tag += b"LAME".ljust(21, b"\0") + delays.to_bytes(3, "big")
    head = struct.pack(">I", bits) + bytes(frame.tag - 4)
    return (head + tag).ljust(frame.size, b"\0") + head.ljust(frame.size, b"\0")


def _renumbered(frame: bytes, tag: int, count: int, size: int) -> bytes:
    """Return a frame with another number of frames and bytes in its tag, at the offset ``tag``.

    The padding at the end of the stream, which decoders remove, is set to none, since that end is missing, or is not
    the end.
    """
    changed = bytearray(frame)
    (flags,) = struct.unpack(">I", frame[tag + 4 : tag + 8])
    changed[tag + 8 : tag + 12] = struct.pack(">I", count)
    at = tag + 12
    # the number of bytes, the table of contents and the quality, each of which may be absent
    if flags & 2:
        changed[at : at + 4] = struct.pack(">I", size)
    at += sum(length for flag, length in ((2, 4), (4, 100), (8, 4)) if flags & flag)
    delays = at + 21
    if len(changed) >= delays + 3:
        changed[delays + 1] &= 0xF0
        changed[delays + 2] = 0
    return bytes(changed)
