"""Spectrograms and masks as small PNG pictures within the page."""

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sepclip.audio.stft import STFT

RANGE_DB = 70.0  # of a spectrogram, below the loudest bin of its mixture
_MOST_COLUMNS, _MOST_ROWS = 640, 160
_SHADES = 64  # of 256: half the bytes, and no eye sees it
# red, green and blue from dark to bright, each step as much brighter as the one before (after matplotlib's inferno)
_SOUND = (
    (0, 0, 4), (22, 11, 57), (66, 10, 104), (106, 23, 110), (147, 38, 103), (188, 55, 84),
    (221, 81, 58), (243, 120, 25), (252, 165, 10), (246, 215, 70), (252, 255, 164),
)  # fmt: skip
_MASK = ((16, 24, 32), (116, 185, 242), (240, 248, 255))
Picture = NDArray[np.float64]


def spectrogram(wave: NDArray[np.float64], stft: STFT) -> Picture:
    """Return the magnitudes (F, N) of a wave (T,), low frequencies in the last row, no larger than a page needs."""
    magnitude = stft.forward(torch.from_numpy(np.ascontiguousarray(wave))).abs().numpy()  # (N, F)
    return _shrunk(magnitude.T[::-1])


def _shrunk(picture: Picture) -> Picture:
    """Return the means of blocks, so that neither side is longer than it may be."""
    for axis, most in ((0, _MOST_ROWS), (1, _MOST_COLUMNS)):
        count = -(-picture.shape[axis] // most)
        if count > 1:
            starts = np.arange(0, picture.shape[axis], count)
            sizes = np.diff(np.append(starts, picture.shape[axis]))
            picture = np.add.reduceat(picture, starts, axis)
            picture = picture / (sizes[:, None] if axis == 0 else sizes)
    return picture


def sound_png(magnitude: Picture, loudest: float) -> str:
    """Return a spectrogram as a data URI: 0 dB is ``loudest``, what lies ``RANGE_DB`` below is black."""
    level = 20 * np.log10(np.maximum(magnitude, 1e-12) / max(loudest, 1e-12))
    return _png_uri(1 + level / RANGE_DB, _SOUND)


def mask_png(estimate: Picture, mixture: Picture) -> str:
    """Return how much of the mixture an estimate keeps, from 0 to 1, as a data URI; silence is black."""
    floor = 10 ** (-RANGE_DB / 20) * float(mixture.max(initial=0.0))
    kept = np.where(mixture > floor, estimate / np.maximum(mixture, 1e-12), 0.0)
    return _png_uri(kept, _MASK)


def _png_uri(values: Picture, colours: Sequence[tuple[int, int, int]]) -> str:
    shades = (np.clip(values, 0, 1) * (_SHADES - 1)).round().astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(png(shades, _palette(colours))).decode()


def _palette(colours: Sequence[tuple[int, int, int]]) -> NDArray[np.uint8]:
    """Return ``_SHADES`` colours (n, 3) between the given ones."""
    places = np.linspace(0, len(colours) - 1, _SHADES)
    channels = [np.interp(places, np.arange(len(colours)), channel) for channel in zip(*colours, strict=True)]
    return np.stack(channels, 1).round().astype(np.uint8)


def png(shades: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """Return a PNG of indices (rows, columns) into a ``palette`` (n, 3) of red, green and blue.

    Source: PNG (third edition), W3C 2025: signature, IHDR with colour type 3, PLTE, IDAT with filter 0, IEND.
    """
    rows, columns = shades.shape
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), shades], 1)  # each begins with its filter
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
