"""Native Instruments' stem files (``.stem.mp4``), as MUSDB18 is delivered: a stream a stem, decoded by ffmpeg."""

import math
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from sepclip.audio.decoding import decode, ffmpeg
from sepclip.audio.files import BadSound, Sound, read_sound

SUFFIX = ".stem.mp4"
STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # of MUSDB18
_DURATION = re.compile(r"^\s*Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)", re.MULTILINE)
_STREAM = re.compile(r"^\s*Stream #0:\d+.*: Audio: .*?, (\d+) Hz, (mono|stereo)", re.MULTILINE)


def look_at(path: Path) -> tuple[int, int, int]:
    """Return samples, rate in Hz and channels of a stem file; the samples are right to a hundredth of a second.

    Raises BadSound where it is not one of the five streams of MUSDB18.
    """
    program = ffmpeg()
    if program is None:
        raise BadSound(path, "needs ffmpeg, which is not installed")
    # without an output ffmpeg tells what it sees and ends with an error; "file:" keeps it from another protocol
    command = [program, "-hide_banner", "-nostdin", "-i", f"file:{path}"]
    told = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stderr
    duration, streams = _DURATION.search(told), _STREAM.findall(told)
    if duration is None or len(streams) != len(STREAMS) or len(set(streams)) != 1:
        raise BadSound(path, f"not the {len(STREAMS)} streams of a track of MUSDB18")
    hours, minutes, seconds = map(float, duration.groups())
    rate_hz, channels = streams[0]
    samples = math.ceil((3600 * hours + 60 * minutes + seconds) * int(rate_hz))
    return samples, int(rate_hz), 1 if channels == "mono" else 2


def read_stem(path: Path, name: str) -> Sound:
    """Decode one stem, or the ``mixture``, of a stem file. Raises BadSound where that cannot be."""
    with TemporaryDirectory() as folder:
        target = Path(folder) / "stem.wav"
        decode(path, target, STREAMS.index(name))
        return read_sound(target)
