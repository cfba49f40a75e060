"""Estimates and references of any system: folders matched by their names, or pairs listed in a file."""

import csv
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from sepclip.audio.files import find_sounds, name_below, read_sound
from sepclip.errors import UserError, counted
from sepclip.scoring.items import Item, ScoreRow, Waves, default_frame

FOLDERS, NAMES = "{source}/{name}", "{name}_{source}"
_SOURCE = r"s\d+"
_MIXTURES = ("mix", "mixture")  # never a source, whatever the pattern
_PAIR_COLUMNS = ("name", "source", "estimate", "reference")


@dataclass(frozen=True)
class _Files:
    """The files of one item, read when they are asked for; None where they are missing."""

    estimates: dict[str, Path] | None
    references: dict[str, Path] | None
    mixture: Path | None

    def __call__(self) -> Waves | str:
        """Read what one file is scored from, or return why it cannot be scored."""
        if self.estimates is None:
            return "no estimate"
        if self.references is None:
            return "no reference"
        if len(self.estimates) != len(self.references):
            return f"{counted(len(self.estimates), 'estimate')} for {counted(len(self.references), 'reference')}"
        if set(self.estimates) != set(self.references):
            one, other = (", ".join(sorted(names)) for names in (self.estimates, self.references))
            return f"different sources: estimates of {one}, references of {other}"
        estimates = [self.estimates[source] for source in self.references]
        sounds = [read_sound(path) for path in (*self.references.values(), *estimates, *self._mixtures())]
        rates = sorted({sound.rate_hz for sound in sounds})
        if len(rates) > 1:
            return f"different rates: {', '.join(f'{rate} Hz' for rate in rates)}"
        if len({sound.samples.shape[0] for sound in sounds}) > 1:
            return "different numbers of channels"
        lengths = [sound.samples.shape[1] for sound in sounds]
        if min(lengths) == 0:
            return "0 samples"
        if max(lengths) - min(lengths) > default_frame(rates[0])[1]:  # a hop more or less is only padding
            return f"different lengths: {min(lengths)} to {max(lengths)} samples"
        notes = ("cut to the shorter length",) if len(set(lengths)) > 1 else ()
        count = len(estimates)
        ref, est = (
            np.stack([sound.samples[:, : min(lengths)].T for sound in part])  # (S, T, C)
            for part in (sounds[:count], sounds[count : 2 * count])
        )
        mixture = sounds[-1].samples[:, : min(lengths)].T if self.mixture else ref.sum(0, dtype=np.float64)  # (T, C)
        return Waves(rates[0], est=est, ref=ref, mixture=mixture, notes=notes)

    def _mixtures(self) -> list[Path]:
        return [self.mixture] if self.mixture else []

    def _paths(self) -> list[Path]:
        return [*(self.references or {}).values(), *(self.estimates or {}).values(), *self._mixtures()]

    def identity(self) -> str:
        """Return what changes with the files."""
        stats = [(path, path.stat()) for path in self._paths() if path.is_file()]
        return " ".join(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)

    def size(self) -> tuple[int, int]:
        """Return samples times sources times channels, and channels, by the headers; 0 and 1 where they say nothing."""
        try:
            infos = [soundfile.info(path) for path in (self.references or {}).values()]
        except (soundfile.SoundFileError, OSError):
            return 0, 1  # reading them says what is wrong
        return sum(info.frames * info.channels for info in infos), max((info.channels for info in infos), default=1)


def folder_items(
    estimates: Path,
    references: Path,
    mixtures: Path | None = None,
    limit: int | None = None,
    *,
    estimate_pattern: str | None = None,
    reference_pattern: str | None = None,
    fixed_order: bool = False,
    only: Collection[str] | None = None,
) -> list[Item]:
    """Return the files of two folders, matched by name, each read when it is loaded; ``only`` those of some names.

    Patterns say where a file's name and source stand in its path below the folder, without its extension:
    ``{source}/{name}`` (where there is a folder s1) or ``{name}_{source}`` by default, with sources s1, s2, ...; with a
    pattern given, a source is any word. The mixture is looked for as ``mix/NAME`` in ``references``, or as ``NAME`` in
    ``mixtures``, and is the sum of the references where there is none.
    """
    true, found = find_sources(references, reference_pattern), find_sources(estimates, estimate_pattern)
    if not true:
        wanted = reference_pattern or "s1/NAME.wav, s2/NAME.wav nor NAME_s1.wav, NAME_s2.wav"
        raise UserError(f"{references} holds no references: neither {wanted}")
    if not set(true) & set(found):
        raise UserError(
            f"{estimates} holds no estimate of any of the {counted(len(true), 'reference')} in {references}, "
            f"such as {min(true)!r}"
        )
    mixture_folder = mixtures or references / "mix"
    mixed = {_name(path, mixture_folder): path for path in find_sounds(mixture_folder)[0]}
    if mixtures is not None and not mixed:
        raise UserError(f"{mixtures}: no such folder, or one without mixtures")
    names = [name for name in sorted({*true, *found})[:limit] if only is None or name in only]
    return [_item(name, _Files(found.get(name), true.get(name), mixed.get(name)), fixed_order) for name in names]


def pair_items(table: Path, limit: int | None = None, *, fixed_order: bool = False) -> list[Item]:
    """Return the files that a CSV lists: ``name,source,estimate,reference`` and perhaps ``mixture``, a row a source.

    Paths are relative to the folder of ``table``.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} cannot be read: {error}") from error
    missing = [name for name in _PAIR_COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise UserError(f"{table}: no column {', '.join(missing)}; wanted: {','.join(_PAIR_COLUMNS)} and maybe mixture")
    files: dict[str, list[dict[str, str]]] = {}
    for line, row in enumerate(rows, start=2):
        if not all(row[column] for column in _PAIR_COLUMNS):
            raise UserError(f"{table}, line {line}: an empty field; give name, source, estimate and reference")
        others = files.setdefault(row["name"], [])
        if row["source"] in [other["source"] for other in others]:
            raise UserError(f"{table}, line {line}: source {row['source']} of {row['name']} for the second time")
        others.append(row)
    items = []
    for name, sources in list(files.items())[:limit]:
        estimates, references = (
            {row["source"]: table.parent / row[kind] for row in sources} for kind in ("estimate", "reference")
        )
        mixtures = {row["mixture"] for row in sources if row.get("mixture")}
        if len(mixtures) > 1:
            raise UserError(f"{table}: {name} has {len(mixtures)} mixtures: {', '.join(sorted(mixtures))}")
        mixture = table.parent / mixtures.pop() if mixtures else None
        items.append(_item(name, _Files(estimates, references, mixture), fixed_order))
    return items


def _item(name: str, files: _Files, fixed_order: bool) -> Item:
    rows = [ScoreRow(name, source) for source in (files.references or files.estimates or {})]
    values, channels = files.size()
    identity = files.identity()
    return Item(rows, files, values=values, channels=channels, identity=identity, fixed_order=fixed_order)


def _name(path: Path, folder: Path) -> str:
    return name_below(path.with_suffix(""), folder)


def find_sources(folder: Path, pattern: str | None = None) -> dict[str, dict[str, Path]]:
    """Return the sources of every name below ``folder``, in their order."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    layout = FOLDERS if (folder / "s1").is_dir() else NAMES
    expression = _expression(pattern, "[^/]+") if pattern else _expression(layout, _SOURCE)
    named: dict[str, dict[str, Path]] = {}
    for path in find_sounds(folder)[0]:
        match = re.fullmatch(expression, _name(path, folder))
        if match and match["source"] not in _MIXTURES:
            other = named.setdefault(match["name"], {}).setdefault(match["source"], path)
            if other != path:
                raise UserError(f"{other} and {path} are both source {match['source']} of one file: remove one of them")
    return {name: {key: paths[key] for key in _ordered(paths)} for name, paths in named.items()}


def _expression(pattern: str, source: str) -> str:
    """Return the regular expression of a pattern such as ``{name}/{source}``."""
    if pattern.count("{name}") != 1 or pattern.count("{source}") != 1:
        raise UserError(f"pattern {pattern!r}: give {{name}} and {{source}} once each, such as '{{name}}/{{source}}'")
    parts = re.split(r"(\{name\}|\{source\}|\*)", pattern)
    words = {"{name}": "(?P<name>.+)", "{source}": f"(?P<source>{source})", "*": "[^/]*"}
    return "".join(words.get(part, re.escape(part)) for part in parts)


def _ordered(sources: Iterable[str]) -> list[str]:
    """Return s1, s2, ..., s10 by number, all else by name."""

    def place(name: str) -> tuple[str, int, str]:
        return re.sub(r"\d+", "", name), int("".join(re.findall(r"\d", name)) or 0), name

    return sorted(sources, key=place)
