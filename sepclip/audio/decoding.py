"""Decoding by ffmpeg, if it is installed, of sound that libsndfile does not read."""

import shutil
import subprocess
from pathlib import Path

from sepclip.audio.files import BadSound


def ffmpeg() -> str | None:
    """Return the path of ffmpeg, or None if it is not installed."""
    return shutil.which("ffmpeg")


def decode(path: Path, target: Path, stream: int = 0) -> None:
    """Decode a sound file or video at ``path`` into ``target``, a WAV file of 32-bit float samples.

    ``stream`` is the index of the audio stream, for files that have several.

    Raises BadSound if ffmpeg is not installed or cannot decode the file.
    """
    program = ffmpeg()
    if program is None:
        command = f"ffmpeg -i {path.name} {path.stem}.flac"
        raise BadSound(path, f"libsndfile does not read it: install ffmpeg, or convert the file elsewhere: {command}")
    # without "file:", ffmpeg takes a name such as "a:b.mp4" for a protocol
    source = [program, "-v", "error", "-xerror", "-nostdin", "-protocol_whitelist", "file", "-i", f"file:{path}"]
    output = ["-map", f"0:a:{stream}", "-f", "wav", "-rf64", "auto", "-c:a", "pcm_f32le", "-y", f"file:{target}"]
    result = subprocess.run([*source, *output], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if result.returncode:
        errors = result.stderr.decode(errors="replace").strip().splitlines()
        reason = errors[-1] if errors else f"exit code {result.returncode}"
        raise BadSound(path, f"neither libsndfile nor ffmpeg can read it ({reason})")
