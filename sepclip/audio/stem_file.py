"""Native Instruments' stem files (``.stem.mp4``), the format of MUSDB18: one stream per stem, decoded by ffmpeg."""

import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from sepclip.audio.decoding import decode, ffmpeg
from sepclip.audio.files import BadSound, Sound, read_sound

SUFFIX = ".stem.mp4"
STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # the order in MUSDB18
_BLOCK = 1 << 20  # bytes
_STREAM = re.compile(r"^\s*Stream #0:\d+.*: Audio: .*?, (\d+) Hz, (mono|stereo)", re.MULTILINE)


def probe_stems(path: Path) -> tuple[int, int, int]:
    """Return samples, rate in Hz and channels of a stem file.

    The samples are counted by decoding the mixture: a container states the duration, which decoders exceed by a part
    of a frame, and ffmpeg prints it in hundredths of a second.

    Raises BadSound if ffmpeg is not installed, or the file does not have the five streams of MUSDB18.
    """
    program = ffmpeg()
    if program is None:
        raise BadSound(path, "needs ffmpeg, which is not installed")
    # Without an output, ffmpeg prints the streams and fails. Without "file:", it takes "a:b.mp4" for a protocol.
    command = [program, "-hide_banner", "-nostdin", "-i", f"file:{path}"]
    log = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stderr
    streams = _STREAM.findall(log)
    if len(streams) != len(STREAMS) or len(set(streams)) != 1:
        raise BadSound(path, f"does not have the {len(STREAMS)} streams of a MUSDB18 track")
    rate_hz, channels = streams[0]
    return _count(program, path, 1 if channels == "mono" else 2), int(rate_hz), 1 if channels == "mono" else 2


def _count(program: str, path: Path, channels: int) -> int:
    """Return the samples of the mixture. Raises BadSound if ffmpeg cannot decode it."""
    command = [program, "-v", "error", "-xerror", "-nostdin", "-i", f"file:{path}", "-map", "0:a:0"]
    command += ["-f", "u8", "-c:a", "pcm_u8", "-"]  # a byte for each sample of each channel
    size = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        while block := process.stdout.read(_BLOCK):
            size += len(block)
    if process.returncode:
        raise BadSound(path, f"ffmpeg cannot decode it (exit code {process.returncode})")
    return size // channels


def read_stem(path: Path, name: str) -> Sound:
    """Return one stem, or the ``mixture``, of a stem file. Raises BadSound if ffmpeg cannot decode it."""
    with TemporaryDirectory() as folder:
        target = Path(folder) / "stem.wav"
        if loss := decode(path, target, STREAMS.index(name)):
            raise BadSound(path, loss)
        return read_sound(target)
