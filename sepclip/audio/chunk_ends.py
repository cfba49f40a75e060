"""Finding the end of the sound in a file whose header gives its size in bytes: WAV, RF64, W64, AIFF, AU and CAF.

The header is right if it ends at the end of the file, or if tags or chunks follow that fill the rest of the file
exactly. That takes a look at the headers of these chunks and at the last bytes of the file. Only if the header is wrong
is the end of the file searched for chunks and tags that the sound does not include.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from sepclip.audio.byte_spans import Bytes, after_tag, end_without_tags

EndsOf = Callable[[Bytes, int], tuple[int, ...]]  # the positions where the chunk at a position may end; () if none

_TAIL = 1 << 16  # bytes at the end that are searched for chunks in every file
_FAR_TAIL = 1 << 24  # likewise in a file whose header is wrong: a picture in an ID3 tag takes megabytes
_PADDING = 1 << 16  # bytes; some recorders fill the last sector or cluster with zeros
_SLIP = 44  # bytes; writers that confuse the size of the sound with that of the file promise a header too much
# chunks that may follow the sound in WAV, W64, AIFF and CAF files
_KNOWN = re.compile(
    rb"LIST|list|id3 |ID3 |bext|iXML|axml|cue |fact|PEAK|smpl|inst|JUNK|junk|PAD |FLLR|_PMX|afsp|cart|umid|levl|acid"
    rb"|strc|minf|elm1|regn|ovwf|aXML|chna|DISP|plst|COMM|NAME|AUTH|\(c\) |ANNO|MARK|INST|MIDI|APPL|COMT|FVER|CHAN|bmrk"
    rb"|info|uuid|strg|mark|pakt|free|chan|kuki|LGWV|SMED|ResU|SAUR|Cr8r|tlst|wavl|slnt|note|labl|riff|mdat"
)
_USUAL = (b"LIST", b"id3 ", b"ID3", b"bext", b"iXML", b"axml", b"_PMX", b"info", b"NAME")  # of these, mostly
_NAME = re.compile(rb"(?=(ID3|[A-Za-z_(][A-Za-z0-9 _+.()\-\xa9]{3}))", re.DOTALL)


@dataclass(frozen=True)
class SoundBytes:
    """The bytes of sound in a file, from ``start`` to ``stop``; ``fault`` and ``loss`` as in a Scan."""

    start: int
    stop: int
    fault: str = ""
    loss: str = ""


def find_sound_bytes(
    data: Bytes,
    start: int,
    promised: int,
    ends_of: EndsOf,
    *,
    bytes_per_second: float,
    file_size_is_right: bool = False,
) -> SoundBytes:
    """Return the bytes of sound that begin at ``start``, of which the header promises ``promised`` (-1: no length).

    ``file_size_is_right``: the header states the size of the file correctly, so that it is not truncated.
    """
    there = len(data) - start
    if 0 <= promised <= there and _is_filled(data, start + promised, ends_of, may_be_padding=promised > 0):
        stop = start + promised
        if stop == len(data):  # chunks that the header counts as sound
            stop = _first_chunk(data, max(start, stop - _TAIL), ends_of, known_only=True)
        if stop == start + promised:
            return SoundBytes(start, stop)
    else:
        stop = _first_chunk(data, max(start, len(data) - _FAR_TAIL), ends_of)
    held = stop - start
    if held in (promised, promised + 1):  # only what follows the sound is not as it should be
        return SoundBytes(start, start + promised)
    second = f"{held:,} bytes ({held / bytes_per_second:.2f} s)" if bytes_per_second else f"{held:,} bytes"
    if is_placeholder(promised, held):
        return SoundBytes(start, stop, f"its header does not state the length: all {second} of sound are used")
    fault = f"its header promises {promised:,} bytes of sound and the file holds {second}"
    if promised > max(held + _SLIP, there) and not file_size_is_right:
        return SoundBytes(start, stop, loss=f"truncated: {fault}")
    return SoundBytes(start, stop, f"{fault}: these are used")


def is_placeholder(promised: int, held: int) -> bool:
    """Return whether a size is what a program writes that does not know the size, such as one that writes to a pipe.

    That is 0, all bits, or about 2 GiB, the largest signed number; or any size of a gigabyte or more of which the file
    holds less than a tenth.
    """
    return (
        promised <= 0
        or 0x7F000000 <= promised <= 0x80100000
        or 0xFFF00000 <= promised <= 0xFFFFFFFF
        or (promised >= 10**9 and held < promised / 10)
    )


def riff_ends(data: Bytes, position: int, order: str = "little") -> tuple[int, ...]:
    """Return where a chunk of RIFF, or with ``order`` "big" of IFF, may end: some writers omit the pad byte."""
    size = int.from_bytes(data[position + 4 : position + 8], order)  # type: ignore[arg-type]
    stop = position + 8 + size
    return (stop + 1, stop) if size & 1 else (stop,)


def iff_ends(data: Bytes, position: int) -> tuple[int, ...]:
    """Return where a chunk of AIFF may end."""
    return riff_ends(data, position, "big")


def caf_ends(data: Bytes, position: int) -> tuple[int, ...]:
    """Return where a chunk of CAF ends."""
    return (position + 12 + int.from_bytes(data[position + 4 : position + 12], "big"),)


def w64_ends(data: Bytes, position: int) -> tuple[int, ...]:
    """Return where a chunk of W64 may end: the size includes its header, and chunks begin at multiples of 8."""
    size = int.from_bytes(data[position + 16 : position + 24], "little")
    return tuple({position + -(-size // 8) * 8, position + size}) if size >= 24 else ()


def no_chunks(data: Bytes, position: int) -> tuple[int, ...]:
    """Return no end: nothing but tags can follow the sound of an AU file."""
    return ()


def _is_filled(data: Bytes, position: int, ends_of: EndsOf, *, may_be_padding: bool) -> bool:
    """Return whether chunks and tags, or nothing, fill the file from ``position`` on; zeros if they may."""
    size = len(data)
    pending, visited = [position], set()
    while pending:
        at = pending.pop()
        if at >= size:
            return True
        if at in visited:
            continue
        visited.add(at)
        # zeros up to the end of the last sector or cluster
        if (may_be_padding or at > position + 1) and size - at <= _PADDING and not any(data[at:size]):
            return True
        tag_end = after_tag(data, at)
        pending += [tag_end] if at < tag_end <= size else []
        if at == position:  # the pad byte of the sound itself
            pending.append(at + 1)
        name = data[at : at + 4]
        if _NAME.match(name):
            ends = [end for end in ends_of(data, at) if end > at]
            pending += [end for end in ends if end <= size + 1]
            # a known chunk behind the sound shows that the size is right, even if a copy was cut in that chunk, or if
            # something else follows it
            if ends and _KNOWN.fullmatch(name):
                return True
    return False


def _first_chunk(data: Bytes, begin: int, ends_of: EndsOf, *, known_only: bool = False) -> int:
    """Return where the chunks and tags begin that fill the end of the file, at ``begin`` or later."""
    size = len(data)
    stop = end_without_tags(data, begin)
    reachable = {size, size + 1, stop}
    if known_only:
        tail = bytes(data[begin:stop])
        if not any(name in tail for name in _USUAL):  # as in nearly all files; a pattern would take ten times as long
            return size
    pattern = _KNOWN if known_only else _NAME
    # from the last name to the first, so that the chunks behind each are known already
    for match in reversed(list(pattern.finditer(data, begin, stop))):
        at = match.start()
        if any(at < end and end in reachable for end in (*ends_of(data, at), after_tag(data, at))):
            reachable.add(at)
    return min(reachable)
