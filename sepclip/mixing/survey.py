"""What a corpus of voices holds: every sound file read once, measured, cut into utterances, or left out by name."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from sepclip.audio.files import BadSound, find_sounds, name_below, read_sound
from sepclip.errors import UserError, counted
from sepclip.mixing.mixture import mono_at_rate
from sepclip.terminal import say, track

A = TypeVar("A")
B = TypeVar("B")

NO_VOICE = "not in a voice's folder"
SILENT_DBFS = -60.0  # an utterance whose RMS is below has no speech that could be brought to level
_SEX = re.compile(r"(?:^|[^a-z])(?:(f)|(m)|(female|woman)|(male|man))(?:[^a-z]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Utterance:
    """A stretch of one file by one voice, with its level and peak at the rate of the set."""

    path: str  # relative to the corpus root
    voice: str
    offset: int  # samples at the file's rate, as is length
    length: int
    rate_hz: int
    samples: int  # at the rate of the set
    rms: float
    peak: float


@dataclass
class Survey:
    """The usable utterances of each voice, and what was left out and why."""

    voices: dict[str, list[Utterance]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # relative path: reason
    digest: str = ""  # of the samples of every file that is used

    @property
    def seconds(self) -> float:
        """Total length of the usable utterances."""
        return sum(u.length / u.rate_hz for utterances in self.voices.values() for u in utterances)

    def why(self) -> str:
        """Return how many files were left out for which kind of reason."""
        kinds = Counter(re.split(r":| of | \(", reason)[0] for reason in self.left_out.values())
        return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def sex_of(voice: str) -> str | None:
    """Return "f" or "m" where the voice's name tells it (``en-f``, ``f10``, ``speaker_male_3``), else None."""
    match = _SEX.search(voice)
    if match is None:
        return None
    return "f" if match[1] or match[3] else "m"


def survey_voices(
    root: Path,
    *,
    rate_hz: int,
    speaker_from: str | None,
    min_seconds: float,
    max_seconds: float,
    jobs: int | None = None,
) -> Survey:
    """Read every sound file below ``root``, in parallel, and sort out what can be used.

    The voice of a file is the first folder below ``root``, or what the regular expression ``speaker_from`` finds in
    its path (the group named ``speaker``, else the first group, else all it matches). Files longer than
    ``max_seconds`` are cut into equal pieces. Left out, each with its reason: hidden files, unreadable, truncated,
    short, silent, non-finite or doubled ones, and those of a rate below ``rate_hz`` or a name that is not UTF-8.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder" if not root.exists() else f"{root} is a file, not a folder of voices")
    pattern = _compile(speaker_from)
    paths, left_out = find_sounds(root)
    survey = Survey(left_out={name_below(path, root): reason for path, reason in left_out.items()})
    if not paths:
        why = f"; left out: {survey.why()}" if left_out else ""
        raise UserError(f"{root} holds no sound files (looked below it for .wav, .flac, .ogg, .mp3 and the like){why}")

    named: list[tuple[Path, str]] = []
    for path in paths:
        voice = _voice(path.relative_to(root), pattern)
        relative = name_below(path, root)
        if relative != path.relative_to(root).as_posix():
            survey.left_out[relative] = "its name is not UTF-8, so no recipe can hold it"
        elif voice is None:
            survey.left_out[relative] = NO_VOICE if pattern is None else f"--speaker-from {speaker_from} does not match"
        else:
            named.append((path, voice))

    def measure(item: tuple[Path, str]) -> tuple[list[Utterance], str] | str:
        path, voice = item
        return _measure(path, name_below(path, root), voice, rate_hz, min_seconds, max_seconds)

    if named:
        say(f"reading {counted(len(named), 'file')} in {root}")
    seen: dict[str, str] = {}
    for (path, voice), result in zip(named, in_threads(measure, named, "reading voices", jobs), strict=True):
        relative = name_below(path, root)
        if isinstance(result, str):
            survey.left_out[relative] = result
            continue
        utterances, digest = result
        if digest in seen:
            survey.left_out[relative] = f"duplicate of {seen[digest]}"
            continue
        seen[digest] = relative
        survey.voices.setdefault(voice, []).extend(utterances)
    survey.digest = hashlib.sha256("\n".join(f"{v} {k}" for k, v in sorted(seen.items())).encode()).hexdigest()
    return survey


def in_threads(
    function: Callable[[A], B], items: Sequence[A], description: str, jobs: int | None = None
) -> Iterator[B]:
    """Yield ``function`` of each item, in order, from ``jobs`` threads (None: one a core), under a progress bar.

    Threads are enough: reading, resampling and writing sound release the interpreter.
    """
    pool = ThreadPoolExecutor(jobs or os.cpu_count())
    try:
        yield from track(pool.map(function, items), len(items), description)
    finally:
        pool.shutdown(cancel_futures=True)  # an error or Ctrl-C does not wait for the rest


def _compile(speaker_from: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(speaker_from) if speaker_from is not None else None
    except re.error as error:
        raise UserError(f"--speaker-from {speaker_from!r} is no regular expression: {error}") from error


def _voice(relative: Path, pattern: re.Pattern[str] | None) -> str | None:
    if pattern is None:
        return relative.parts[0] if len(relative.parts) > 1 else None
    match = pattern.search(relative.as_posix())
    if match is None:
        return None
    if "speaker" in pattern.groupindex:
        return match["speaker"] or None
    return (match[1] if pattern.groups else match[0]) or None


def _measure(
    path: Path, relative: str, voice: str, rate_hz: int, min_seconds: float, max_seconds: float
) -> tuple[list[Utterance], str] | str:
    """Return the utterances of a file and the digest of its samples, or the reason to leave it out."""
    try:
        sound = read_sound(path)
    except BadSound as error:
        return error.reason
    length = sound.samples.shape[1]
    if length < min_seconds * sound.rate_hz:
        return f"short: {length / sound.rate_hz:.2f} s, below --min-seconds {min_seconds:g}"
    if sound.rate_hz < rate_hz:
        return f"its rate of {sound.rate_hz} Hz is below --rate {rate_hz}"
    try:
        wave = mono_at_rate(sound.samples, sound.rate_hz, rate_hz)  # (T,)
    except UserError as error:
        return str(error)
    pieces = -(-length // int(max_seconds * sound.rate_hz))
    edges = [length * index // pieces for index in range(pieces + 1)]
    utterances = []
    for start, stop in pairwise(edges):
        piece = wave[start * rate_hz // sound.rate_hz : stop * rate_hz // sound.rate_hz].astype(np.float64)
        rms = float(np.sqrt(np.square(piece).mean()))
        if rms > 10 ** (SILENT_DBFS / 20):
            peak = float(np.abs(piece).max())
            utterances.append(Utterance(relative, voice, start, stop - start, sound.rate_hz, len(piece), rms, peak))
    if not utterances:
        return f"silent: below {SILENT_DBFS:g} dBFS"
    return utterances, hashlib.sha256(sound.samples.tobytes()).hexdigest()


def files_of(utterances: Iterable[Utterance]) -> list[str]:
    """Return the distinct files of ``utterances``, in order."""
    return list(dict.fromkeys(utterance.path for utterance in utterances))
