"""The number of samples in a FLAC file, from the number in the header of its last frame.

Only the header of the file and its end are read, a few times the size of a frame. Source: RFC 9639.
"""

import struct
from dataclasses import dataclass

from sepclip.audio.byte_spans import Bytes, Part, Scan, after_tag, end_without_tags

_LEAST_TAIL, _MOST_TAIL = 1 << 16, 1 << 25  # bytes at the end that are searched for the last frame


@dataclass(frozen=True)
class _Stream:
    """The STREAMINFO block: where it is, and what the header of every frame has to agree with."""

    start: int  # of the block's content
    audio: int  # position of the first frame
    block_size: int  # samples in a frame if all have as many, else 0
    largest_block: int
    largest_frame: int  # bytes; 0 if unknown
    rate_hz: int
    channels: int
    bits: int
    total: int  # samples; 0 if unknown


def scan_flac(data: Bytes) -> Scan | None:
    """Return what the bytes of a FLAC file say, or None for another file."""
    position = after_tag(data, 0)
    stream = _read_stream(data, position) if data[position : position + 4] == b"fLaC" else None
    if stream is None:
        return None
    stop = end_without_tags(data, stream.audio)
    size = max(_LEAST_TAIL, 4 * stream.largest_frame)
    while True:
        begin = max(stream.audio, stop - size)
        scan = _compare(data, stream, begin, stop)
        if scan is not None or begin == stream.audio or size > _MOST_TAIL:
            break
        size *= 8
    if scan is not None:
        return scan
    if stop == stream.audio:
        return Scan() if not stream.total else _result(data, stream, 0, stop, is_whole=False)
    return None  # no frame to be seen: libsndfile says what is wrong


def _compare(data: Bytes, stream: _Stream, begin: int, stop: int) -> Scan | None:
    """Return a scan from the last frame between ``begin`` and ``stop``, or None if there is none."""
    last: int | None = None  # samples before the last header that looks like one
    at = stop
    while (at := data.rfind(b"\xff", begin, at)) >= 0:
        header = _frame_header(data, at, stream)
        if header is None:
            continue
        first, samples = header
        if stream.total and first + samples == stream.total:
            return Scan()
        if _crc16(data[at : stop - 2]) == int.from_bytes(data[stop - 2 : stop], "big"):
            return _result(data, stream, first + samples, stop, is_whole=True)
        last = first if last is None else last
        if stop - at > max(2 * stream.largest_frame, _LEAST_TAIL):
            break
    # the end is not the end of a frame, so the file was cut within its last one
    return None if last is None else _result(data, stream, last, stop, is_whole=False)


def _result(data: Bytes, stream: _Stream, samples: int, stop: int, *, is_whole: bool) -> Scan:
    """Return the scan of a file with ``samples`` samples, the number of which replaces the one in its header."""
    header = bytearray(data[stream.start - 8 : stream.audio])
    number = int.from_bytes(header[18:26], "big") >> 36 << 36 | samples
    header[18:26] = number.to_bytes(8, "big")
    parts = (Part(((stream.audio, stop),), bytes(header)),)
    held = f"{samples:,} samples ({samples / stream.rate_hz:.2f} s)"
    if not is_whole and stream.total:
        return Scan(parts, loss=f"truncated: its header promises {stream.total:,} samples and the file holds {held}")
    if not stream.total:
        return Scan(parts, f"its header does not state the length: all {held} are used")
    return Scan(parts, f"its header promises {stream.total:,} samples and the file holds {held}: these are used")


def _read_stream(data: Bytes, position: int) -> _Stream | None:
    """Return the STREAMINFO of the file whose mark is at ``position``, or None if it is damaged."""
    start = position + 8
    if data[position + 4] & 0x7F or len(data) < start + 34:
        return None
    least, most, _, largest = struct.unpack(">HH3s3s", data[start : start + 10])
    packed = int.from_bytes(data[start + 10 : start + 18], "big")
    # the other blocks of metadata
    at, is_last = position + 4, False
    while not is_last:
        if at + 4 > len(data):
            return None
        is_last = bool(data[at] & 0x80)
        at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")
    rate_hz, channels, bits = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    if at > len(data) or not rate_hz:
        return None
    block = least if least == most else 0
    return _Stream(
        start, at, block, most, int.from_bytes(largest, "big"), rate_hz, channels, bits, packed & (1 << 36) - 1
    )


def _frame_header(data: Bytes, at: int, stream: _Stream) -> tuple[int, int] | None:
    """Return the first sample and the samples of the frame at ``at``, or None if there is no header of this stream."""
    head = data[at : at + 16]
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    block_code, channel_code, bits_code = head[2] >> 4, head[3] >> 4, head[3] >> 1 & 7
    channels = channel_code + 1 if channel_code < 8 else 2
    bits = {0: stream.bits, 1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}.get(bits_code)
    if block_code == 0 or head[2] & 15 == 15 or channel_code > 10 or (channels, bits) != (stream.channels, stream.bits):
        return None
    number, used = _coded_number(head[4:])
    if number is None:
        return None
    end = 4 + used
    # the samples in the frame, and the optional bytes of size and rate
    if block_code in (6, 7):
        extra = block_code - 5
        samples, end = int.from_bytes(head[end : end + extra], "big") + 1, end + extra
    else:
        samples = 192 if block_code == 1 else 576 << block_code - 2 if block_code < 6 else 256 << block_code - 8
    end += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if end >= len(head) or _crc8(head[:end]) != head[end] or samples > max(stream.largest_block, 1):
        return None
    is_variable = head[1] & 1
    return (number if is_variable else number * (stream.block_size or stream.largest_block)), samples


def _coded_number(coded: bytes) -> tuple[int | None, int]:
    """Return a number in the coding of UTF-8, extended to 36 bits, and its bytes; None if it is damaged."""
    first = coded[0]
    if first < 0x80:
        return first, 1
    count = 8 - (first ^ 0xFF).bit_length()  # leading ones
    if not 2 <= count <= 7 or len(coded) < count:
        return None, 0
    number = first & (0x7F >> count)
    for byte in coded[1:count]:
        if byte & 0xC0 != 0x80:
            return None, 0
        number = number << 6 | byte & 0x3F
    return number, count


def _table(polynomial: int, bits: int) -> list[int]:
    """Return the remainders of all bytes, for a CRC of so many bits."""
    table = []
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> bits - 1 & 1 else 0)
        table.append(value & (1 << bits) - 1)
    return table


_CRC8, _CRC16 = _table(0x07, 8), _table(0x8005, 16)


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value = _CRC8[value ^ byte]
    return value


def _crc16(data: bytes) -> int:
    value = 0
    for byte in data:
        value = value << 8 & 0xFFFF ^ _CRC16[value >> 8 ^ byte]
    return value
