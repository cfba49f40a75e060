"""The files that scores are kept in: ``scores.json`` (docs/SCORES.md), ``scores.csv``, ``scores.md``, museval's own."""

import csv
import hashlib
import importlib.metadata
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sepclip.audio.files import write_text
from sepclip.errors import UserError
from sepclip.evaluation.markdown import to_markdown
from sepclip.evaluation.summary import kind_of as kind_of
from sepclip.evaluation.summary import summarise_parts
from sepclip.scoring.items import ScoreRow, ScoringPlan
from sepclip.scoring.score_file import Frames
from sepclip.scoring.table import columns

SCHEMA_VERSION = 2
_MUSEVAL_NAMES = {"SDR": "sdr", "SIR": "sir", "SAR": "sar", "ISR": "isr"}


def document(
    rows: Sequence[ScoreRow], about: dict[str, Any], plan: ScoringPlan, *, fixed_order: bool = False
) -> dict[str, Any]:
    """Return the whole result as what ``scores.json`` holds."""
    shown = columns(plan.metrics, plan.oracles, plan.improvements)
    return {
        "schema_version": SCHEMA_VERSION,
        "metrics": {name: definition for name, (_, definition, _) in shown.items()},
        "units": {name: unit for name, (_, _, unit) in shown.items()},
        "titles": {name: title for name, (title, _, _) in shown.items()},
        "engine": plan.engine,
        "museval": importlib.metadata.version("museval"),
        "sources": "in their own order" if fixed_order else "paired by the best mean SI-SDR over all of a file",
        "transform": None if plan.stft is None else [plan.stft.window_length, plan.stft.hop_length],
        **about,
        "summary": summarise_parts(rows, list(shown), fixed_order=fixed_order),
        "rows": [row.flat() for row in rows],
    }


def write_scores(folder: Path, result: dict[str, Any]) -> None:
    """Write ``scores.csv``, ``scores.md`` and ``scores.json``, which comes last."""
    table = io.StringIO()
    writer = csv.DictWriter(table, list(result["rows"][0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "notes": "; ".join(row["notes"])} for row in result["rows"])
    write_text(folder / "scores.csv", table.getvalue())
    write_text(folder / "scores.md", to_markdown(result))
    write_text(folder / "scores.json", json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_scores(path: Path) -> dict[str, Any]:
    """Read a ``scores.json``, or that in the folder ``path``.

    Raises UserError for none, a damaged one, or one of another version.
    """
    file = path / "scores.json" if path.is_dir() else path
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = found["schema_version"]
        if not {"rows", "metrics", "summary"} <= set(found):
            raise KeyError("rows, metrics or summary")
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file; `sepclip eval` writes it") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read as scores ({error!r}): make them again with `sepclip eval`") from error
    if version != SCHEMA_VERSION:
        raise UserError(f"{file} has version {version}, this sepclip reads {SCHEMA_VERSION}: run `sepclip eval` again")
    return found


def track_name(name: str) -> str:
    """Return the file name of a track's scores: readable, and one for each name."""
    plain = re.sub(r"[^\w .+=-]", "_", name)[:150]
    return f"{plain}.json" if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.json"


def write_track(path: Path, rows: Sequence[ScoreRow], frames: Frames) -> None:
    """Write the windows of one track as museval's ``TrackStore`` does: five decimals, infinite ones as NaN."""
    targets = []
    for index, row in enumerate(rows):
        windows = [
            {
                "time": window,
                "duration": 1,
                "metrics": {title: _rounded(frames[name][index, window]) for title, name in _MUSEVAL_NAMES.items()},
            }
            for window in range(frames["sdr"].shape[1])
        ]
        targets.append({"name": row.source, "frames": windows})
    result = {"targets": targets, "museval_version": importlib.metadata.version("museval")}
    write_text(path, json.dumps(result, indent=2) + "\n")


def _rounded(value: float) -> float:
    return round(float(value), 5) if np.isfinite(value) else float("nan")
