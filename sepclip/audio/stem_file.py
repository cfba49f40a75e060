"""Native Instruments' stem files (``.stem.mp4``), as MUSDB18 is delivered: a stream a stem, decoded by ffmpeg."""

import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np

from sepclip.audio.files import BadSound, Sound

SUFFIX = ".stem.mp4"
STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # of MUSDB18
_DURATION = re.compile(r"^\s*Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)", re.MULTILINE)
_STREAM = re.compile(r"^\s*Stream #0:\d+.*: Audio: .*?, (\d+) Hz, (mono|stereo)", re.MULTILINE)


def ffmpeg() -> str | None:
    """Return the program that decodes stem files, or None where it is not installed."""
    return shutil.which("ffmpeg")


def look_at(path: Path) -> tuple[int, int, int]:
    """Return samples, rate in Hz and channels of a stem file; the samples are right to a hundredth of a second.

    Raises BadSound where it is not one of the five streams of MUSDB18.
    """
    # without an output ffmpeg tells what it sees and ends with an error
    told = subprocess.run([*_command(path)], capture_output=True, text=True, errors="replace", check=False).stderr
    duration, streams = _DURATION.search(told), _STREAM.findall(told)
    if duration is None or len(streams) != len(STREAMS) or len(set(streams)) != 1:
        raise BadSound(path, f"not the {len(STREAMS)} streams of a track of MUSDB18")
    hours, minutes, seconds = map(float, duration.groups())
    rate_hz, channels = streams[0]
    samples = math.ceil((3600 * hours + 60 * minutes + seconds) * int(rate_hz))
    return samples, int(rate_hz), 1 if channels == "mono" else 2


def read_stem(path: Path, name: str) -> Sound:
    """Decode one stem, or the ``mixture``, of a stem file. Raises BadSound where that cannot be."""
    samples, rate_hz, channels = look_at(path)
    stream = f"0:a:{STREAMS.index(name)}"
    command = [*_command(path), "-map", stream, "-f", "f32le", "-c:a", "pcm_f32le", "-"]
    done = subprocess.run([command[0], "-v", "error", *command[1:]], capture_output=True, check=False)
    decoded = np.frombuffer(done.stdout, "<f4")
    if done.returncode or len(decoded) % channels:
        raise BadSound(path, f"ffmpeg cannot decode it (exit code {done.returncode})")
    if abs(len(decoded) // channels - samples) > rate_hz / 10:
        raise BadSound(path, "holds another number of samples than it says")
    return Sound(np.ascontiguousarray(decoded.reshape(-1, channels).T, np.float32), rate_hz, "FLOAT")


def _command(path: Path) -> list[str]:
    program = ffmpeg()
    if program is None:
        raise BadSound(path, "needs ffmpeg, which is not installed")
    return [program, "-hide_banner", "-nostdin", "-i", f"file:{path}"]  # "file:": no name is another protocol
