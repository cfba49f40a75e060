"""What wsj0-2mix is made from: the official lists, the files of WSJ0, and tables of active levels.

None of them is trusted: a path in a list is only looked up among the files below the root.
"""

import csv
import filecmp
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import soundfile

from sepclip.audio.files import BadSound, find_sounds
from sepclip.audio.sphere import shorten_header
from sepclip.corpora.preflight import Preflight
from sepclip.errors import UserError, counted
from sepclip.mixing.recipe import SPLITS

RATE_HZ = 16000  # of WSJ0
MIXTURES = {"tr": 20000, "cv": 5000, "tt": 3000}  # of the official lists
UTTERANCES = {"tr": 8769, "cv": 3557, "tt": 1770}  # different ones in those of two speakers
LISTS_FROM = (
    "the text lists are in www.merl.com/demos/deep-clustering/create-speaker-mixtures.zip, the CSV lists in the folder "
    "data of WHAM!'s scripts"
)
_TAKE = f"take the official list; {LISTS_FROM}"
_LONGEST_SECONDS = 600  # no sentence of WSJ0 comes near; a header that says more lies
_PREFERRED = (".wav", ".flac", ".sph", ".wv1")
_FAR = ".wv2"  # of the second microphone, on the desk; never taken
_UTTERANCE = re.compile(r"[A-Za-z0-9-]{4,40}")


@dataclass(frozen=True)
class Line:
    """One mixture of a list: the utterances as folder/speaker/name in small letters, and their levels in dB."""

    utterances: tuple[str, ...]
    levels_db: tuple[float, ...]

    @property
    def name(self) -> str:
        """The file name as MATLAB's num2str made it: levels of at most 8 significant digits."""
        pairs = zip(self.utterances, self.levels_db, strict=True)
        return "_".join(f"{utterance.rsplit('/', 1)[1]}_{level:.8g}" for utterance, level in pairs)


@dataclass
class Lists:
    """The lists of all splits, where each utterance is said to lie, and the digest of the files."""

    lines: dict[str, list[Line]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)  # utterance: path in the list
    digest: str = ""


def read_lists(folder: Path, sources: int, preflight: Preflight) -> Lists:
    """Read ``mix_{sources}_spk_{tr,cv,tt}.txt`` of a folder; what is wrong goes into ``preflight``.

    Where one is not there, WHAM!'s ``mix_{sources}_spk_filenames_{tr,cv,tt}.csv`` is read.
    """
    lists, digest = Lists(), hashlib.sha256()
    for split in SPLITS:
        files = [folder / f"mix_{sources}_spk_{split}.txt", folder / f"mix_{sources}_spk_filenames_{split}.csv"]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            todo = f"say with --lists where they are; {LISTS_FROM}"
            preflight.wrong("list missing", todo, str(folder), f"{files[0].name} or {files[1].name}")
            continue
        text = file.read_bytes()
        digest.update(text)
        rows = (_of_csv if file.suffix == ".csv" else _of_text)(text.decode(errors="replace"), sources)
        lists.lines[split] = _parse(rows, file, sources, lists.places, preflight)
    lists.digest = digest.hexdigest()
    return lists


def _of_text(text: str, sources: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line and its fields: file, level, file, level, ..."""
    for number, line in enumerate(text.splitlines(), 1):
        if fields := line.split():
            yield number, fields


def _of_csv(text: str, sources: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the same of a CSV list of WHAM!, in which the levels stand in the names of the mixtures alone.

    No fields are yielded for a line that is none.
    """
    lines = csv.reader(text.splitlines())
    columns = ["output_filename", *(f"s{index + 1}_path" for index in range(sources))]
    try:
        header = next(lines, [])
        if not set(columns) <= set(header):
            yield 1, []
        for fields in lines:
            row = dict(zip(header, fields, strict=False))
            parts = row.get(columns[0], "").removesuffix(".wav").split("_")
            paths = [row.get(column, "") for column in columns[1:]]
            fits = [path.rsplit("/", 1)[-1].rsplit(".", 1)[0] for path in paths] == parts[::2]
            together = [part for pair in zip(paths, parts[1::2], strict=False) for part in pair]
            yield lines.line_num, together if fits else []
    except csv.Error:
        yield lines.line_num, []


def _parse(
    rows: Iterable[tuple[int, Sequence[str]]], file: Path, sources: int, places: dict[str, str], preflight: Preflight
) -> list[Line]:
    lines: dict[str, Line] = {}
    for number, fields in rows:
        reason = None
        try:
            levels = tuple(map(float, fields[1::2]))
            utterances = tuple(map(_utterance, fields[::2]))
            if len(fields) != 2 * sources:
                reason = f"not {sources} pairs of file and level"
            elif not all(map(math.isfinite, levels)):
                reason = "a level is not a number"
        except ValueError as error:
            reason = str(error) if str(error).startswith("not ") else "a level is not a number"
        if reason:
            preflight.wrong(f"line of a list: {reason}", _TAKE, str(file), f"line {number}")
            continue
        line = Line(utterances, levels)
        if lines.setdefault(line.name, line) is not line:
            preflight.wrong("mixture twice in a list", _TAKE, str(file), f"line {number}")
        for utterance, path in zip(utterances, fields[::2], strict=True):
            places.setdefault(utterance, path)
    return list(lines.values())


def _utterance(path: str) -> str:
    """Return folder/speaker/name of a path in a list; ValueError where it is none or leads out of the corpus."""
    parts = path.lower().split("/")
    name = parts[-1].rsplit(".", 1)[0]
    if len(parts) < 3 or ".." in parts or path.startswith("/") or "\\" in path or not _UTTERANCE.fullmatch(name):
        raise ValueError("not a path such as wsj0/si_tr_s/40n/40na010x.wav")
    return f"{parts[-3]}/{parts[-2]}/{name}"


@dataclass
class Utterances:
    """The files of WSJ0 by folder/speaker/name in small letters; ``doubles``: the others of the same name and kind.

    ``far`` are those of the second, far microphone.
    """

    files: dict[str, Path] = field(default_factory=dict)
    doubles: dict[str, list[Path]] = field(default_factory=dict)
    far: set[str] = field(default_factory=set)

    def differing(self, utterance: str) -> list[Path]:
        """Return all files of an utterance where there are several and not all are the same to the byte."""
        files = [self.files[utterance], *self.doubles.get(utterance, ())]
        same = all(filecmp.cmp(files[0], other, shallow=False) for other in files[1:])
        return [] if same else files


def find_utterances(root: Path) -> Utterances:
    """Return the files below ``root``, in whatever case they are written and on whatever disc they lie.

    Only what lies below the root is ever found, so no list can lead anywhere else.
    """
    found = Utterances()
    sounds, others = find_sounds(root)
    for path in [*sounds, *others]:
        suffix = path.suffix.lower()
        parts = path.parts[-3:]
        if path.name.startswith(".") or len(parts) < 3:
            continue
        key = f"{parts[0]}/{parts[1]}/{path.stem}".lower()
        if suffix == _FAR:
            found.far.add(key)
        if suffix not in _PREFERRED:
            continue
        rank = _PREFERRED.index(suffix)
        before = _PREFERRED.index(found.files[key].suffix.lower()) if key in found.files else len(_PREFERRED)
        if rank < before:
            found.files[key] = path
            found.doubles.pop(key, None)
        elif rank == before:
            found.doubles.setdefault(key, []).append(path)
    return found


def samples_of(path: Path, allowed_channels: tuple[int, ...] = (1,)) -> int | str:
    """Return the samples of a sound of 16 kHz, by its header, or what is wrong with it."""
    try:
        header = shorten_header(path)
        if header is None:
            info = soundfile.info(path)
            samples, rate_hz, channels = info.frames, info.samplerate, info.channels
        else:
            samples, rate_hz, channels = header.samples, header.rate_hz, header.channels
    except BadSound as error:
        return error.reason
    except soundfile.SoundFileError:
        return "not readable as sound"
    if rate_hz != RATE_HZ or channels not in allowed_channels:
        return f"{counted(channels, 'channel')} at {rate_hz} Hz, not 1 at {RATE_HZ} Hz"
    if not 0 < samples <= _LONGEST_SECONDS * RATE_HZ:
        return f"a length of {samples / RATE_HZ:.1f} s, not 0 to {_LONGEST_SECONDS} s"
    return int(samples)


def read_table(path: Path | None) -> tuple[dict[str, float], str]:
    """Read precomputed active levels, ``UTTERANCE POWER`` a line, from a file or all ``.txt`` files of a folder.

    Returns them by name in small letters, and the digest of the files. Raises UserError for what is no such table.
    """
    if path is None:
        return {}, ""
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    levels: dict[str, float] = {}
    digest = hashlib.sha256()
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--active-levels {file} cannot be read: {error}") from error
        digest.update(text.encode())
        levels |= parse_table(text, file)
    if not levels:
        raise UserError(f"--active-levels {path} holds no levels: a line is UTTERANCE POWER, such as 40na010x 4.88e-04")
    return levels, digest.hexdigest()


def parse_table(text: str, file: Path) -> dict[str, float]:
    """Read lines of ``UTTERANCE POWER``; UserError where one is something else."""
    levels = {}
    for number, row in enumerate(text.splitlines(), 1):
        fields = row.split()
        try:
            if fields:
                name, power = fields[0], float(fields[1])
                if len(fields) != 2 or not 0 < power < math.inf:
                    raise ValueError
                levels[name.lower()] = power
        except (ValueError, IndexError):
            raise UserError(
                f"{file}, line {number}: {row[:60]!r} is not UTTERANCE POWER, such as 40na010x 4.88e-04"
            ) from None
    return levels
