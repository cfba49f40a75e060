"""The streams in an Ogg file, from the headers of its pages, without decoding.

libsndfile reads the first stream of a chain only, and takes its length from the last page of the file. Every page is
visited, which costs about as much as reading the file once; decoding takes a hundred times as long. Source: RFC 3533.
"""

from sepclip.audio.byte_spans import Bytes, Part, Scan, end_without_tags

_HEADER = 27  # bytes of a page before its table of segments
_BEGINS, _ENDS = 2, 4  # flags of the first and the last page of a stream


def scan_ogg(data: Bytes) -> Scan | None:
    """Return what the pages of an Ogg file say, or None for another file."""
    if data[:4] != b"OggS":
        return None
    size = end_without_tags(data, 0)
    links: list[list[tuple[int, int]]] = []  # the spans of bytes of each stream of the chain
    open_streams: set[bytes] = set()
    has_content, gap, at = False, 0, 0
    while at < size:
        header = data[at : at + _HEADER]
        stop = at + _page_size(data, at) if len(header) == _HEADER and header[:4] == b"OggS" else 0
        if not at < stop <= size:
            # not a page, or one that is cut: the next page may follow
            following = data.find(b"OggS", at + 1, size)
            if following < 0:
                gap += size - at
                break
            gap, at = gap + following - at, following
            continue
        flags, serial = header[5], header[14:18]
        if flags & _BEGINS and (has_content or not links):
            links.append([])
            open_streams.clear()
        has_content = not flags & _BEGINS
        open_streams = open_streams - {serial} if flags & _ENDS else open_streams | {serial}
        spans = links[-1] if links else []
        if spans and spans[-1][1] == at:
            spans[-1] = spans[-1][0], stop
        else:
            spans.append((at, stop))
        at = stop
    return _result(links, gap, is_cut=bool(open_streams), size=len(data))


def _page_size(data: Bytes, at: int) -> int:
    """Return the bytes of the page at ``at``."""
    segments = data[at + 26]
    return _HEADER + segments + sum(data[at + _HEADER : at + _HEADER + segments])


def _result(links: list[list[tuple[int, int]]], gap: int, *, is_cut: bool, size: int) -> Scan | None:
    if not links:
        return None
    loss = f"damaged: {gap:,} bytes are no pages of Ogg" if gap else ""
    if is_cut:
        loss = "truncated: no page is marked as the last"
    fault = f"{len(links)} streams one after the other: all of them are used" if len(links) > 1 else ""
    if not fault and not gap:
        return Scan(loss=loss)
    return Scan(tuple(Part(tuple(spans)) for spans in links), fault, loss)
