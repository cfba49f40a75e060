"""Checks before any work: everything missing or wrong at once, each file named once, and the disk space."""

import math
import os
import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from sepclip.audio.bad_sound import NOT_SOUND, BadSound
from sepclip.audio.files import read_header
from sepclip.audio.sphere import shorten_header
from sepclip.errors import UserError, counted
from sepclip.terminal import warn_once

T = TypeVar("T")

RATES_HZ = (8000, 16000)  # of the official mixtures
MODES = ("min", "max")  # cut to the shortest source, or filled with silence to the longest
_MOST_NAMES = 3  # of a group in an error; --check lists all


def require_one_of(option: str, value: object, allowed: Sequence[object]) -> None:
    """Raise UserError if ``value`` is not one of the values ``allowed`` for an ``option`` such as "--mode"."""
    if value not in allowed:
        *others, last = map(str, allowed)
        raise UserError(f"{option} {value}: choose {', '.join(others)} or {last}")


def parse_choices(option: str, text: object, allowed: Sequence[T]) -> list[T]:
    """Return the values in a comma-separated ``option``. Raise UserError if one is not ``allowed``."""
    by_name = {str(value): value for value in allowed}
    names = list(dict.fromkeys(name.strip() for name in str(text).split(",")))
    for name in names:
        require_one_of(option, name, allowed=tuple(by_name))
    return [by_name[name] for name in names]


def set_folders(out: Path, rate: object, mode: object) -> dict[Path, tuple[int, str]]:
    """Return the folder, rate in Hz and mode of each set that --rate and --mode ask for.

    A single set goes to ``out``, several go to ``out``/wav8k/min and so on. Raise UserError for other rates and modes.
    """
    pairs = list(product(parse_choices("--rate", rate, RATES_HZ), parse_choices("--mode", mode, MODES)))
    if len(pairs) == 1:
        return {out: pairs[0]}
    return {out / f"wav{rate_hz // 1000}k" / name: (rate_hz, name) for rate_hz, name in pairs}


def require_folder(path: Path, what: str) -> None:
    """Raise UserError if ``path`` is not a folder; ``what`` says what it should be, such as "the folder of WSJ0"."""
    if not path.is_dir():
        raise UserError(f"{path} is a file, not {what}" if path.exists() else f"{path}: no such folder")


def count_samples(
    path: Path,
    rate_hz: int,
    *,
    channels: Sequence[int] = (1,),
    longest_seconds: float = math.inf,
    compressed: bool = False,
) -> int | str:
    """Return the samples that a sound file holds, or what is wrong with it, after the words "file with".

    It must have the rate and one of the numbers of ``channels``. ``compressed`` allows SPHERE files compressed by
    shorten.
    """
    try:
        header = shorten_header(path) if compressed else None
        if header is None:
            found = read_header(path)
            if found.header_fault:
                warn_once(f"{path}: {found.header_fault}")
            if found.loss:
                return f"a {found.loss.partition(':')[0]} sound"
            samples, file_rate_hz, file_channels = found.samples, found.rate_hz, found.channels
        else:
            samples, file_rate_hz, file_channels = header.samples, header.rate_hz, header.channels
    except BadSound as error:
        return "no readable sound" if error.reason == NOT_SOUND else error.reason
    if file_rate_hz != rate_hz or file_channels not in channels:
        return f"{counted(file_channels, 'channel')} at {file_rate_hz} Hz, not 1 at {rate_hz} Hz"
    if samples > longest_seconds * rate_hz:
        return f"a length of {samples / rate_hz:.1f} s, more than {longest_seconds:g} s"
    return samples if samples > 0 else "no samples"


def count_others(root: Path, known: Collection[Path]) -> str:
    """Return how many files below ``root`` are not ``known``, by extension, such as ``10 .pdf, 2 .txt``.

    Hidden files do not count.
    """
    counts: Counter[str] = Counter()
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        others = (path for name in names if not name.startswith(".") and (path := Path(folder, name)) not in known)
        counts.update(path.suffix.lower() or "without extension" for path in others)
    return ", ".join(
        f"{count} {suffix}" for suffix, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


@dataclass
class Preflight:
    """The findings of the checks of a corpus.

    ``problems`` maps what is wrong and what to do about it to the names of the files, grouped by their folder.
    """

    out: Path
    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # printed even if the work begins
    problems: dict[tuple[str, str], dict[str, dict[str, None]]] = field(default_factory=dict)
    needed_bytes: int = 0  # of what is still to be written
    smaller: str = ""  # how to need less disk space, such as ", or lower --tr"

    def add_problem(self, what: str, todo: str, folder: str, name: str) -> None:
        """Note that ``name`` in ``folder`` is wrong; noting the same again changes nothing."""
        self.problems.setdefault((what, todo), {}).setdefault(folder, {})[name] = None

    @property
    def free_bytes(self) -> int:
        """The free space on the disk of ``out``."""
        folder = self.out.absolute()
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def disk_problem(self) -> str | None:
        """Return what is wrong with the disk, or None."""
        free = self.free_bytes
        if self.needed_bytes <= free:
            return None
        return (
            f"the disk of {self.out} has {free / 1e9:.2f} GB free and the mixtures need {self.needed_bytes / 1e9:.2f} "
            f"GB: make room{self.smaller}"
        )

    @property
    def is_ready(self) -> bool:
        """Whether the work can begin."""
        return not self.problems and self.disk_problem() is None

    def lines(self, most: int | None = None) -> list[str]:
        """Return the problems as lines, with at most ``most`` names for each folder."""
        lines = []
        for (what, todo), folders in self.problems.items():
            lines.append(f"{what} ({sum(map(len, folders.values()))}): {todo}")
            for folder, names in sorted(folders.items()):
                listed = sorted(names)[:most]
                more = f", ... and {len(names) - len(listed)} more" if len(listed) < len(names) else ""
                lines.append(f"  {folder} ({len(names)}): {', '.join(listed)}{more}")
        return lines + ([disk] if (disk := self.disk_problem()) else [])

    def require(self) -> None:
        """Raise UserError with all problems, and a few names of each, if there are any."""
        if self.is_ready:
            return
        lines = self.lines(_MOST_NAMES)
        if any(len(names) > _MOST_NAMES for folders in self.problems.values() for names in folders.values()):
            lines.append("--check lists all")
        raise UserError("\n".join(lines))

    def document(self) -> dict[str, Any]:
        """Return the findings as plain data."""
        return {
            "fine": self.is_ready,
            "facts": [*self.facts, *self.warnings],
            "problems": [
                {"what": what, "todo": todo, "files": {folder: sorted(names) for folder, names in folders.items()}}
                for (what, todo), folders in self.problems.items()
            ],
            "disk": {"needed_bytes": self.needed_bytes, "free_bytes": self.free_bytes},
        }
