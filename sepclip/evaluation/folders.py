"""Evaluation of separated files of any system: folders matched by their names, or pairs listed in a CSV."""

import csv
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from sepclip.audio.files import find_sounds, name_below, read_sound
from sepclip.errors import UserError, counted
from sepclip.evaluation.document import ScoreDocument
from sepclip.scoring.items import Item, ScoreRow, ScoringPlan, Waves, default_frame

if TYPE_CHECKING:
    from typing import Unpack

    from sepclip.evaluation.evaluate_items import EvaluationOptions

FOLDERS, NAMES = "{source}/{name}", "{name}_{source}"  # the default patterns
_SOURCE = r"s\d+"  # what {source} matches in a default pattern
_MIXTURES = ("mix", "mixture")  # these are never sources
_PAIR_COLUMNS = ("name", "source", "estimate", "reference")


def evaluate_folders(
    estimates: Path,
    references: Path,
    folder: Path,
    plan: ScoringPlan,
    *,
    mixtures: Path | None = None,
    limit: int | None = None,
    estimate_pattern: str | None = None,
    reference_pattern: str | None = None,
    fixed_order: bool = False,
    **options: "Unpack[EvaluationOptions]",
) -> ScoreDocument:
    """Score the files of two folders into ``folder``; see :func:`folder_items` and :func:`evaluate_items`."""
    from sepclip.evaluation.evaluate_items import evaluate_items  # imports scipy, which folder_items does not need

    items = folder_items(
        estimates, references, mixtures, limit, fixed_order=fixed_order,
        estimate_pattern=estimate_pattern, reference_pattern=reference_pattern,
    )  # fmt: skip
    return evaluate_items(
        items,
        folder,
        {
            "estimates": str(estimates),
            "references": str(references),
            "mixtures": None if mixtures is None else str(mixtures),
            "estimate_pattern": estimate_pattern,
            "reference_pattern": reference_pattern,
            "limit": limit,
        },
        plan,
        **options,
    )


def evaluate_pairs(
    table: Path,
    folder: Path,
    plan: ScoringPlan,
    *,
    limit: int | None = None,
    fixed_order: bool = False,
    **options: "Unpack[EvaluationOptions]",
) -> ScoreDocument:
    """Score the files that a CSV lists into ``folder``; see :func:`pair_items` and :func:`evaluate_items`."""
    from sepclip.evaluation.evaluate_items import evaluate_items

    items = pair_items(table, limit, fixed_order=fixed_order)
    return evaluate_items(items, folder, {"pairs": str(table), "limit": limit}, plan, **options)


@dataclass(frozen=True)
class _ItemFiles:
    """The loader of one item: the paths of its files by source, read when called; None for missing ones."""

    estimates: dict[str, Path] | None
    references: dict[str, Path] | None
    mixture: Path | None

    def __call__(self) -> Waves | str:
        """Read the files, or return why they cannot be scored."""
        if self.estimates is None:
            return "no estimate"
        if self.references is None:
            return "no reference"
        if len(self.estimates) != len(self.references):
            return f"{counted(len(self.estimates), 'estimate')} for {counted(len(self.references), 'reference')}"
        if set(self.estimates) != set(self.references):
            names = [", ".join(sorted(sources)) for sources in (self.estimates, self.references)]
            return f"different sources: estimates of {names[0]}, references of {names[1]}"
        estimates = [self.estimates[source] for source in self.references]
        sounds = [read_sound(path) for path in (*self.references.values(), *estimates, *self._mixtures())]
        # nothing is resampled or mixed down: that would change the scores
        rates = sorted({sound.rate_hz for sound in sounds})
        if len(rates) > 1:
            return f"different rates: {', '.join(f'{rate} Hz' for rate in rates)}"
        if len({sound.samples.shape[0] for sound in sounds}) > 1:
            return "different numbers of channels"
        lengths = [sound.samples.shape[1] for sound in sounds]
        if min(lengths) == 0:
            return "0 samples"
        if max(lengths) - min(lengths) > default_frame(rates[0])[1]:  # a difference of up to a hop is only padding
            return f"different lengths: {min(lengths)} to {max(lengths)} samples"
        notes = ("cut to the shorter length",) if len(set(lengths)) > 1 else ()
        # stack them in the order in which they were read
        count = len(estimates)
        ref, est = (
            np.stack([sound.samples[:, : min(lengths)].T for sound in part])  # (S, T, C)
            for part in (sounds[:count], sounds[count : 2 * count])
        )
        mixture = sounds[-1].samples[:, : min(lengths)].T if self.mixture else ref.sum(0, dtype=np.float64)  # (T, C)
        return Waves(rates[0], est=est, ref=ref, mixture=mixture, notes=notes)

    def _mixtures(self) -> list[Path]:
        return [self.mixture] if self.mixture else []

    def identity(self) -> str:
        """Return a text that changes with the files."""
        paths = [*(self.references or {}).values(), *(self.estimates or {}).values(), *self._mixtures()]
        stats = [(path, path.stat()) for path in paths if path.is_file()]
        return " ".join(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)

    def size(self) -> tuple[int, int]:
        """Return samples times sources times channels, and channels, by the headers; 0 and 1 if one is unreadable."""
        try:
            infos = [soundfile.info(os.fsencode(path)) for path in (self.references or {}).values()]
        except (soundfile.SoundFileError, OSError):
            return 0, 1  # reading the files will say what is wrong
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
    """Return the files of two folders as items, matched by name, each read when it is loaded.

    Patterns give the positions of a file's name and source in its path below the folder, without extension:
    ``{source}/{name}`` (if there is a folder s1) or ``{name}_{source}`` by default, with sources s1, s2, ...; in a
    given pattern, a source is any word. The mixture is ``mix/NAME`` in ``references``, or ``NAME`` in ``mixtures``, or
    the sum of the references if there is no such file. ``limit``: the first so many; ``only``: those with these names.
    Raises UserError if there are no references, no estimates of them, or no files in ``mixtures``.
    """
    references_by_name = find_sources(references, reference_pattern)
    estimates_by_name = find_sources(estimates, estimate_pattern)
    if not references_by_name:
        wanted = reference_pattern or "s1/NAME.wav, s2/NAME.wav or NAME_s1.wav, NAME_s2.wav"
        raise UserError(f"{references} contains no references: expected {wanted}")
    if not set(references_by_name) & set(estimates_by_name):
        raise UserError(
            f"{estimates} contains no estimate of any of the {counted(len(references_by_name), 'reference')} in "
            f"{references}, such as {min(references_by_name)!r}"
        )
    mixture_by_name = dict(_named_sounds(mixtures or references / "mix"))
    if mixtures is not None and not mixture_by_name:
        raise UserError(f"{mixtures}: no such folder, or one without mixtures")
    names = sorted({*references_by_name, *estimates_by_name})[:limit]
    files = {
        name: _ItemFiles(estimates_by_name.get(name), references_by_name.get(name), mixture_by_name.get(name))
        for name in names
        if only is None or name in only
    }
    return [_item(name, item_files, fixed_order) for name, item_files in files.items()]


def pair_items(table: Path, limit: int | None = None, *, fixed_order: bool = False) -> list[Item]:
    """Return the files that a CSV lists as items: a line per source, ``name,source,estimate,reference[,mixture]``.

    Paths are relative to the folder of ``table``. Raises UserError for a missing column, an empty field, a source that
    is listed twice, or several mixtures of one file.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} cannot be read: {error}") from error
    missing = [name for name in _PAIR_COLUMNS if not rows or name not in rows[0]]
    if missing:
        columns = ",".join(_PAIR_COLUMNS)
        raise UserError(f"{table}: no column {', '.join(missing)}; needed: {columns}, and optionally mixture")
    # the lines of each file, in their order
    files: dict[str, list[dict[str, str]]] = {}
    for line, row in enumerate(rows, start=2):
        if not all(row[column] for column in _PAIR_COLUMNS):
            raise UserError(f"{table}, line {line}: an empty field; give name, source, estimate and reference")
        sources = files.setdefault(row["name"], [])
        if row["source"] in [source["source"] for source in sources]:
            raise UserError(f"{table}, line {line}: source {row['source']} of {row['name']} for the second time")
        sources.append(row)
    items = []
    for name, sources in list(files.items())[:limit]:
        estimates, references = (
            {row["source"]: table.parent / row[kind] for row in sources} for kind in ("estimate", "reference")
        )
        mixtures = {row["mixture"] for row in sources if row.get("mixture")}
        if len(mixtures) > 1:
            raise UserError(f"{table}: {name} has {len(mixtures)} mixtures: {', '.join(sorted(mixtures))}")
        mixture = table.parent / mixtures.pop() if mixtures else None
        items.append(_item(name, _ItemFiles(estimates, references, mixture), fixed_order))
    return items


def _item(name: str, files: _ItemFiles, fixed_order: bool) -> Item:
    rows = [ScoreRow(name, source) for source in (files.references or files.estimates or {})]
    total_samples, channels = files.size()
    return Item(
        rows,
        files,
        total_samples=total_samples,
        channels=channels,
        identity=files.identity(),
        fixed_order=fixed_order,
    )


def _named_sounds(folder: Path) -> list[tuple[str, Path]]:
    """Return the sound files below ``folder``, each with its path in it without extension."""
    return [(name_below(path.with_suffix(""), folder), path) for path in find_sounds(folder)[0]]


def find_sources(folder: Path, pattern: str | None = None) -> dict[str, dict[str, Path]]:
    """Return the files of every name below ``folder`` by source, with sources in their order.

    Raises UserError if the folder does not exist, the pattern is wrong, or two files are the same source.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    layout = FOLDERS if (folder / "s1").is_dir() else NAMES
    expression = _expression(pattern, "[^/]+") if pattern else _expression(layout, _SOURCE)
    files: dict[str, dict[str, Path]] = {}
    for name, path in _named_sounds(folder):
        match = re.fullmatch(expression, name)
        if match and match["source"] not in _MIXTURES:
            first = files.setdefault(match["name"], {}).setdefault(match["source"], path)
            if first != path:
                raise UserError(f"{first} and {path} are both source {match['source']} of one file: remove one of them")
    return {name: {source: paths[source] for source in _in_order(paths)} for name, paths in files.items()}


def _expression(pattern: str, source: str) -> str:
    """Return the regular expression of a pattern such as ``{name}/{source}``."""
    if pattern.count("{name}") != 1 or pattern.count("{source}") != 1:
        raise UserError(f"pattern {pattern!r}: give {{name}} and {{source}} once each, such as '{{name}}/{{source}}'")
    parts = re.split(r"(\{name\}|\{source\}|\*)", pattern)
    expressions = {"{name}": "(?P<name>.+)", "{source}": f"(?P<source>{source})", "*": "[^/]*"}
    return "".join(expressions.get(part, re.escape(part)) for part in parts)


def _in_order(sources: Iterable[str]) -> list[str]:
    """Return s1, s2, ..., s10 by number, other names by name."""

    def key(name: str) -> tuple[str, int, str]:
        return re.sub(r"\d+", "", name), int("".join(re.findall(r"\d", name)) or 0), name

    return sorted(sources, key=key)
