"""The files of an evaluation: ``scores.json``, ``scores.csv`` and ``scores.md``, and museval's own for each track."""

import csv
import hashlib
import importlib.metadata
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sepclip.audio.files import write_text
from sepclip.evaluation.document import ScoreDocument
from sepclip.evaluation.markdown import to_markdown
from sepclip.scoring.items import ScoreRow
from sepclip.scoring.score_file import WindowScores

_MUSEVAL_NAMES = {"SDR": "sdr", "SIR": "sir", "SAR": "sar", "ISR": "isr"}


def write_scores(folder: Path, document: ScoreDocument) -> None:
    """Write ``scores.csv``, ``scores.md`` and last ``scores.json``, so that all three are there if that one is."""
    table = io.StringIO()
    writer = csv.DictWriter(table, list(document["rows"][0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "notes": "; ".join(row["notes"])} for row in document["rows"])
    write_text(folder / "scores.csv", table.getvalue())
    write_text(folder / "scores.md", to_markdown(document))
    write_text(folder / "scores.json", json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def track_path(folder: Path, name: str) -> Path:
    """Return the path of a track's windows below ``folder``: readable, and different for each name."""
    plain = re.sub(r"[^\w .+=-]", "_", name)[:150]
    file = f"{plain}.json" if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.json"
    return folder / "museval" / "test" / file


def write_track(path: Path, rows: Sequence[ScoreRow], scores: WindowScores) -> None:
    """Write the windows of one track as museval's ``TrackStore`` does: five decimals, infinite ones as NaN."""
    targets = []
    for index, row in enumerate(rows):
        windows = [
            {
                "time": window,
                "duration": 1,
                "metrics": {title: _rounded(scores[name][index, window]) for title, name in _MUSEVAL_NAMES.items()},
            }
            for window in range(scores["sdr"].shape[1])
        ]
        targets.append({"name": row.source, "frames": windows})
    track = {"targets": targets, "museval_version": importlib.metadata.version("museval")}
    write_text(path, json.dumps(track, indent=2) + "\n")


def _rounded(value: float) -> float:
    return round(float(value), 5) if np.isfinite(value) else float("nan")
