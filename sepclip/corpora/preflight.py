"""What is looked at before any work: everything missing or wrong at once, each once, and the disk space."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from sepclip.errors import UserError

T = TypeVar("T")

RATES_HZ = (8000, 16000)  # that the corpora of mixtures have
MODES = ("min", "max")  # cut to the shortest source, or filled up to the longest
_SHOWN = 3  # names of a group that an error shows; --check shows all


def require_one_of(option: str, given: object, allowed: Sequence[object]) -> None:
    """Raise UserError where ``given`` is none of the values that an ``option`` such as "--mode" takes."""
    if given not in allowed:
        *others, last = map(str, allowed)
        raise UserError(f"{option} {given}: choose {', '.join(others)} or {last}")


def several(option: str, given: object, allowed: Sequence[T]) -> list[T]:
    """Return the values of an ``option`` that takes some of those ``allowed`` with commas; UserError for others."""
    by_name = {str(value): value for value in allowed}
    names = list(dict.fromkeys(name.strip() for name in str(given).split(",")))
    for name in names:
        require_one_of(option, name, allowed=tuple(by_name))
    return [by_name[name] for name in names]


def places_of(out: Path, rate: object, mode: object) -> dict[Path, tuple[int, str]]:
    """Return the folder, rate in Hz and mode of each set that --rate and --mode ask for.

    One set lies in ``out``, several in ``out``/wav8k/min and so on. Raises UserError for other rates and modes.
    """
    pairs = list(product(several("--rate", rate, RATES_HZ), several("--mode", mode, MODES)))
    if len(pairs) == 1:
        return {out: pairs[0]}
    return {out / f"wav{rate_hz // 1000}k" / one: (rate_hz, one) for rate_hz, one in pairs}


def require_folder(path: Path, what: str) -> None:
    """Raise UserError where ``path`` is no folder; ``what`` says what it should be, such as "the folder of WSJ0"."""
    if not path.is_dir():
        raise UserError(f"{path} is a file, not {what}" if path.exists() else f"{path}: no such folder")


@dataclass
class Preflight:
    """The findings of a look at a corpus.

    ``problems`` maps what is wrong and what to do about it to the names of the files, grouped by their folder.
    """

    out: Path
    facts: list[str] = field(default_factory=list)
    problems: dict[tuple[str, str], dict[str, dict[str, None]]] = field(default_factory=dict)
    needed_bytes: int = 0  # of what is still to be written
    smaller: str = ""  # how to need less disk space, such as "lower --tr, or "

    def wrong(self, what: str, todo: str, folder: str, name: str) -> None:
        """Note that ``name`` in ``folder`` is wrong; the same one again changes nothing."""
        self.problems.setdefault((what, todo), {}).setdefault(folder, {})[name] = None

    @property
    def free_bytes(self) -> int:
        """What the disk of ``out`` has left."""
        place = self.out.absolute()
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    def disk(self) -> str | None:
        """Return what is wrong with the disk, if anything is."""
        free = self.free_bytes
        if self.needed_bytes <= free:
            return None
        return (
            f"the disk of {self.out} has {free / 1e9:.2f} GB free and the mixtures need {self.needed_bytes / 1e9:.2f} "
            f"GB: make room{self.smaller}"
        )

    @property
    def fine(self) -> bool:
        """Tell whether the work can begin."""
        return not self.problems and self.disk() is None

    def lines(self, most: int | None = None) -> list[str]:
        """Return the problems as lines, of each folder at most so many names."""
        lines = []
        for (what, todo), folders in self.problems.items():
            lines.append(f"{what} ({sum(map(len, folders.values()))}): {todo}")
            for folder, names in sorted(folders.items()):
                shown = sorted(names)[:most]
                more = f", ... and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
                lines.append(f"  {folder} ({len(names)}): {', '.join(shown)}{more}")
        return lines + ([disk] if (disk := self.disk()) else [])

    def require(self) -> None:
        """Raise UserError with all problems, a few names of each, where there are any."""
        if self.fine:
            return
        lines = self.lines(_SHOWN)
        if any(len(names) > _SHOWN for folders in self.problems.values() for names in folders.values()):
            lines.append("--check lists all")
        raise UserError("\n".join(lines))

    def document(self) -> dict[str, Any]:
        """Return the findings as plain data."""
        return {
            "fine": self.fine,
            "facts": self.facts,
            "problems": [
                {"what": what, "todo": todo, "files": {folder: sorted(names) for folder, names in folders.items()}}
                for (what, todo), folders in self.problems.items()
            ],
            "disk": {"needed_bytes": self.needed_bytes, "free_bytes": self.free_bytes},
        }


class Made(Protocol):
    """What a preparation returns."""

    def document(self) -> dict[str, Any]:
        """Return what was made as plain data."""

    def told(self) -> str:
        """Return what was made in a line."""


M = TypeVar("M", bound=Made)


@dataclass(frozen=True)
class All:
    """Several sets that were made at once; one of them is told as such."""

    parts: Sequence[Made]

    def document(self) -> dict[str, Any]:
        """Return what was made as plain data."""
        documents = [part.document() for part in self.parts]
        return documents[0] if len(documents) == 1 else {"sets": documents}

    def told(self) -> str:
        """Return what was made, a line a set."""
        return "\n".join(part.told() for part in self.parts)


@dataclass(frozen=True)
class Plan(Generic[M]):
    """What a corpus has in mind: its findings, and the work, which may begin when they are fine."""

    preflight: Preflight
    make: Callable[[], M]
    already: bool = False  # nothing to do: ``make`` only tells
