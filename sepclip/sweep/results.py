"""The state of one cell: its scores by file, or that it is missing or has failed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypedDict

from sepclip.sweep.grid import Cell
from sepclip.sweep.worker import SCORES

METRICS = ("si_sdr", "si_sdr_improvement")
TITLES = {"si_sdr": "SI-SDR", "si_sdr_improvement": "SI-SDR improvement"}


class CellTraining(TypedDict, total=False):
    """The part of a training's summary that the tables show; the worker saves the summary in ``scores.json``."""

    steps: int
    seconds: float
    best_step: int | None  # None if no validation has been run
    best_valid_si_sdr_improvement: float | None  # in dB
    clipped_share: float  # 0 to 1


@dataclass(frozen=True)
class Result:
    """The state of a cell: ``status`` is ``done``, ``missing`` or ``failed``; ``reason`` says why it failed.

    ``scores`` maps metric to file to dB, the mean over the sources of the file. A file with a source that has no score
    is in ``excluded`` instead, with the reason.
    """

    cell: Cell
    run: Path
    log: Path
    status: str = "missing"
    reason: str | None = None
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    training: CellTraining = field(default_factory=CellTraining)

    def as_failed(self, reason: str) -> "Result":
        """Return the result of the same cell as failed, without scores."""
        return replace(self, status="failed", reason=reason, scores={}, excluded={}, training={})

    def mean(self, metric: str) -> float:
        """Return the mean over the files in dB, or NaN without scores."""
        values = self.scores.get(metric, {}).values()
        return fmean(values) if values else float("nan")


def read_result(cell: Cell, run: Path, log: Path, group: str | None) -> Result:
    """Read the scores of a cell on the test mixtures of ``group`` (None: all).

    The result is missing if there are no scores, if they cannot be read, or if they belong to another cell.
    """
    result = Result(cell, run, log)
    try:
        document = json.loads((run / SCORES / "scores.json").read_text(encoding="utf-8"))
        if document["cell"] != cell.digest:
            return result
        files: dict[str, list[dict[str, Any]]] = {}
        for row in document["rows"]:
            if group is None or row["group"] == group:
                files.setdefault(row["name"], []).append(row)
        training = document["training"]
    except (OSError, ValueError, KeyError, TypeError):
        return result  # the cell will be trained, or only scored, again
    excluded = {
        name: next((row["reason"] for row in rows if row["reason"]), "perfect: infinite scores are excluded from means")
        for name, rows in files.items()
        if any(row[metric] is None for row in rows for metric in METRICS)
    }
    scores = {
        metric: {name: fmean(row[metric] for row in rows) for name, rows in files.items() if name not in excluded}
        for metric in METRICS
    }
    return replace(result, status="done", scores=scores, excluded=excluded, training=training)
