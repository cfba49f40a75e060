"""Sound files whose header promises more or less than they hold, and the chunks and tags that may follow the sound."""

import struct
from pathlib import Path

import numpy as np
import soundfile

RATE = 8000
CONTAINERS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC")
FAULTS = ("size 0", "unknown", "too large", "wrapped")
_EXTENSIONS = {"WAVEX": "wav", "RF64": "wav"}


def wave(seconds=20.0, seed=0):
    """Return noise below a slow envelope, as 16-bit integers (T,)."""
    samples = int(seconds * RATE)
    noise = np.random.default_rng(seed).normal(0, 0.1, samples)
    return (noise * np.hanning(samples) * 32767).astype(np.int16)


def write(path, container, samples, subtype="PCM_16", rate=RATE):
    """Write a right file; returns its bytes."""
    soundfile.write(path, samples, rate, format=container, subtype=subtype)
    return path.read_bytes()


def named(folder, name, container):
    """Return the path of a file in a container."""
    return folder / f"{name}.{_EXTENSIONS.get(container, container.lower())}"


def size_field(data, container):
    """Return position, struct format and value of the size of the sound in a header."""
    at, kind = {
        "WAV": (data.find(b"data") + 4, "<I"),
        "WAVEX": (data.find(b"data") + 4, "<I"),
        "RF64": (data.find(b"ds64") + 16, "<Q"),
        "W64": (data.find(b"data\xf3\xac\xd3\x11") + 16, "<Q"),
        "AIFF": (data.find(b"SSND") + 4, ">I"),
        "AU": (8, ">I"),
        "CAF": (data.find(b"data") + 4, ">q"),
        "FLAC": (data.find(b"fLaC") + 18, ">Q"),
    }[container]
    (value,) = struct.unpack_from(kind, data, at)
    return at, kind, value


def with_fault(data, container, fault):
    """Return the bytes of a file with another size in its header."""
    at, kind, value = size_field(data, container)
    if container == "FLAC":  # the lower 36 bits
        total = value & (1 << 36) - 1
        total = {"size 0": 0, "unknown": 0, "too large": total + 16000, "wrapped": total // 3}[fault]
        new = value >> 36 << 36 | total
    else:
        unknown = {"RF64": 0xFFFFFFFFFFFFFFFF, "W64": 0x7FFFFFFFFFFFFFFF, "CAF": -1}.get(container, 0xFFFFFFFF)
        new = {"size 0": 0, "unknown": unknown, "too large": 2_000_000_000, "wrapped": value // 3 // 8 * 8}[fault]
    changed = bytearray(data)
    struct.pack_into(kind, changed, at, new)
    if container == "AIFF" and fault != "unknown":  # its other chunk states the number of samples
        struct.pack_into(">I", changed, data.find(b"COMM") + 10, max(new - 8, 0) // 2)
    return bytes(changed)


def chunk(name, content, order="<"):
    """Return a chunk of RIFF, or of IFF with ``order`` ">"."""
    return name + struct.pack(f"{order}I", len(content)) + content + bytes(len(content) % 2)


_W64 = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_LIST = chunk(b"LIST", b"INFO" + chunk(b"ISFT", b"a program of odd length 1") + chunk(b"INAM", b"a title"))
_BEXT = chunk(b"bext", b"a description".ljust(602, b"\0"))
_IXML = chunk(b"iXML", b"<BWFXML><NOTE>words</NOTE></BWFXML>")
_ID3 = b"ID3\x04\0\0" + bytes([0, 0, 7, 0x68]) + b"TIT2".ljust(1000, b"\0")
_RIFF_TAILS = {
    "LIST": _LIST,
    "id3": chunk(b"id3 ", _ID3),
    "bext and iXML": _BEXT + _IXML,
    "many": _LIST + _BEXT + _IXML + chunk(b"zzzz", b"of a maker"),
    "ID3v2": _ID3,
    "ID3v1": b"TAG".ljust(128, b"\0"),
    "zeros": bytes(3000),
    "cut LIST": _LIST[:-20],
}
TAILS = {
    **dict.fromkeys(("WAV", "WAVEX", "RF64"), _RIFF_TAILS),
    "W64": {"list": b"list" + _W64 + struct.pack("<Q", 24 + 40) + bytes(range(40))},
    "AIFF": {"NAME and ID3": chunk(b"NAME", b"a title", ">") + chunk(b"ID3 ", _ID3, ">")},
    "AU": {"ID3v1": b"TAG".ljust(128, b"\0")},
    "CAF": {"info": b"info" + struct.pack(">q", 24) + b"\0\0\0\1title\0words of sound\0"[:24].ljust(24, b"\0")},
    "FLAC": {"ID3v1": b"TAG".ljust(128, b"\0")},
}


def without_number(data):
    """Return the bytes of an MP3 without the Xing or Info frame that states its length."""
    first = data.find(b"\xff")
    # the next frame begins with the same version and layer; the table of contents before it has no such bytes
    return data[data.find(data[first : first + 2], max(data.find(b"Xing"), data.find(b"Info"))) :]


def mp3(path, samples, *, rate=16000, mode="CONSTANT", level=0.5):
    """Write a right MP3; returns its bytes."""
    soundfile.write(path, samples, rate, format="MP3", bitrate_mode=mode, compression_level=level)
    return Path(path).read_bytes()
