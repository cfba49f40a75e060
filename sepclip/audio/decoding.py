"""Decoding by ffmpeg, if it is installed, of sound that libsndfile does not read."""

import shutil
import subprocess
from pathlib import Path

from sepclip.audio.files import BadSound

_LEAST_BYTES = 256  # of a WAV file with sound


def ffmpeg() -> str | None:
    """Return the path of ffmpeg, or None if it is not installed."""
    return shutil.which("ffmpeg")


def decode(path: Path, target: Path, stream: int = 0) -> str:
    """Decode a sound file or video at ``path`` into ``target``, a WAV file of 32-bit float samples.

    ``stream`` is the index of the audio stream, for files that have several. Return what ffmpeg says about a file that
    it can decode in part only, or "".

    Raises BadSound if ffmpeg is not installed or cannot decode anything.
    """
    program = ffmpeg()
    if program is None:
        command = f"ffmpeg -i {path.name} {path.stem}.flac"
        raise BadSound(path, f"libsndfile does not read it: install ffmpeg, or convert the file elsewhere: {command}")
    # without "file:", ffmpeg takes a name such as "a:b.mp4" for a protocol
    source = [program, "-v", "error", "-nostdin", "-protocol_whitelist", "file", "-i", f"file:{path}"]
    output = ["-map", f"0:a:{stream}", "-f", "wav", "-rf64", "auto", "-c:a", "pcm_f32le", "-y", f"file:{target}"]
    result = subprocess.run([*source, *output], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    errors = result.stderr.decode(errors="replace").strip().splitlines()
    # the header alone has about a hundred bytes
    if result.returncode or not target.is_file() or (errors and target.stat().st_size < _LEAST_BYTES):
        reason = errors[-1] if errors else f"exit code {result.returncode}"
        raise BadSound(path, f"neither libsndfile nor ffmpeg can read it ({reason})")
    return f"damaged: ffmpeg reports {errors[-1]!r}" if errors else ""
