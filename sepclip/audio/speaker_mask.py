"""The mask in the header of a WAV file that says for which loudspeakers its channels are, such as those of 5.1 sound.

WAVEFORMATEXTENSIBLE, Microsoft, mmreg.h: bit 0 is front left, 1 front right, 2 front centre, 3 low frequency, ...
"""

import struct
from pathlib import Path
from typing import BinaryIO

_EXTENSIBLE = 0xFFFE  # the tag of a format chunk with a mask
_MASK_OFFSET = 20  # of the mask in the content of the format chunk
_USUAL = {1: 0x4, 2: 0x3}  # of mono and stereo, which need no mask
_MOST_CHUNKS = 1000  # before the format chunk; more are in no honest file


def read_mask(path: Path) -> int | None:
    """Return the mask of a WAV or RF64 file; None if it has none, or says nothing that mono or stereo would not."""
    try:
        with path.open("rb") as file:
            place = _find_mask(file)
            if place is None:
                return None
            offset, channels = place
            file.seek(offset)
            (mask,) = struct.unpack("<I", file.read(4))
    except (OSError, struct.error):
        return None
    return None if channels in _USUAL and mask in (0, _USUAL[channels]) else int(mask)


def write_mask(path: Path, mask: int) -> None:
    """Set the mask of a WAV or RF64 file, if its header has room for one."""
    with path.open("r+b") as file:
        place = _find_mask(file)
        if place is not None:
            file.seek(place[0])
            file.write(struct.pack("<I", mask))


def _find_mask(file: BinaryIO) -> tuple[int, int] | None:
    """Return the offset of the mask in a file, and the number of channels; None if there is no mask."""
    kind, _, form = struct.unpack("<4sI4s", file.read(12))
    if kind not in (b"RIFF", b"RF64") or form != b"WAVE":
        return None
    for _ in range(_MOST_CHUNKS):
        name, size = struct.unpack("<4sI", file.read(8))
        start = file.tell()
        if name == b"data":
            return None
        if name == b"fmt ":
            tag, channels = struct.unpack("<HH", file.read(4))
            return (start + _MASK_OFFSET, channels) if tag == _EXTENSIBLE and size >= _MASK_OFFSET + 4 else None
        file.seek(start + size + size % 2)
    return None
