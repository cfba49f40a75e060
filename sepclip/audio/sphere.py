"""NIST SPHERE files, also those compressed by shorten, as the LDC delivers WSJ0 (``.wv1``).

libsndfile reads the plain ones. The compressed ones are decoded by ffmpeg where it is installed.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sepclip.audio.files import BadSound, Sound, read_sound

_MAGIC = b"NIST_1A"
_HEADER_BYTES = 1024  # all that WSJ0 has; the second line says it
_FIELD = re.compile(rb"^(\w+) -(?:i|s\d+|r) (.*)$", re.MULTILINE)
_BLOCK = 1 << 20  # bytes
CONVERT = (
    "install ffmpeg, or convert them: find ROOT -iname '*.wv1' -exec sh -c "
    """'sph2pipe -f wav "$1" "${1%.*}.wav"' _ {} \\;"""
)


@dataclass(frozen=True)
class Shortened:
    """What the header of a compressed file says: samples of each channel, rate and channels."""

    samples: int
    rate_hz: int
    channels: int


def shortened(path: Path) -> Shortened | None:
    """Return the header of a SPHERE file compressed by shorten; None for every other file.

    Raises BadSound where such a header lacks a number.
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
    return Shortened(samples, rate_hz, channels)


def read_speech(path: Path, *, start: int = 0, frames: int = -1) -> Sound:
    """Read a sound file as ``read_sound``, also one compressed by shorten.

    Raises BadSound where it cannot be read, or ffmpeg is needed and not there.
    """
    header = shortened(path) if path.is_file() else None
    if header is None:
        return read_sound(path, start=start, frames=frames)
    decoded = _decode(path, header)  # (T, C)
    stop = None if frames < 0 else start + frames
    return Sound(np.ascontiguousarray(decoded[start:stop].T, np.float32) / np.float32(32768), header.rate_hz, "PCM_16")


def _decode(path: Path, header: Shortened) -> np.ndarray[tuple[int, int], np.dtype[np.int16]]:
    program = shutil.which("ffmpeg")
    if program is None:
        raise BadSound(path, f"compressed by shorten: {CONVERT}")
    # "file:" keeps ffmpeg from taking a name for another protocol
    command = [program, "-v", "error", "-nostdin", "-i", f"file:{path}", "-f", "s16le", "-c:a", "pcm_s16le", "-"]
    promised = 2 * header.samples * header.channels  # bytes
    data = bytearray()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout is not None
        # block by block: memory follows what is there, not what the header promises
        while len(data) <= promised and (block := running.stdout.read(_BLOCK)):
            data += block
        if len(data) > promised:
            running.kill()
    if len(data) != promised:
        raise BadSound(path, "its header promises another number of samples than ffmpeg decodes")
    if running.returncode:
        raise BadSound(path, f"ffmpeg cannot decode it (exit code {running.returncode})")
    samples: np.ndarray[tuple[int, int], np.dtype[np.int16]] = np.frombuffer(data, "<i2").reshape(-1, header.channels)
    return samples
