"""Native Instruments' stem files (``.stem.mp4``), the format of MUSDB18: one stream per stem, decoded by ffmpeg."""

import math
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from sepclip.audio.decoding import decode, ffmpeg
from sepclip.audio.files import BadSound, Sound, read_sound

SUFFIX = ".stem.mp4"
STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # the order in MUSDB18
_DURATION = re.compile(r"^\s*Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)", re.MULTILINE)
_STREAM = re.compile(r"^\s*Stream #0:\d+.*: Audio: .*?, (\d+) Hz, (mono|stereo)", re.MULTILINE)


def probe_stems(path: Path) -> tuple[int, int, int]:
    """Return samples, rate in Hz and channels of a stem file; the samples are accurate to a hundredth of a second.

    Raises BadSound if ffmpeg is not installed, or the file does not have the five streams of MUSDB18.
    """
    program = ffmpeg()
    if program is None:
        raise BadSound(path, "needs ffmpeg, which is not installed")
    # Without an output, ffmpeg prints the streams and fails. Without "file:", it takes "a:b.mp4" for a protocol.
    command = [program, "-hide_banner", "-nostdin", "-i", f"file:{path}"]
    log = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stderr
    duration, streams = _DURATION.search(log), _STREAM.findall(log)
    if duration is None or len(streams) != len(STREAMS) or len(set(streams)) != 1:
        raise BadSound(path, f"does not have the {len(STREAMS)} streams of a MUSDB18 track")
    hours, minutes, seconds = map(float, duration.groups())
    rate_hz, channels = streams[0]
    samples = math.ceil((3600 * hours + 60 * minutes + seconds) * int(rate_hz))
    return samples, int(rate_hz), 1 if channels == "mono" else 2


def read_stem(path: Path, name: str) -> Sound:
    """Return one stem, or the ``mixture``, of a stem file. Raises BadSound if ffmpeg cannot decode it."""
    with TemporaryDirectory() as folder:
        target = Path(folder) / "stem.wav"
        if loss := decode(path, target, STREAMS.index(name)):
            raise BadSound(path, loss)
        return read_sound(target)
