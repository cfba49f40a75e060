"""Sound that libsndfile does not read, decoded by ffmpeg where it is installed."""

import shutil
import subprocess
from pathlib import Path

from sepclip.audio.files import BadSound


def ffmpeg() -> str | None:
    """Return where ffmpeg is, None where it is not installed."""
    return shutil.which("ffmpeg")


def decode(path: Path, target: Path, stream: int = 0) -> None:
    """Decode a sound of ``path``, also of a film, into ``target`` as WAV of 32-bit float samples.

    ``stream`` is the number of the sound, where there are several.

    Raises BadSound where ffmpeg is missing or makes nothing of it.
    """
    program = ffmpeg()
    if program is None:
        raise BadSound(
            path,
            f"libsndfile does not read it: install ffmpeg (or where it is: ffmpeg -i {path.name} {path.stem}.flac)",
        )
    # "file:" keeps ffmpeg from taking a name for another protocol
    reading = [program, "-v", "error", "-xerror", "-nostdin", "-protocol_whitelist", "file", "-i", f"file:{path}"]
    writing = ["-map", f"0:a:{stream}", "-f", "wav", "-rf64", "auto", "-c:a", "pcm_f32le", "-y", f"file:{target}"]
    done = subprocess.run([*reading, *writing], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise BadSound(path, f"neither libsndfile nor ffmpeg reads it ({said[-1] if said else done.returncode})")
