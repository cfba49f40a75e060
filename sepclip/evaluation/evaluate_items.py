"""The evaluation that all commands share: score the items, summarise the rows, write the files."""

import hashlib
import importlib.metadata
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict, Unpack

import sepclip
from sepclip.audio.leftovers import remove_leftovers
from sepclip.errors import UserError, counted
from sepclip.evaluation.document import SCHEMA_VERSION, Leakage, Provenance, ScoreDocument
from sepclip.evaluation.journal import Journal
from sepclip.evaluation.summary import reason_kind, summarise_parts
from sepclip.evaluation.write_scores import track_path, write_scores, write_track
from sepclip.scoring.items import Item, ScoreRow, ScoringPlan
from sepclip.scoring.score_many import require_packages, score_files
from sepclip.scoring.table import columns
from sepclip.terminal import say, track

JOURNAL = "scores.partial.jsonl"


class EvaluationOptions(TypedDict, total=False):
    """How to evaluate; none of it changes a score that fits into the memory."""

    jobs: int | None  # processes that score; None: one per core, 0: this process
    memory_gib: float | None  # for all of them together; None: 80 % of what is free
    museval_json: bool  # also write a file for each track, as museval does
    leakage: Leakage  # of the training into the items, for the summary


def evaluate_items(
    items: Sequence[Item], folder: Path, about: Provenance, plan: ScoringPlan, **options: Unpack[EvaluationOptions]
) -> ScoreDocument:
    """Score all items into ``folder`` and return what ``scores.json`` contains: ``about`` and all scores.

    Each file is kept in a journal as it ends, so that the same call resumes after a kill. Raises UserError if nothing
    at all could be scored, or if a package is missing.
    """
    require_packages(plan)
    memory_gib, museval_json = options.get("memory_gib"), options.get("museval_json", False)
    memory = None if memory_gib is None else int(memory_gib * 2**30)
    remove_leftovers(folder, track_path(folder, "").parent)
    # open the journal, with what an earlier call with the same digest left
    journal = Journal(folder / JOURNAL, _digest(items, about, plan, museval_json))
    if journal.replaced:
        say(f"{folder / JOURNAL} is from another evaluation: starting over")
    finished = dict(journal.finished)
    if finished:
        say(f"resuming: {counted(len(finished), 'file')} of {len(items)} scored already")
    try:
        scored = score_files(items, plan, jobs=options.get("jobs"), memory=memory, skip=journal.finished)
        # for each file, in the order in which they end
        for index, rows, frames in track(scored, len(items) - len(finished), "scoring"):
            finished[index] = rows
            if museval_json and frames:
                write_track(track_path(folder, rows[0].name), rows, frames)
            journal.add(index, rows)
    finally:
        journal.close()
    # all rows in the order of the items
    all_rows = [row for index in range(len(items)) for row in finished[index]]
    if all(row.status == "excluded" for row in all_rows):
        journal.remove()
        raise _nothing_scored(all_rows)
    document = build_document(all_rows, about, plan, fixed_order=any(item.fixed_order for item in items))
    if "leakage" in options:
        document["summary"]["leakage"] = options["leakage"]
    write_scores(folder, document)
    journal.remove()
    return document


def _nothing_scored(rows: Sequence[ScoreRow]) -> UserError:
    """Return the error for rows without any score: the usual reasons, and the first file."""
    common = Counter(reason_kind(row.reason or "") for row in rows).most_common(4)
    reasons = "; ".join(f"{reason} ({counted(count, 'source')})" for reason, count in common)
    return UserError(f"no file could be scored: {reasons}; the first: {rows[0].name}: {rows[0].reason}")


def build_document(
    rows: Sequence[ScoreRow], about: Provenance, plan: ScoringPlan, *, fixed_order: bool = False
) -> ScoreDocument:
    """Return what ``scores.json`` contains: definitions, ``about``, the summary and all rows."""
    scores = columns(plan.metrics, plan.oracles, plan.improvements)
    return {
        "schema_version": SCHEMA_VERSION,
        "metrics": {name: definition for name, (_, definition, _) in scores.items()},
        "units": {name: unit for name, (_, _, unit) in scores.items()},
        "titles": {name: title for name, (title, _, _) in scores.items()},
        "engine": plan.engine,
        "museval": importlib.metadata.version("museval"),
        "sources": "in their own order" if fixed_order else "paired by the best mean SI-SDR over all of a file",
        "transform": None if plan.stft is None else [plan.stft.window_length, plan.stft.hop_length],
        **about,
        "summary": summarise_parts(rows, list(scores), fixed_order=fixed_order),
        "rows": [row.flat() for row in rows],
    }


def _digest(items: Sequence[Item], about: Provenance, plan: ScoringPlan, museval_json: bool) -> str:
    """Return a digest of everything that is scored, and how: a journal with the same digest can be resumed."""
    parts = [
        sepclip.__version__,
        SCHEMA_VERSION,
        about,
        asdict(plan),
        museval_json,
        [[item.identity, item.rows[0].name, len(item.rows)] for item in items],
    ]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()
