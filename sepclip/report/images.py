"""Spectrograms and masks as small PNG images embedded in the page."""

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sepclip.audio.stft import STFT

RANGE_DB = 70.0  # dynamic range of a spectrogram, below the loudest bin of its mixture
_MOST_COLUMNS, _MOST_ROWS = 640, 160
_SHADES = 64  # instead of 256: half the bytes without a visible difference
# red, green and blue from dark to bright in perceptually equal steps (after matplotlib's inferno)
_SOUND_COLOURS = (
    (0, 0, 4), (22, 11, 57), (66, 10, 104), (106, 23, 110), (147, 38, 103), (188, 55, 84),
    (221, 81, 58), (243, 120, 25), (252, 165, 10), (246, 215, 70), (252, 255, 164),
)  # fmt: skip
_MASK_COLOURS = ((16, 24, 32), (116, 185, 242), (240, 248, 255))
Picture = NDArray[np.float64]


def spectrogram(wave: NDArray[np.float64], stft: STFT) -> Picture:
    """Return the magnitudes (F, N) of a wave (T,), reduced to the size of the page, low frequencies in the last row."""
    magnitude = stft.forward(torch.from_numpy(np.ascontiguousarray(wave))).abs().numpy()  # (N, F)
    return _reduced(magnitude.T[::-1])  # (F, N)


def _reduced(picture: Picture) -> Picture:
    """Return the means of blocks of a picture, so that it has at most ``_MOST_ROWS`` rows and ``_MOST_COLUMNS``."""
    for axis, most in ((0, _MOST_ROWS), (1, _MOST_COLUMNS)):
        block = -(-picture.shape[axis] // most)  # rounded up
        if block > 1:
            # the last block may be shorter: sums are divided by the size of each
            starts = np.arange(0, picture.shape[axis], block)
            sizes = np.diff(np.append(starts, picture.shape[axis]))
            picture = np.add.reduceat(picture, starts, axis)
            picture = picture / (sizes[:, None] if axis == 0 else sizes)
    return picture


def sound_png(magnitude: Picture, loudest: float) -> str:
    """Return a spectrogram as a data URI: ``loudest`` is 0 dB, and ``RANGE_DB`` below it is black."""
    # 1e-12 avoids the logarithm of 0 and is far below the range
    level = 20 * np.log10(np.maximum(magnitude, 1e-12) / max(loudest, 1e-12))
    return _png_uri(1 + level / RANGE_DB, _SOUND_COLOURS)


def mask_png(estimate: Picture, mixture: Picture) -> str:
    """Return the share of the mixture that an estimate keeps, from 0 to 1, as a data URI; silence is black."""
    # below the floor, where a spectrogram is black too, the ratio is one of rounding errors
    floor = 10 ** (-RANGE_DB / 20) * float(mixture.max(initial=0.0))
    kept = np.where(mixture > floor, estimate / np.maximum(mixture, 1e-12), 0.0)
    return _png_uri(kept, _MASK_COLOURS)


def _png_uri(values: Picture, colours: Sequence[tuple[int, int, int]]) -> str:
    """Return values from 0 to 1 as a PNG with a palette, in a data URI; others are clipped."""
    shades = (np.clip(values, 0, 1) * (_SHADES - 1)).round().astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(png(shades, _palette(colours))).decode()


def _palette(colours: Sequence[tuple[int, int, int]]) -> NDArray[np.uint8]:
    """Return ``_SHADES`` colours (n, 3), interpolated linearly between ``colours``."""
    positions = np.linspace(0, len(colours) - 1, _SHADES)
    channels = [np.interp(positions, np.arange(len(colours)), channel) for channel in zip(*colours, strict=True)]
    return np.stack(channels, 1).round().astype(np.uint8)


def png(shades: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """Return a PNG of indices (rows, columns) into a ``palette`` (n, 3) of red, green and blue.

    Source: PNG (third edition), W3C 2025: signature, IHDR with colour type 3, PLTE, IDAT with filter 0, IEND.
    """
    rows, columns = shades.shape
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), shades], 1)  # filter type 0 before each row
    # 8 bits per pixel, colour type 3 (palette), standard compression and filtering, no interlacing
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    # each chunk: length, kind, data, and the checksum of kind and data
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
