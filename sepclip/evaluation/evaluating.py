"""One function for all scoring: the rows, the summary and the files that are left of it."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sepclip
from sepclip.errors import UserError, counted
from sepclip.evaluation.document import SCHEMA_VERSION, document, kind_of, track_name, write_scores, write_track
from sepclip.scoring.items import Item, ScoreRow, ScoringPlan
from sepclip.scoring.journal import Journal
from sepclip.scoring.score_file import Frames
from sepclip.scoring.score_many import require_packages, score
from sepclip.terminal import say

JOURNAL = "scores.partial.jsonl"


def evaluate(
    items: Sequence[Item],
    folder: Path,
    about: dict[str, Any],
    plan: ScoringPlan,
    *,
    jobs: int | None = None,
    memory_gib: float | None = None,
    museval_json: bool = False,
) -> dict[str, Any]:
    """Score all items into ``folder`` and return what ``scores.json`` holds: ``about`` and all scores.

    What is finished is kept as it ends, so that the same call goes on after a kill. ``museval_json``: a file for each
    track too, as museval writes them. Raises UserError where nothing at all could be scored.
    """
    require_packages(plan)
    digest = _digest(items, about, plan, museval_json)
    journal = Journal(folder / JOURNAL, digest)
    if journal.replaced:
        say(f"{folder / JOURNAL} was of another scoring and is begun anew")

    def keep(index: int, rows: list[ScoreRow], frames: Frames) -> None:
        if frames:
            write_track(folder / "museval" / "test" / track_name(rows[0].name), rows, frames)

    memory = None if memory_gib is None else int(memory_gib * 2**30)
    try:
        rows = score(
            items, plan, jobs=jobs, journal=journal, keep=keep if museval_json else None, memory=memory
        )  # fmt: skip
    finally:
        journal.close()
    if all(row.status == "excluded" for row in rows):
        journal.remove()
        reasons = Counter(kind_of(row.reason or "") for row in rows).most_common(4)
        told = "; ".join(f"{reason} ({counted(count, 'source')})" for reason, count in reasons)
        raise UserError(f"no file could be scored: {told}; the first: {rows[0].name}: {rows[0].reason}")
    result = document(rows, about, plan, fixed_order=any(item.fixed_order for item in items))
    write_scores(folder, result)
    journal.remove()
    return result


def _digest(items: Sequence[Item], about: dict[str, Any], plan: ScoringPlan, museval_json: bool) -> str:
    """Return what stands for all that is scored, and how."""
    whole = [
        sepclip.__version__,
        SCHEMA_VERSION,
        about,
        asdict(plan),
        museval_json,
        [[item.identity, item.rows[0].name, len(item.rows)] for item in items],
    ]
    return hashlib.sha256(json.dumps(whole, default=str).encode()).hexdigest()
