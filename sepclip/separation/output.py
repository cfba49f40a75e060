"""Writing separated waves as files: which format, what becomes of too loud ones, and the residual."""

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
from sepclip.errors import UserError
from sepclip.separation.recording import Recording
from sepclip.separation.spool import Spool

Format = Literal["wav", "flac", "ogg"]
Overload = Literal["rescale", "clamp", "float"]
SUBTYPES: dict[str, tuple[str, ...]] = {  # the first is what anything else becomes
    "wav": ("PCM_16", "PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"),
    "flac": ("PCM_16", "PCM_S8", "PCM_24"),
    "ogg": ("VORBIS", "OPUS"),
}
_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
_LOUDER = {"PCM_S8": "PCM_U8", "PCM_U8": "PCM_S8"}  # of WAV and FLAC, each has but one
_WAV_LIMIT = 4_000_000_000  # bytes; beyond, RF64 is written, which is the same with longer lengths


@dataclass(frozen=True)
class Encoding:
    """How results are written: container, sample format, and what becomes of samples beyond full scale."""

    format: Format
    subtype: str
    overload: Overload

    @property
    def bits(self) -> int | None:
        """Bits of a sample where it is an integer."""
        return _BITS.get(self.subtype)

    def quantised(self, samples: Float64) -> NDArray[np.generic]:
        """Round samples (C, n) to those of the file: integers at the top of int16 or int32, or floats."""
        if self.bits is None:
            return samples.astype(np.float64 if self.subtype == "DOUBLE" else np.float32)
        steps = 2.0 ** (self.bits - 1)
        whole = np.clip(np.rint(samples * steps), -steps, steps - 1)
        width = 16 if self.bits <= 16 else 32
        return (whole.astype(np.int64) << (width - self.bits)).astype(np.int16 if width == 16 else np.int32)

    def value(self, written: NDArray[np.generic]) -> Float64:
        """Return what quantised samples stand for."""
        scale = 1.0 if self.bits is None else 2.0 ** (15 if self.bits <= 16 else 31)
        return written.astype(np.float64) / scale


def choose_encoding(
    stored_as: str, format_name: Format = "wav", subtype: str | None = None, overload: Overload | None = None
) -> Encoding:
    """Return how to write what was stored as ``stored_as``: the same sample format where the container has it.

    Raises UserError for a ``subtype`` that the container does not have, and for ``overload`` float where no float is.
    """
    offered = SUBTYPES[format_name]
    if subtype is not None and subtype.upper() not in offered:
        raise UserError(f"--subtype {subtype}: {format_name} has {', '.join(offered)}")
    if overload == "float" and format_name != "wav":
        raise UserError(
            f"--overload float: {format_name} has no float samples: choose rescale or clamp, or --format wav"
        )
    alike = next((name for name in (stored_as, _LOUDER.get(stored_as)) if name in offered), offered[0])
    return Encoding(
        format_name, subtype.upper() if subtype else alike, overload or ("float" if format_name == "wav" else "rescale")
    )


def write_results(
    spool: Spool, recording: Recording, targets: list[Path], encoding: Encoding, residual: Path | None = None
) -> list[str]:
    """Write the sources of ``spool`` to ``targets``, and what they lack of the mixture to ``residual``.

    The written samples of all sources and the residual add up to the mixture within one step of the sample format,
    where the residual itself is within full scale. Every file is put in place whole. Returns what was done to samples
    beyond full scale, in words.
    """
    if encoding.format == "flac" and not spool.samples:
        raise UserError("0 samples, which flac cannot hold: write wav")
    encoding, gain, louder = _settle(spool.peak, encoding)
    told = dict.fromkeys([louder] if louder else [], True)  # each once
    rate_hz, shape = recording.rate_hz, (recording.channels, spool.samples)

    def source(index: int) -> Iterator[NDArray[np.generic]]:
        for piece in spool.pieces(index):
            yield encoding.quantised(piece.astype(np.float64) * gain)

    def remainder() -> Iterator[NDArray[np.generic]]:
        parts = [_Reader(source(index)) for index in range(len(targets))]
        for chunk in recording.chunks():
            mixture = encoding.value(encoding.quantised(chunk.numpy().astype(np.float64) * gain))
            lacking = mixture - sum(encoding.value(part.take(mixture.shape[1])) for part in parts)
            if encoding.bits is not None and np.abs(lacking).max(initial=0) > 1:
                told["the residual exceeds full scale and is clamped: there the parts do not add up to the mixture"] = (
                    True
                )
            yield encoding.quantised(lacking)

    for index, target in enumerate(targets):
        write_stream(target, source(index), shape, rate_hz, encoding)
    if residual is not None:
        write_stream(residual, remainder(), shape, rate_hz, encoding)
    return list(told)


def _settle(peak: float, encoding: Encoding) -> tuple[Encoding, float, str | None]:
    """Return the encoding and the gain with which waves of this peak are written, and what to tell of it."""
    if peak <= 1 or encoding.subtype in ("FLOAT", "DOUBLE"):
        return encoding, 1.0, None
    reaches = f"an estimate exceeds full scale ({peak:.2f})"
    if encoding.overload == "float":
        return Encoding(encoding.format, "FLOAT", "float"), 1.0, f"{reaches} and is written as 32-bit float"
    if encoding.overload == "rescale":
        return encoding, 1 / peak, f"{reaches}: all estimates of this file are written {1 / peak:.3f} times as loud"
    return encoding, 1.0, f"{reaches} and is clamped to it"


def write_stream(
    target: Path, pieces: Iterator[NDArray[np.generic]], shape: tuple[int, int], rate_hz: int, encoding: Encoding
) -> None:
    """Write the pieces (C, n) of a wave of ``shape`` (C, T) as a sound file, in place once it is whole.

    UserError where the disk is full.
    """
    channels, samples = shape
    container = _container(encoding, channels * samples)

    def write(temporary: Path) -> None:
        try:
            with soundfile.SoundFile(
                temporary, "w", rate_hz, channels, subtype=encoding.subtype, format=container
            ) as file:
                for piece in pieces:
                    file.write(np.ascontiguousarray(piece.T))
        except (soundfile.SoundFileError, AssertionError) as error:  # it says nothing more of a write cut short
            free = shutil.disk_usage(target.parent).free >> 20
            raise UserError(f"{target} cannot be written ({free} MB are free on its disk): {error}") from error

    replace_file(target, write)


def _container(encoding: Encoding, values: int) -> str:
    big = values * (8 if encoding.subtype == "DOUBLE" else 4) > _WAV_LIMIT
    return "RF64" if encoding.format == "wav" and big else encoding.format.upper()


class _Reader:
    """Gives pieces of any length of a stream of pieces (C, n)."""

    def __init__(self, pieces: Iterator[NDArray[np.generic]]):
        self._pieces = pieces
        self._held: NDArray[np.generic] | None = None

    def take(self, length: int) -> NDArray[np.generic]:
        """Return the next ``length`` samples."""
        while self._held is None or self._held.shape[1] < length:
            piece = next(self._pieces)
            self._held = piece if self._held is None else np.concatenate([self._held, piece], axis=1)
        taken, self._held = self._held[:, :length], self._held[:, length:]
        return taken
