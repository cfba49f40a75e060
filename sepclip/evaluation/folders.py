"""Evaluation of separated files of any system, matched with references and mixtures by their names in folders."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sepclip.audio.files import find_sounds, name_below
from sepclip.audio.names import normal_name
from sepclip.errors import UserError, counted
from sepclip.evaluation.document import ScoreDocument
from sepclip.evaluation.item_files import ItemFiles
from sepclip.scoring.items import Item, ScoringPlan

if TYPE_CHECKING:
    from typing import Unpack

    from sepclip.evaluation.evaluate_items import EvaluationOptions

FOLDERS, NAMES = "{source}/{name}", "{name}_{source}"  # the default patterns
_SOURCE = r"s\d+"  # what {source} matches in a default pattern
_MIXTURES = ("mix", "mixture")  # these are never sources


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
    trim_seconds: float | None = None,
    **options: "Unpack[EvaluationOptions]",
) -> ScoreDocument:
    """Score the files of two folders into ``folder``; see :func:`folder_items` and :func:`evaluate_items`."""
    from sepclip.evaluation.evaluate_items import evaluate_items  # imports scipy, which folder_items does not need

    items = folder_items(
        estimates, references, mixtures, limit, fixed_order=fixed_order, trim_seconds=trim_seconds,
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
            "trim_seconds": trim_seconds,
            "limit": limit,
        },
        plan,
        **options,
    )


def folder_items(
    estimates: Path,
    references: Path,
    mixtures: Path | None = None,
    limit: int | None = None,
    *,
    estimate_pattern: str | None = None,
    reference_pattern: str | None = None,
    fixed_order: bool = False,
    trim_seconds: float | None = None,
    only: Collection[str] | None = None,
) -> list[Item]:
    """Return the files of two folders as items, matched by name, each read when it is loaded.

    Patterns give the positions of a file's name and source in its path below the folder, without extension:
    ``{source}/{name}`` (if there is a folder s1) or ``{name}_{source}`` by default, with sources s1, s2, ...; in a
    given pattern, a source is any word. The mixture is ``mix/NAME`` in ``references`` or the file with ``mix`` or
    ``mixture`` instead of a source; in ``mixtures``, if given, also ``NAME`` alone. Without such a file, the sum of
    the references takes its place, with a note. ``limit``: the first so many; ``only``: those with these names.
    Raises UserError if there are no references, no estimates of them, or nothing in ``mixtures`` for any of them.
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
    pattern = reference_pattern or _default_pattern(references)
    if mixtures is None:
        mixture_by_name = _find_mixtures(references, pattern, references_by_name, alone=False)
    else:
        mixture_by_name = _find_mixtures(mixtures, pattern, references_by_name, alone=True)
        if not mixture_by_name:
            kinds = ", ".join(dict.fromkeys(("{name}", "mix/{name}", pattern.replace("{source}", "mixture"))))
            raise UserError(
                f"{mixtures} contains no mixture of any of the {counted(len(references_by_name), 'file')} to score, "
                f"such as {min(references_by_name)!r}: expected {kinds}; leave out --mixtures to use the mixtures "
                "beside the references, or else the sum of the references"
            )
    names = sorted({*references_by_name, *estimates_by_name})[:limit]
    files = {
        name: ItemFiles(
            estimates_by_name.get(name), references_by_name.get(name), mixture_by_name.get(name), fixed_order,
            trim_seconds,
        )
        for name in names
        if only is None or name in set(map(normal_name, only))
    }  # fmt: skip
    return [item_files.item(name) for name, item_files in files.items()]


def _find_mixtures(folder: Path, pattern: str, names: Collection[str], *, alone: bool) -> dict[str, Path]:
    """Return the mixtures of ``names`` below ``folder``; with ``alone``, a file that is called NAME is one too.

    Raises UserError if the folder does not exist, or if two files are the mixture of one name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    expressions = [_expression(one, "|".join(_MIXTURES)) for one in dict.fromkeys((FOLDERS, pattern))]
    found: dict[str, Path] = {}
    for path_name, path in _named_sounds(folder):
        matches = [match["name"] for expression in expressions if (match := re.fullmatch(expression, path_name))]
        for name in {*matches, *([path_name] if alone else [])} & set(names):
            first = found.setdefault(name, path)
            if first != path:
                raise UserError(f"{first} and {path} are both the mixture of {name}: remove one of them")
    return found


def _named_sounds(folder: Path) -> list[tuple[str, Path]]:
    """Return the sound files below ``folder``, each with its path in it without extension."""
    return [(normal_name(name_below(path.with_suffix(""), folder)), path) for path in find_sounds(folder)[0]]


def find_sources(folder: Path, pattern: str | None = None) -> dict[str, dict[str, Path]]:
    """Return the files of every name below ``folder`` by source, with sources in their order.

    Raises UserError if the folder does not exist, the pattern is wrong, or two files are the same source.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    expression = _expression(pattern, "[^/]+") if pattern else _expression(_default_pattern(folder), _SOURCE)
    files: dict[str, dict[str, Path]] = {}
    for name, path in _named_sounds(folder):
        match = re.fullmatch(expression, name)
        if match and match["source"] not in _MIXTURES:
            first = files.setdefault(match["name"], {}).setdefault(match["source"], path)
            if first != path:
                raise UserError(f"{first} and {path} are both source {match['source']} of one file: remove one of them")
    return {name: {source: paths[source] for source in _in_order(paths)} for name, paths in files.items()}


def _default_pattern(folder: Path) -> str:
    return FOLDERS if (folder / "s1").is_dir() else NAMES


def _expression(pattern: str, source: str) -> str:
    """Return the regular expression of a pattern such as ``{name}/{source}``."""
    if pattern.count("{name}") != 1 or pattern.count("{source}") != 1:
        raise UserError(f"pattern {pattern!r}: give {{name}} and {{source}} once each, such as '{{name}}/{{source}}'")
    parts = re.split(r"(\{name\}|\{source\}|\*)", normal_name(pattern))
    expressions = {"{name}": "(?P<name>.+)", "{source}": f"(?P<source>{source})", "*": "[^/]*"}
    return "".join(expressions.get(part, re.escape(part)) for part in parts)


def _in_order(sources: Iterable[str]) -> list[str]:
    """Return s1, s2, ..., s10 by number, other names by name."""

    def key(name: str) -> tuple[str, int, str]:
        return re.sub(r"\d+", "", name), int("".join(re.findall(r"\d", name)) or 0), name

    return sorted(sources, key=key)
