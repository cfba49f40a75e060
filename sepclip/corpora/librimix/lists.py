"""What LibriMix is made from: its tables of mixtures, which name files of LibriSpeech and of WHAM!'s noise.

The tables are not trusted: a path in them is used only if it cannot lead out of the folder it is looked up in.
"""

import csv
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sepclip.corpora.existing_mixtures import Naming
from sepclip.corpora.preflight import Preflight, parse_choices
from sepclip.mixing.recipe import SPLITS

CLEAN = {"train-100": "train-clean-100", "train-360": "train-clean-360", "dev": "dev-clean", "test": "test-clean"}
MIXTURES = {  # by the number of speakers
    2: {"train-100": 13900, "train-360": 50800, "dev": 3000, "test": 3000},
    3: {"train-100": 9300, "train-360": 33900, "dev": 3000, "test": 3000},
}
GROUPS = {"tr": "seen", "cv": "unseen", "tt": "unseen"}
TABLES_FROM = "the tables are in the folder metadata of github.com/JorisCos/LibriMix"
_USE_PUBLISHED = f"use the table as it was published; {TABLES_FROM}"
_UTTERANCE = "-".join(["[A-Za-z0-9]+"] * 3)
_ID = re.compile(rf"{_UTTERANCE}(?:_{_UTTERANCE})*")
_PART = r"\w[\w.-]*"  # neither a hidden file nor "." or ".."
_PATH = re.compile(rf"{_PART}(?:/{_PART})+", re.ASCII)


@dataclass(frozen=True)
class LibriMixRow:
    """One mixture: paths below LibriSpeech with their gains, and a noise of WHAM! with its gain."""

    name: str
    paths: tuple[str, ...]
    gains: tuple[float, ...]
    noise: str = ""
    noise_gain: float = 0.0


@dataclass
class Tables:
    """The rows of all splits, and the digest of the files."""

    rows: dict[str, list[LibriMixRow]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    digest: str = ""


def subsets_of(train: str) -> dict[str, tuple[str, ...]]:
    """Return the subsets of each split. Raise UserError unless ``train`` is train-100, train-360 or both."""
    chosen = parse_choices("--train", train, ("train-100", "train-360"))
    return {"tr": tuple(sorted(chosen)), "cv": ("dev",), "tt": ("test",)}


def naming_of(speakers: int, subsets: Mapping[str, tuple[str, ...]]) -> Naming:
    """Return how LibriMix names the folders of its mixtures."""
    official = {split: sum(MIXTURES[speakers][name] for name in names) for split, names in subsets.items()}
    return Naming(subsets, official, GROUPS, _parse_name)


def _parse_name(stem: str) -> list[tuple[str, float]]:
    """Return the speakers in a name such as ``4077-13754-0001_5142-33396-0065``; it does not contain their levels."""
    return [(utterance.split("-")[0], 0.0) for utterance in stem.split("_")] if _ID.fullmatch(stem) else []


def read_tables(
    folder: Path, speakers: int, subsets: Mapping[str, Sequence[str]], preflight: Preflight, *, noise: bool
) -> Tables:
    """Read ``libri2mix_SUBSET.csv`` of the subsets; add what is wrong to ``preflight``.

    They are looked for in ``folder`` and its sub-folders ``Libri2Mix`` and ``metadata/Libri2Mix`` (or ``Libri3Mix``).
    The columns of the noise are read only with ``noise``.
    """
    tables, digest, seen = Tables(), hashlib.sha256(), set[str]()
    kind = f"Libri{speakers}Mix"
    for split, names in subsets.items():
        for name in names:
            file_name = f"{kind.lower()}_{CLEAN[name]}.csv"
            places = (folder / file_name, folder / kind / file_name, folder / "metadata" / kind / file_name)
            file = next((place for place in places if place.is_file()), None)
            if file is None:
                todo = f"say with --metadata where the tables are; {TABLES_FROM}"
                preflight.add_problem("table missing", todo, str(folder), file_name)
                continue
            text = file.read_bytes()
            digest.update(text)
            tables.rows[split] += _parse(text.decode(errors="replace"), file, speakers, preflight, seen, noise=noise)
    tables.digest = digest.hexdigest()
    return tables


def _parse(
    text: str, file: Path, speakers: int, preflight: Preflight, seen: set[str], *, noise: bool
) -> list[LibriMixRow]:
    order = range(1, speakers + 1)
    columns = ["mixture_ID", *(f"source_{i}_path" for i in order), *(f"source_{i}_gain" for i in order)]
    columns += ["noise_path", "noise_gain"] if noise else []
    lines = csv.reader(text.splitlines(), strict=True)
    rows: list[LibriMixRow] = []
    try:
        header = next(lines, [])
        missing = [column for column in columns if column not in header]
        if missing:
            preflight.add_problem(f"table without {', '.join(missing)}", _USE_PUBLISHED, str(file.parent), file.name)
            return []
        places = [header.index(column) for column in columns]
        for fields in lines:
            row = (
                _parse_row([fields[place] for place in places], speakers) if len(fields) == len(header) else "too short"
            )
            if isinstance(row, str):
                preflight.add_problem(f"line of a table: {row}", _USE_PUBLISHED, str(file), f"line {lines.line_num}")
            elif row.name in seen:
                preflight.add_problem(
                    "mixture twice in the tables", _USE_PUBLISHED, str(file), f"line {lines.line_num}"
                )
            else:
                seen.add(row.name)
                rows.append(row)
    except csv.Error as error:
        preflight.add_problem(f"line of a table: {error}", _USE_PUBLISHED, str(file), f"line {lines.line_num}")
    return rows


def _parse_row(fields: Sequence[str], speakers: int) -> LibriMixRow | str:
    """Return the row of fields in the order name, paths, gains, noise, its gain; or what is wrong with it."""
    name, paths = fields[0], tuple(fields[1 : speakers + 1])
    noise = fields[2 * speakers + 1] if len(fields) > 2 * speakers + 1 else ""
    try:
        gains = tuple(map(float, fields[speakers + 1 : 2 * speakers + 1]))
        noise_gain = float(fields[-1]) if noise else 0.0
    except ValueError:
        return "a gain is not a number"
    if not all(0 < gain < math.inf for gain in (*gains, noise_gain or 1.0)):
        return "a gain is not a positive number"
    if len(name) > 200 or not _ID.fullmatch(name):
        return "not a mixture_ID such as 4077-13754-0001_5142-33396-0065"
    if not all(map(_PATH.fullmatch, paths)):
        return "not a path such as test-clean/4077/13754/4077-13754-0001.flac"
    if noise and not _PATH.fullmatch(noise):
        return "not a path of noise such as tt/445c0204_1.7413_442c020t_-1.7413.wav"
    return LibriMixRow(name, paths, gains, noise, noise_gain)
