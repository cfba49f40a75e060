"""Comparing names of voices, stems and files, whose letters Unicode spells in two ways."""

import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path


def normal_name(name: str) -> str:
    """Return a name in the normal form NFC.

    macOS writes the names of files decomposed (NFD: "e" and an accent), keyboards and most programs composed (NFC: one
    letter). Both look alike, and are the same name here.
    """
    return unicodedata.normalize("NFC", name)


def existing_path(folder: Path, relative: str) -> Path:
    """Return a path below ``folder``, spelled as the file that is there, if one is."""
    paths = [folder / spelled for spelled in (relative, *(unicodedata.normalize(f, relative) for f in ("NFC", "NFD")))]
    return next((path for path in paths if path.exists()), paths[0])


def split_names(texts: Iterable[str], known: Collection[str]) -> list[str]:
    """Return the names in ``texts``, each a name or several with commas between them.

    A name may contain commas itself: if parts that follow each other form a ``known`` name, they are one. White space
    around commas does not count.
    """
    spelled = {_tight(name): name for name in map(normal_name, known)}
    names: list[str] = []
    for text in texts:
        parts = [part for part in _tight(text).split(",") if part]
        while parts:
            # the longest known name that begins here, or else one part
            ends = (end for end in range(len(parts), 1, -1) if ",".join(parts[:end]) in spelled)
            end = next(ends, 1)
            name = ",".join(parts[:end])
            names.append(spelled.get(name, name))
            parts = parts[end:]
    return names


def _tight(text: str) -> str:
    return re.sub(r"\s*,\s*", ",", normal_name(text).strip())
