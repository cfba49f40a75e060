"""NIST SPHERE files, including those compressed by shorten, the format in which the LDC delivers WSJ0 (``.wv1``).

libsndfile reads the uncompressed ones. The compressed ones are decoded by ffmpeg, if it is installed.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sepclip.audio.arrays import Int16
from sepclip.audio.files import BadSound, Sound, read_sound

_MAGIC = b"NIST_1A"
_HEADER_BYTES = 1024  # in all files of WSJ0; the second line of a header states it
_FIELD = re.compile(rb"^(\w+) -(?:i|s\d+|r) (.*)$", re.MULTILINE)
_BLOCK = 1 << 20  # bytes
CONVERT = (
    "install ffmpeg, or convert them: find ROOT -iname '*.wv1' -exec sh -c "
    """'sph2pipe -f wav "$1" "${1%.*}.wav"' _ {} \\;"""
)


@dataclass(frozen=True)
class ShortenHeader:
    """The header of a compressed file: samples of each channel, sampling rate and number of channels."""

    samples: int
    rate_hz: int
    channels: int


def shorten_header(path: Path) -> ShortenHeader | None:
    """Return the header of a SPHERE file compressed by shorten, or None for any other file.

    Raises BadSound if such a header lacks a number.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
    except OSError as error:
        raise BadSound(path, f"cannot be read: {error.strerror or error}") from error
    if not start.startswith(_MAGIC):
        return None
    fields = dict(_FIELD.findall(start.split(b"end_head")[0]))
    if b"shorten" not in fields.get(b"sample_coding", b""):
        return None
    try:
        samples, rate_hz, channels = (int(fields[name]) for name in (b"sample_count", b"sample_rate", b"channel_count"))
    except (KeyError, ValueError) as error:
        raise BadSound(path, "its SPHERE header lacks sample_count, sample_rate or channel_count") from error
    return ShortenHeader(samples, rate_hz, channels)


def read_speech(path: Path, *, start: int = 0, frames: int = -1) -> Sound:
    """Return a sound file as ``read_sound`` does, including files compressed by shorten.

    Raises BadSound if the file cannot be read, or needs ffmpeg and ffmpeg is not installed.
    """
    header = shorten_header(path) if path.is_file() else None
    if header is None:
        return read_sound(path, start=start, frames=frames)
    decoded = _decode(path, header)  # (T, C)
    stop = None if frames < 0 else start + frames
    return Sound(np.ascontiguousarray(decoded[start:stop].T, np.float32) / np.float32(32768), header.rate_hz, "PCM_16")


def _decode(path: Path, header: ShortenHeader) -> Int16:
    """Return the samples (T, C) of a compressed file. Raises BadSound if ffmpeg fails or decodes another number."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise BadSound(path, f"compressed by shorten: {CONVERT}")
    # without "file:", ffmpeg takes a name such as "a:b.wv1" for a protocol
    command = [program, "-v", "error", "-nostdin", "-i", f"file:{path}", "-f", "s16le", "-c:a", "pcm_s16le", "-"]
    promised = 2 * header.samples * header.channels  # bytes
    data = bytearray()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        # block by block, so that memory follows the data, not what the header promises
        while len(data) <= promised and (block := process.stdout.read(_BLOCK)):
            data += block
        if len(data) > promised:
            process.kill()
    if len(data) != promised:
        raise BadSound(path, "its header promises another number of samples than ffmpeg decodes")
    if process.returncode:
        raise BadSound(path, f"ffmpeg cannot decode it (exit code {process.returncode})")
    samples: Int16 = np.frombuffer(data, "<i2").reshape(-1, header.channels)
    return samples
