"""Evaluation of separated files of any system that a CSV lists, with their references and mixtures."""

import csv
import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from sepclip.audio.names import existing_path, normal_name
from sepclip.errors import UserError
from sepclip.evaluation.document import Provenance, ScoreDocument
from sepclip.evaluation.item_files import ItemFiles
from sepclip.scoring.items import Item, ScoringPlan
from sepclip.terminal import say

if TYPE_CHECKING:
    from typing import Unpack

    from sepclip.evaluation.evaluate_items import EvaluationOptions

_NEEDED = ("name", "source", "estimate", "reference")
_COLUMNS = (*_NEEDED, "mixture")


def evaluate_pairs(
    table: Path,
    folder: Path,
    plan: ScoringPlan,
    *,
    limit: int | None = None,
    fixed_order: bool = False,
    trim_seconds: float | None = None,
    **options: "Unpack[EvaluationOptions]",
) -> ScoreDocument:
    """Score the files that a CSV lists into ``folder``; see :func:`pair_items` and :func:`evaluate_items`."""
    from sepclip.evaluation.evaluate_items import evaluate_items

    items = pair_items(table, limit, fixed_order=fixed_order, trim_seconds=trim_seconds)
    about: Provenance = {"pairs": str(table), "trim_seconds": trim_seconds, "limit": limit}
    return evaluate_items(items, folder, about, plan, **options)


def pair_items(
    table: Path, limit: int | None = None, *, fixed_order: bool = False, trim_seconds: float | None = None
) -> list[Item]:
    """Return the files that a CSV lists as items: a line per source, ``name,source,estimate,reference[,mixture]``.

    Paths are relative to the folder of ``table``. Raises UserError for a missing column, an empty field, a source that
    is listed twice, several mixtures of one file, or a column whose name looks like a misspelt one.
    """
    # the lines of each file, in their order
    files: dict[str, list[dict[str, str]]] = {}
    for line, row in enumerate(_read_rows(table), start=2):
        if None in row or not all(row[column] for column in _NEEDED):
            wrong = "more fields than columns" if None in row else "an empty field"
            raise UserError(f"{table}, line {line}: {wrong}; give name, source, estimate and reference")
        sources = files.setdefault(row["name"], [])
        if row["source"] in [source["source"] for source in sources]:
            raise UserError(f"{table}, line {line}: source {row['source']} of {row['name']} for the second time")
        sources.append(row)
    items = []
    for name, sources in list(files.items())[:limit]:
        estimates, references = (
            {row["source"]: existing_path(table.parent, row[kind]) for row in sources}
            for kind in ("estimate", "reference")
        )
        mixtures = {row["mixture"] for row in sources if row.get("mixture")}
        if len(mixtures) > 1:
            raise UserError(f"{table}: {name} has {len(mixtures)} mixtures: {', '.join(sorted(mixtures))}")
        mixture = existing_path(table.parent, mixtures.pop()) if mixtures else None
        items.append(ItemFiles(estimates, references, mixture, fixed_order, trim_seconds).item(name))
    return items


def _read_rows(table: Path) -> list[dict[str, str]]:
    """Return the lines of a CSV by column, after a check of its columns."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
            for row in rows:
                row |= {column: normal_name(row[column] or "") for column in ("name", "source") if column in row}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} cannot be read: {error}") from error
    columns = [name for name in rows[0] if name is not None] if rows else []
    others = [name for name in columns if name not in _COLUMNS]
    for name in others:
        nearest = difflib.get_close_matches(name.strip().casefold(), _COLUMNS, 1)
        if nearest:
            raise UserError(f"{table}: there is no column {name!r}; did you mean {nearest[0]!r}?")
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise UserError(f"{table}: no column {', '.join(missing)}; needed: {','.join(_NEEDED)}, and optionally mixture")
    if others:
        say(f"{table}: not used: column {', '.join(others)}")
    return rows
