"""A small encoder of Tony Robinson's shorten, the format of the compressed SPHERE files of the LDC.

It writes only blocks of first differences, with Rice codes, and subtracts no mean. The format is that of the technical
report CUED/F-INFENG/TR.156 (1994). ffmpeg decodes it.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_DIFF1, _QUIT, _BLOCKSIZE = 1, 4, 5  # commands
_COMMAND_BITS, _ENERGY_BITS, _SIZE_BITS = 2, 3, 2
_S16_LOW_FIRST = 5  # the format of the original samples
_BLOCK = 256


def _rice(number: int, bits: int) -> str:
    """Return a Rice code: number / 2^bits zeros, a one, and the lower bits of the number."""
    return "0" * (number >> bits) + "1" + (f"{number & ((1 << bits) - 1):0{bits}b}" if bits else "")


def _number(number: int) -> str:
    """Return the code of a number of any size: its number of bits comes first."""
    bits = number.bit_length()
    return _rice(bits, _SIZE_BITS) + _rice(number, bits)


def compress(wave: NDArray[np.int16], version: int) -> bytes:
    """Return one channel of samples (T,) as a shorten stream."""
    bits = [_number(value) for value in (_S16_LOW_FIRST, 1, _BLOCK, 0, 0, 0)]  # channels, block, no LPC, mean, skip
    steps = np.diff(wave.astype(int), prepend=0)
    for start in range(0, len(steps), _BLOCK):
        block = steps[start : start + _BLOCK]
        if len(block) < _BLOCK:
            bits += [_rice(_BLOCKSIZE, _COMMAND_BITS), _number(len(block))]
        energy = max(0, round(math.log2(np.abs(block).mean() + 1)) - 1)
        bits += [_rice(_DIFF1, _COMMAND_BITS), _rice(energy, _ENERGY_BITS)]
        bits += [_rice(2 * step if step >= 0 else -2 * step - 1, energy + 1) for step in block.tolist()]
    text = "".join([*bits, _rice(_QUIT, _COMMAND_BITS)])
    text += "0" * (-len(text) % 32)
    return b"ajkg" + bytes([version]) + int(text, 2).to_bytes(len(text) // 8, "big")


def write_compressed(path: Path, wave: NDArray[np.int16], version: str = "v2.00", samples: int | None = None) -> Path:
    """Write a SPHERE file compressed as by the LDC; ``samples`` puts a wrong sample count into its header."""
    lines = [
        *("NIST_1A", "   1024", "sample_rate -i 16000", "channel_count -i 1", "sample_n_bytes -i 2"),
        *(f"sample_count -i {len(wave) if samples is None else samples}", "sample_byte_format -s2 01"),
        *("sample_sig_bits -i 16", f"sample_coding -s26 pcm,embedded-shorten-{version}", "end_head"),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join([*lines, ""]).encode().ljust(1024) + compress(wave, int(version[1])))
    return path
