"""Writing separated waves to files: the sample format, samples beyond full scale, and the residual."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from sepclip.audio.arrays import Float64
from sepclip.audio.files import replace_file
from sepclip.audio.speaker_mask import write_mask
from sepclip.errors import UserError
from sepclip.separation.containers import SUBTYPES, Format, encode_aac, libsndfile_name
from sepclip.separation.recording import Recording
from sepclip.separation.spool import Spool

Overload = Literal["rescale", "clamp", "float"]
_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
_OTHER_SIGN = {"PCM_S8": "PCM_U8", "PCM_U8": "PCM_S8"}  # WAV and FLAC each have only one of the two
_WAV_LIMIT = 4_000_000_000  # bytes; longer files are written as RF64, which is WAV with 64-bit lengths
_RESIDUAL_CLAMPED = "the residual exceeds full scale and is clamped: there the parts do not add up to the mixture"


@dataclass(frozen=True)
class Encoding:
    """How results are written: container, sample format, and the treatment of samples beyond full scale."""

    format: Format
    subtype: str
    overload: Overload

    @property
    def bits(self) -> int | None:
        """Bits of an integer sample; None for floats."""
        return _BITS.get(self.subtype)

    def quantise(self, samples: Float64) -> NDArray[np.generic]:
        """Round samples (C, n) to those of the file: integers in the high bits of int16 or int32, or floats."""
        if self.bits is None:
            return samples.astype(np.float64 if self.subtype == "DOUBLE" else np.float32)
        steps = 2.0 ** (self.bits - 1)
        whole = np.clip(np.rint(samples * steps), -steps, steps - 1)
        # libsndfile takes int16 or int32 and stores their high bits
        width = 16 if self.bits <= 16 else 32
        return (whole.astype(np.int64) << (width - self.bits)).astype(np.int16 if width == 16 else np.int32)

    def dequantise(self, quantised: NDArray[np.generic]) -> Float64:
        """Return the values in [-1, 1] of quantised samples."""
        scale = 1.0 if self.bits is None else 2.0 ** (15 if self.bits <= 16 else 31)
        return quantised.astype(np.float64) / scale


def choose_encoding(
    stored_as: str, format_name: Format = "wav", subtype: str | None = None, overload: Overload | None = None
) -> Encoding:
    """Return the encoding for results of a file that is ``stored_as`` a sample format: the same, if available.

    Raises UserError for a ``subtype`` that the container does not support, and for ``overload`` float in a container
    without float samples.
    """
    available = SUBTYPES[format_name]
    if subtype is not None and subtype.upper() not in available:
        raise UserError(f"--subtype {subtype}: {format_name} has {', '.join(available)}")
    if overload == "float" and format_name != "wav":
        raise UserError(
            f"--overload float: {format_name} has no float samples: choose rescale or clamp, or --format wav"
        )
    # the same sample format, or the other 8-bit one, or the default of the container
    nearest = next((name for name in (stored_as, _OTHER_SIGN.get(stored_as)) if name in available), available[0])
    return Encoding(
        format_name,
        subtype.upper() if subtype else nearest,
        overload or ("float" if format_name == "wav" else "rescale"),
    )


def write_results(
    spool: Spool,
    recording: Recording,
    targets: list[Path],
    encoding: Encoding,
    residual: Path | None = None,
    speaker_mask: int | None = None,
) -> list[str]:
    """Write the sources of ``spool`` to ``targets``, and the mixture minus the sources to ``residual``.

    The written samples of all sources and the residual add up to the mixture within one step of the sample format, if
    the residual is within full scale. Each file appears under its name only when it is complete. ``speaker_mask`` says
    which loudspeakers the channels are for, if the format can hold it. Returns sentences for the user about samples
    beyond full scale.
    """
    if not spool.samples and encoding.format != "wav" and encoding.subtype != "VORBIS":
        raise UserError(f"0 samples, which {encoding.format} cannot hold: choose --format wav")
    # one encoding and one gain for all sources and the residual, or they would not add up
    encoding, gain, message = _fit_to_scale(spool.peak, encoding)
    messages = dict.fromkeys([message] if message else [], True)  # a set in order, so that each message comes once
    rate_hz, shape = recording.rate_hz, (recording.channels, spool.samples)

    def source(index: int) -> Iterator[NDArray[np.generic]]:
        for piece in spool.pieces(index):
            yield encoding.quantise(piece.astype(np.float64) * gain)

    def residual_pieces() -> Iterator[NDArray[np.generic]]:
        # read the mixture again, and subtract the samples as they are written, rounding included
        readers = [_Reader(source(index)) for index in range(len(targets))]
        for chunk in recording.chunks():
            mixture = encoding.dequantise(encoding.quantise(chunk.numpy().astype(np.float64) * gain))
            remainder = mixture - sum(encoding.dequantise(reader.take(mixture.shape[1])) for reader in readers)
            if encoding.bits is not None and np.abs(remainder).max(initial=0) > 1:
                messages[_RESIDUAL_CLAMPED] = True
            yield encoding.quantise(remainder)

    # sources first, then the residual, which reads all of them from the spool again
    for index, target in enumerate(targets):
        write_stream(target, source(index), shape, rate_hz, encoding, speaker_mask)
    if residual is not None:
        write_stream(residual, residual_pieces(), shape, rate_hz, encoding, speaker_mask)
    return list(messages)


def _fit_to_scale(peak: float, encoding: Encoding) -> tuple[Encoding, float, str | None]:
    """Return the encoding and the gain for waves with this ``peak``, and a message if full scale is exceeded."""
    if peak <= 1 or encoding.subtype in ("FLOAT", "DOUBLE"):
        return encoding, 1.0, None
    excess = f"an estimate exceeds full scale ({peak:.2f})"
    if encoding.overload == "float":
        return Encoding(encoding.format, "FLOAT", "float"), 1.0, f"{excess} and is written as 32-bit float"
    if encoding.overload == "rescale":
        return encoding, 1 / peak, f"{excess}: all estimates of this file are written {1 / peak:.3f} times as loud"
    return encoding, 1.0, f"{excess} and is clamped to it"


def write_stream(
    target: Path,
    pieces: Iterator[NDArray[np.generic]],
    shape: tuple[int, int],
    rate_hz: int,
    encoding: Encoding,
    speaker_mask: int | None = None,
) -> None:
    """Write the pieces (C, n) of a wave of ``shape`` (C, T) to a sound file, which appears when it is complete.

    Raises UserError if the disk is full.
    """
    channels, samples = shape
    subtype = "FLOAT" if encoding.format == "m4a" else encoding.subtype
    container = _container(encoding, channels * samples)
    if speaker_mask is not None and container == "WAV":
        container = "WAVEX"  # WAV with a mask of loudspeakers

    def write(temporary: Path) -> None:
        try:
            with soundfile.SoundFile(
                os.fsencode(temporary), "w", rate_hz, channels, subtype=subtype, format=container
            ) as file:
                for piece in pieces:
                    file.write(np.ascontiguousarray(piece.T))
        # soundfile has an assertion, and no message, for a write that the disk cuts short
        except (soundfile.SoundFileError, AssertionError) as error:
            free = shutil.disk_usage(target.parent).free >> 20
            raise UserError(f"{target} cannot be written ({free} MB are free on its disk): {error}") from error
        if speaker_mask is not None and container in ("WAVEX", "RF64"):
            write_mask(temporary, speaker_mask)

    def write_aac(temporary: Path) -> None:
        wave = temporary.with_name(f".wave{temporary.name}")
        try:
            write(wave)
            encode_aac(wave, temporary, channels)
        finally:
            wave.unlink(missing_ok=True)

    replace_file(target, write_aac if encoding.format == "m4a" else write)


def _container(encoding: Encoding, values: int) -> str:
    """Return the container of soundfile for a file of so many sample values; m4a is encoded from a WAV file."""
    if encoding.format not in ("wav", "m4a"):
        return libsndfile_name(encoding.format)
    return "RF64" if values * (8 if encoding.subtype == "DOUBLE" else 4) > _WAV_LIMIT else "WAV"


class _Reader:
    """Reads any number of samples at a time from a stream of pieces (C, n)."""

    def __init__(self, pieces: Iterator[NDArray[np.generic]]):
        self._pieces = pieces
        self._buffer: NDArray[np.generic] | None = None

    def take(self, length: int) -> NDArray[np.generic]:
        """Return the next ``length`` samples."""
        while self._buffer is None or self._buffer.shape[1] < length:
            piece = next(self._pieces)
            self._buffer = piece if self._buffer is None else np.concatenate([self._buffer, piece], axis=1)
        samples, self._buffer = self._buffer[:, :length], self._buffer[:, length:]
        return samples
