"""What wsj0-2mix is made from: the official lists, the files of WSJ0, and tables of active levels.

None of these is trusted: a path in a list is only looked up among the files below the root.
"""

import csv
import filecmp
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sepclip.audio.files import find_sounds
from sepclip.corpora.preflight import Preflight
from sepclip.errors import UserError
from sepclip.mixing.recipe import SPLITS

RATE_HZ = 16000  # of WSJ0
MIXTURES = {"tr": 20000, "cv": 5000, "tt": 3000}  # in the official lists
UTTERANCES = {"tr": 8769, "cv": 3557, "tt": 1770}  # distinct ones in the lists of two speakers
GROUPS = {"tr": "seen", "cv": "seen", "tt": "unseen"}  # the speakers of cv are those of tr
LISTS_FROM = (
    "the text lists are in www.merl.com/demos/deep-clustering/create-speaker-mixtures.zip, the CSV lists in the folder "
    "data of WHAM!'s scripts"
)
_USE_OFFICIAL = f"use the official list; {LISTS_FROM}"
_PREFERRED = (".wav", ".flac", ".sph", ".wv1")
_FAR = ".wv2"  # of the second microphone, on the desk; never used
_UTTERANCE = re.compile(r"[A-Za-z0-9-]{4,40}")


@dataclass(frozen=True)
class Line:
    """One mixture of a list: the utterances as folder/speaker/name in lower case, and their levels in dB."""

    utterances: tuple[str, ...]
    levels_db: tuple[float, ...]

    @property
    def name(self) -> str:
        """The file name as MATLAB's num2str formats it: levels with at most 8 significant digits."""
        pairs = zip(self.utterances, self.levels_db, strict=True)
        return "_".join(f"{utterance.rsplit('/', 1)[1]}_{level:.8g}" for utterance, level in pairs)


@dataclass
class Lists:
    """The lists of all splits, the path of each utterance in them, and the digest of the files."""

    lines: dict[str, list[Line]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)  # utterance: path in the list
    digest: str = ""


def read_lists(folder: Path, sources: int, preflight: Preflight) -> Lists:
    """Read ``mix_{sources}_spk_{tr,cv,tt}.txt`` of a folder; add what is wrong to ``preflight``.

    If one is missing, read WHAM!'s ``mix_{sources}_spk_filenames_{tr,cv,tt}.csv`` instead.
    """
    lists, digest = Lists(), hashlib.sha256()
    for split in SPLITS:
        files = [folder / f"mix_{sources}_spk_{split}.txt", folder / f"mix_{sources}_spk_filenames_{split}.csv"]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            todo = f"say with --lists where the lists are; {LISTS_FROM}"
            preflight.add_problem("list missing", todo, str(folder), f"{files[0].name} or {files[1].name}")
            continue
        text = file.read_bytes()
        digest.update(text)
        rows = (_csv_rows if file.suffix == ".csv" else _text_rows)(text.decode(errors="replace"), sources)
        lists.lines[split] = _parse(rows, file, sources, lists.places, preflight)
    lists.digest = digest.hexdigest()
    return lists


def _text_rows(text: str, sources: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line and its fields: file, level, file, level, ..."""
    for number, line in enumerate(text.splitlines(), 1):
        if fields := line.split():
            yield number, fields


def _csv_rows(text: str, sources: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line of a CSV list of WHAM! and its fields, as :func:`_text_rows`.

    Such a list has the levels only in the names of the mixtures. A line of another kind has no fields.
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
            same_names = [path.rsplit("/", 1)[-1].rsplit(".", 1)[0] for path in paths] == parts[::2]
            pairs = zip(paths, parts[1::2], strict=False)
            yield lines.line_num, [part for pair in pairs for part in pair] if same_names else []
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
            preflight.add_problem(f"line of a list: {reason}", _USE_OFFICIAL, str(file), f"line {number}")
            continue
        line = Line(utterances, levels)
        if lines.setdefault(line.name, line) is not line:
            preflight.add_problem("mixture twice in a list", _USE_OFFICIAL, str(file), f"line {number}")
        for utterance, path in zip(utterances, fields[::2], strict=True):
            places.setdefault(utterance, path)
    return list(lines.values())


def _utterance(path: str) -> str:
    """Return folder/speaker/name of a path in a list. Raise ValueError if it is not one or leads out of the corpus."""
    parts = path.lower().split("/")
    name = parts[-1].rsplit(".", 1)[0]
    if len(parts) < 3 or ".." in parts or path.startswith("/") or "\\" in path or not _UTTERANCE.fullmatch(name):
        raise ValueError("not a path such as wsj0/si_tr_s/40n/40na010x.wav")
    return f"{parts[-3]}/{parts[-2]}/{name}"


@dataclass
class Utterances:
    """The files of WSJ0 by folder/speaker/name in lower case.

    ``doubles`` has the other files of the same name and kind, ``far`` the names in recordings of the second, far
    microphone.
    """

    files: dict[str, Path] = field(default_factory=dict)
    doubles: dict[str, list[Path]] = field(default_factory=dict)
    far: set[str] = field(default_factory=set)

    def differing(self, utterance: str) -> list[Path]:
        """Return all files of an utterance if there are several and not all have the same bytes."""
        files = [self.files[utterance], *self.doubles.get(utterance, ())]
        same = all(filecmp.cmp(files[0], other, shallow=False) for other in files[1:])
        return [] if same else files


def find_utterances(root: Path) -> Utterances:
    """Return the files below ``root``, whatever the case of their names and the disc they are on.

    Only files below the root are ever found, so no list can lead anywhere else.
    """
    utterances = Utterances()
    sounds, others = find_sounds(root)
    for path in [*sounds, *others]:
        suffix = path.suffix.lower()
        parts = path.parts[-3:]
        if path.name.startswith(".") or len(parts) < 3:
            continue
        key = f"{parts[0]}/{parts[1]}/{path.stem}".lower()
        if suffix == _FAR:
            utterances.far.add(key)
        if suffix not in _PREFERRED:
            continue
        # of several kinds of file, keep the first in the order of preference
        rank = _PREFERRED.index(suffix)
        before = _PREFERRED.index(utterances.files[key].suffix.lower()) if key in utterances.files else len(_PREFERRED)
        if rank < before:
            utterances.files[key] = path
            utterances.doubles.pop(key, None)
        elif rank == before:
            utterances.doubles.setdefault(key, []).append(path)
    return utterances


def read_table(path: Path | None) -> tuple[dict[str, float], str]:
    """Read precomputed active levels, ``UTTERANCE POWER`` a line, from a file or all ``.txt`` files of a folder.

    Return them by name in lower case, and the digest of the files. Raise UserError if there are none.
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
        raise UserError(
            f"--active-levels {path} contains no levels: a line is UTTERANCE POWER, such as 40na010x 4.88e-04"
        )
    return levels, digest.hexdigest()


def parse_table(text: str, file: Path) -> dict[str, float]:
    """Read lines of ``UTTERANCE POWER``. Raise UserError if one is something else."""
    levels = {}
    for number, row in enumerate(text.splitlines(), 1):
        if not row.strip():
            continue
        try:
            name, power = row.split()
            levels[name.lower()] = float(power)
            valid = 0 < float(power) < math.inf
        except ValueError:
            valid = False
        if not valid:
            what = f"{row[:60]!r} is not UTTERANCE POWER, such as 40na010x 4.88e-04"
            raise UserError(f"{file}, line {number}: {what}")
    return levels
