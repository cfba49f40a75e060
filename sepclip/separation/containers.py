"""The containers of results: their sample formats, the rates and channels that fit, and who encodes them."""

import subprocess
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import soundfile

from sepclip.audio.decoding import ffmpeg
from sepclip.errors import UserError

Format = Literal["wav", "flac", "ogg", "opus", "mp3", "m4a"]
SUBTYPES: dict[str, tuple[str, ...]] = {  # sample formats; the first is the default
    "wav": ("PCM_16", "PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"),
    "flac": ("PCM_16", "PCM_S8", "PCM_24"),
    "ogg": ("VORBIS", "OPUS"),
    "opus": ("OPUS",),
    "mp3": ("MPEG_LAYER_III",),
    "m4a": ("AAC",),
}
LOSSY = frozenset(SUBTYPES) - {"wav", "flac"}
_MOST_WAV_CHANNELS = 1024  # of libsndfile
_AAC_BITS = 96_000  # per second and channel


@dataclass(frozen=True)
class _Limits:
    """What a sample format can hold: the most channels, and the rates in Hz, in a set or range and in words."""

    channels: int
    rates: Container[int]
    words: str


_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_MP3_RATES = (*(8000, 11025, 12000), *(16000, 22050, 24000), *(32000, 44100, 48000))  # MPEG 2.5, 2 and 1
_AAC_RATES = (7350, *_MP3_RATES, 64000, 88200, 96000)  # ISO/IEC 14496-3, table 1.18
_LIMITS = {
    # libvorbis: at higher rates, libsndfile 1.2.2 ends the process with a segmentation fault
    "VORBIS": _Limits(255, range(1, 200_001), "1 to 200000 Hz"),
    "OPUS": _Limits(255, _OPUS_RATES, "8, 12, 16, 24 or 48 kHz"),  # RFC 6716, section 2
    "MPEG_LAYER_III": _Limits(2, _MP3_RATES, "8, 11.025, 12, 16, 22.05, 24, 32, 44.1 or 48 kHz"),
    "AAC": _Limits(8, _AAC_RATES, "7.35, 8, 11.025, 12, 16, 22.05, 24, 32, 44.1, 48, 64, 88.2 or 96 kHz"),
}
# RFC 9639, section 9.1.2: a frame holds its rate in Hz up to 65535, or in tens of Hz
_FLAC = _Limits(
    8, {*range(1, 65_536), *range(65_540, 655_351, 10)}, "up to 65535 Hz, or a multiple of 10 Hz up to 655350 Hz"
)
_WAV = _Limits(_MOST_WAV_CHANNELS, range(1, 2**31), "1 to 2147483647 Hz")


def require_fit(format_name: Format, subtype: str, rate_hz: int, channels: int) -> None:
    """Raise UserError if a container cannot hold sound of this rate and number of channels."""
    limits = _FLAC if format_name == "flac" else _LIMITS.get(subtype, _WAV)
    name = f"{format_name} ({subtype})" if format_name == "ogg" else format_name
    if channels > limits.channels:
        raise UserError(f"{channels} channels do not fit {name} (at most {limits.channels}): choose --format wav")
    if rate_hz not in limits.rates:
        raise UserError(f"{rate_hz} Hz does not fit {name} ({limits.words}): choose --format wav")


def require_encoder(format_name: Format, subtype: str) -> None:
    """Raise UserError if a sample format cannot be written: m4a without ffmpeg, others by an old libsndfile."""
    if format_name == "m4a" and ffmpeg() is None:
        raise UserError("--format m4a needs ffmpeg, which is not installed: install it, or choose another --format")
    if format_name != "m4a" and not soundfile.check_format(libsndfile_name(format_name), subtype):
        version = soundfile.__libsndfile_version__
        raise UserError(f"--format {format_name}: libsndfile {version} does not write {subtype}: choose --format flac")


def libsndfile_name(format_name: Format) -> str:
    """Return the name of the container in libsndfile."""
    return "OGG" if format_name == "opus" else format_name.upper()


def encode_aac(source: Path, target: Path, channels: int) -> None:
    """Encode the WAV file ``source`` by ffmpeg as an m4a file. Raises UserError if ffmpeg fails."""
    command = [ffmpeg() or "ffmpeg", "-v", "error", "-nostdin", "-i", f"file:{source}", "-c:a", "aac"]
    output = ["-b:a", str(_AAC_BITS * channels), "-f", "ipod", "-y", f"file:{target}"]
    result = subprocess.run([*command, *output], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if result.returncode:
        errors = result.stderr.decode(errors="replace").strip().splitlines()
        raise UserError(f"ffmpeg cannot encode it ({errors[-1] if errors else f'exit code {result.returncode}'})")
