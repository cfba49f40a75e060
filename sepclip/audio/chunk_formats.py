"""The headers of WAV, RF64, W64, AIFF, AU and CAF files: where their sound is, and a right header for it.

libsndfile trusts the size in a header. If that is wrong, a WAV or W64 file is opened through a header with the right
size in front of its bytes of sound, and the others, whose samples are plain numbers, as samples without a header.
"""

import struct
from collections.abc import Iterator
from dataclasses import replace

from sepclip.audio.byte_spans import Bytes, Part, RawEncoding, Scan
from sepclip.audio.chunk_ends import (
    EndsOf,
    SoundBytes,
    caf_ends,
    find_sound_bytes,
    iff_ends,
    no_chunks,
    riff_ends,
    w64_ends,
)
from sepclip.audio.mpeg_frames import scan_mpeg

_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of the GUIDs of all chunks but the first
_LARGEST_RIFF = 0x7F000000  # bytes of sound; libsndfile takes larger sizes for placeholders
# AIFF and CAF: the types whose samples are plain numbers, and how these are stored; the rest depends on the bits
_AIFF_TYPES = {b"NONE": "big", b"twos": "big", b"sowt": "little", b"in24": "big", b"in32": "big", b"raw ": "big"}
_AIFF_FLOATS = {b"fl32": "FLOAT", b"FL32": "FLOAT", b"fl64": "DOUBLE", b"FL64": "DOUBLE"}
_LAWS = {b"ulaw": "ULAW", b"ULAW": "ULAW", b"alaw": "ALAW", b"ALAW": "ALAW"}
_AU_SUBTYPES = {1: "ULAW", 2: "PCM_S8", 3: "PCM_16", 4: "PCM_24", 5: "PCM_32", 6: "FLOAT", 7: "DOUBLE", 27: "ALAW"}
_PCM = {8: "PCM_S8", 16: "PCM_16", 24: "PCM_24", 32: "PCM_32"}
WIDTHS = dict.fromkeys(("PCM_S8", "PCM_U8", "ULAW", "ALAW"), 1)  # bytes
WIDTHS |= {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
_PLAIN = (1, 3, 6, 7, 0xFFFE)  # formats of WAVE whose samples are plain numbers
_MPEG = (0x0050, 0x0055)
# formats of WAVE that libsndfile does not read, for the message
FOREIGN = {
    0x0050: "MPEG audio",
    0x0055: "MP3",
    0x00FF: "AAC",
    0x0160: "WMA",
    0x0161: "WMA",
    0x0162: "WMA",
    0x0163: "WMA",
    0x1600: "AAC",
    0x1602: "AAC",
    0x1610: "AAC",
    0x2000: "AC-3",
    0x2001: "DTS",
    0xA106: "AAC",
    0xF1AC: "FLAC",
}
_NOT_PADDED = "its chunk {} has an odd size and no pad byte"


def scan_chunks(data: Bytes) -> Scan | None:
    """Return what the bytes of a WAV, RF64, W64, AIFF, AU or CAF file say, or None for another or an odd file."""
    head = data[:12]
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _scan_wave(data)
    if data[:16] == _W64_RIFF:
        return _scan_w64(data)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _scan_aiff(data)
    if head[:4] in (b".snd", b"dns."):
        return _scan_au(data)
    if head[:4] == b"caff":
        return _scan_caf(data)
    return None


def wave_format(data: Bytes) -> int | None:
    """Return the number of the format of the samples in a WAV or RF64 file, or None if it is not such a file."""
    if data[:4] not in (b"RIFF", b"RF64", b"BW64") or data[8:12] != b"WAVE":
        return None
    for name, start, _, _ in _walk(data, 12, riff_ends):
        if name == b"fmt ":
            number = int.from_bytes(data[start : start + 2], "little")
            return int.from_bytes(data[start + 24 : start + 26], "little") if number == 0xFFFE else number
    return None


def _walk(
    data: Bytes, position: int, ends_of: EndsOf, header: int = 8, last: bytes = b"data"
) -> Iterator[tuple[bytes, int, int, str]]:
    """Yield the name, the start and stop of the content, and the fault if any, of each chunk up to the one ``last``."""
    while position + header <= len(data):
        name, ends, fault = data[position : position + 4], ends_of(data, position), ""
        if name == last:
            yield name, position + header, -1, ""
            return
        # take the end that is followed by the name of another chunk
        following = next((end for end in ends if _is_name(data[end : end + 4])), None)
        if following is None or following <= position:
            return
        if len(ends) > 1 and following != ends[0]:
            fault = _NOT_PADDED.format(name.decode("latin-1").strip())
        yield name, position + header, min(ends), fault
        position = following


def _is_name(four: bytes) -> bool:
    return len(four) == 4 and all(32 <= byte < 127 or byte == 0xA9 for byte in four)


def _scan_wave(data: Bytes) -> Scan | None:
    order = "big" if data[:4] == b"RIFX" else "little"
    is_64 = data[:4] in (b"RF64", b"BW64")
    fmt, fault, total, sound = b"", "", -1, (0, 0)
    ends_of = iff_ends if order == "big" else riff_ends
    for name, start, stop, chunk_fault in _walk(data, 12, ends_of):
        fault = fault or chunk_fault
        if name == b"ds64":
            total = int.from_bytes(data[start + 8 : start + 16], "little")
        elif name == b"fmt ":
            fmt = data[start:stop]
        elif name == b"data":
            size = int.from_bytes(data[start - 4 : start], order)  # type: ignore[arg-type]
            sound = start, total if is_64 and size == 0xFFFFFFFF and total >= 0 else size
    if not sound[0] or len(fmt) < 16:
        return None
    number, rate_hz = (int.from_bytes(part, order) for part in (fmt[:2], fmt[4:8]))  # type: ignore[arg-type]
    block = int.from_bytes(fmt[12:14], order)  # type: ignore[arg-type]
    file_size = int.from_bytes(data[4:8], order) + 8  # type: ignore[arg-type]
    found = find_sound_bytes(
        data,
        *sound,
        ends_of,
        bytes_per_second=rate_hz * block if number in _PLAIN else 0,
        file_size_is_right=len(data) in (file_size, file_size + 1),
    )
    found = replace(found, fault=found.fault or fault)
    if number in _MPEG:
        return _scan_mpeg_within(data, found)
    return _through(found, _wave_header(fmt, found.stop - found.start, order, block))


def _scan_mpeg_within(data: Bytes, found: SoundBytes) -> Scan | None:
    """Return the scan of a WAV file of MPEG audio: its frames, since libsndfile would estimate their number."""
    result = scan_mpeg(data[found.start : found.stop])
    if result is None:
        return None
    parts = result.parts or (Part(((0, found.stop - found.start),)),)
    shifted = [tuple((start + found.start, stop + found.start) for start, stop in part.spans) for part in parts]
    return Scan(
        tuple(replace(part, spans=spans) for part, spans in zip(parts, shifted, strict=True)),
        found.fault,
        found.loss or result.loss,
    )


def _through(found: SoundBytes, prefix: bytes, raw: RawEncoding | None = None, *, always: bool = False) -> Scan:
    """Return a scan in which libsndfile reads the bytes ``found`` through another header, if the header is wrong."""
    if not found.fault and not found.loss and not always:
        return Scan()
    return Scan((Part(((found.start, found.stop),), prefix, raw),), found.fault, found.loss)


def _wave_header(fmt: bytes, size: int, order: str, block: int) -> bytes:
    """Return the header of a WAV file with ``size`` bytes of sound, or of RF64 if these are many."""
    mark = ">" if order == "big" else "<"
    chunk = b"fmt " + struct.pack(f"{mark}I", len(fmt)) + fmt + bytes(len(fmt) % 2)
    if size <= _LARGEST_RIFF or order == "big":
        riff = b"RIFX" if order == "big" else b"RIFF"
        length = struct.pack(f"{mark}I", min(4 + len(chunk) + 8 + size, 0xFFFFFFFF))
        return riff + length + b"WAVE" + chunk + b"data" + struct.pack(f"{mark}I", min(size, 0xFFFFFFFF))
    sizes = struct.pack("<QQQI", 4 + 36 + len(chunk) + 8 + size, size, size // max(block, 1), 0)
    unknown = b"\xff" * 4
    return b"RF64" + unknown + b"WAVEds64" + struct.pack("<I", len(sizes)) + sizes + chunk + b"data" + unknown


def _scan_w64(data: Bytes) -> Scan | None:
    position, fmt = 40, b""
    while position + 24 <= len(data):
        name, guid = data[position : position + 4], data[position + 4 : position + 16]
        size = int.from_bytes(data[position + 16 : position + 24], "little")
        if guid != _W64_TAIL:
            return None
        if name == b"data" and len(fmt) >= 16:
            promised = size - 24 if 24 <= size < 1 << 62 else -1
            found = find_sound_bytes(
                data, position + 24, promised, w64_ends, bytes_per_second=int.from_bytes(fmt[8:12], "little"),
                file_size_is_right=int.from_bytes(data[16:24], "little") == len(data),
            )  # fmt: skip
            block = int.from_bytes(fmt[12:14], "little")
            header = _wave_header(fmt, found.stop - found.start, "little", block)
            # libsndfile takes chunks after the sound of this format for sound
            return _through(found, header, always=found.stop < len(data))
        if size < 24:
            return None
        if name == b"fmt ":
            fmt = data[position + 24 : position + size]
        position += -(-size // 8) * 8
    return None


def _scan_aiff(data: Bytes) -> Scan | None:
    common = b""
    for name, start, stop, fault in _walk(data, 12, iff_ends, last=b"SSND"):
        if name == b"COMM":
            common = data[start:stop]
        elif name == b"SSND" and len(common) >= 18:
            channels, frames, bits = struct.unpack(">hIh", common[:8])
            raw = _aiff_encoding(common, channels, bits, is_aifc=data[8:12] == b"AIFC")
            size, offset = struct.unpack(">II", data[start - 4 : start + 4])
            width = channels * WIDTHS[raw.subtype] if raw else 0
            promised = max(size - 8 - offset, -1) if size else 0
            found = find_sound_bytes(
                data, start + 8 + offset, promised, iff_ends, bytes_per_second=width * (raw.rate_hz if raw else 0),
                file_size_is_right=int.from_bytes(data[4:8], "big") + 8 in (len(data), len(data) + 1),
            )  # fmt: skip
            held = found.stop - found.start
            # libsndfile also believes the number of frames in another chunk
            if width and frames != held // width and not found.fault and not found.loss:
                text = f"its header promises {frames:,} samples and the file holds {held // width:,}: these are used"
                found = replace(found, fault=text)
            found = replace(found, fault=found.fault or fault)
            return _through(found, b"", raw) if raw else _unless_right(found)
    return None


def _aiff_encoding(common: bytes, channels: int, bits: int, *, is_aifc: bool) -> RawEncoding | None:
    """Return how the samples are stored, or None if they are not plain numbers."""
    kind = common[18:22] if is_aifc else b"NONE"
    # an 80-bit float: 15 bits of exponent, 64 of mantissa
    exponent, mantissa = struct.unpack(">HQ", common[8:18])
    rate_hz = round(mantissa * 2.0 ** ((exponent & 0x7FFF) - 16383 - 63))
    subtype = _AIFF_FLOATS.get(kind) or _LAWS.get(kind)
    if subtype is None and kind in _AIFF_TYPES:
        subtype = "PCM_U8" if kind == b"raw " else _PCM.get(-(-bits // 8) * 8)
    if subtype is None or not 0 < channels <= 1024 or rate_hz <= 0:
        return None
    return RawEncoding(rate_hz, channels, subtype, _AIFF_TYPES.get(kind, "big").upper())


def _unless_right(found: SoundBytes) -> Scan:
    """Return the scan of coded sound: only the header says how much of it there is, so that it has to be right."""
    return Scan(loss=found.loss, unreadable=found.fault and f"{found.fault}, but only ffmpeg can count coded samples")


def _scan_au(data: Bytes) -> Scan | None:
    order = ">" if data[:4] == b".snd" else "<"
    if len(data) < 24:
        return None
    start, size, encoding, rate_hz, channels = struct.unpack(f"{order}5I", data[4:24])
    subtype = _AU_SUBTYPES.get(encoding)
    if start < 24 or not 0 < channels <= 1024 or not 0 < rate_hz < 1 << 31:
        return None
    raw = RawEncoding(rate_hz, channels, subtype, "BIG" if order == ">" else "LITTLE") if subtype else None
    width = WIDTHS[subtype] * channels if subtype else 0
    found = find_sound_bytes(data, start, size, no_chunks, bytes_per_second=width * rate_hz)
    return _through(found, b"", raw) if raw else _unless_right(found)


def _scan_caf(data: Bytes) -> Scan | None:
    raw, coded = None, False
    for name, start, _, _ in _walk(data, 8, caf_ends, header=12):
        if name == b"desc":
            rate, kind, flags, _, _, channels, bits = struct.unpack(">d4sIIIII", data[start : start + 32])
            subtype = _LAWS.get(kind)
            if kind == b"lpcm":
                subtype = {32: "FLOAT", 64: "DOUBLE"}.get(bits) if flags & 1 else _PCM.get(bits)
            coded = subtype is None
            if subtype and 0 < channels <= 1024 and 0 < rate < 1 << 31:
                raw = RawEncoding(round(rate), channels, subtype, "LITTLE" if flags & 2 else "BIG")
        elif name == b"data" and (raw or coded):
            size = int.from_bytes(data[start - 8 : start], "big", signed=True)
            width = raw.channels * WIDTHS[raw.subtype] * raw.rate_hz if raw else 0
            # four bytes that count edits come before the sound
            found = find_sound_bytes(
                data, start + 4, size - 4 if size >= 4 else min(size, 0), caf_ends, bytes_per_second=width
            )
            return _through(found, b"", raw) if raw else _unless_right(found)
    return None
