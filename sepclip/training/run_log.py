"""The log of a run: the rows of ``metrics.jsonl``, what the terminal shows during a training, and its summary."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import NotRequired, TypedDict

from rich.console import Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from sepclip import terminal
from sepclip.audio.files import write_text
from sepclip.errors import UserError
from sepclip.terminal import notes, say
from sepclip.training.state import Progress as RunProgress
from sepclip.training.state import TrainingState
from sepclip.training.tensorboard import TensorBoardWriter
from sepclip.training.validation import ValidationScores

_MOST_PARTS = 3  # of the layers or tensors most often clipped, in a row of metrics.jsonl
_PLAIN_SECONDS = 30.0  # between lines if there is no terminal
# keys of metrics.jsonl that the terminal shows, and how
_SHOWN = {
    "loss": "loss {:.3g}",
    "valid_si_sdr_improvement": "SI-SDRi {:.1f} dB",
    "grad_norm": "norm {:.2g}",
    "threshold": "threshold {:.2g}",
    "clipped_share": "clipped {:.0%}",
}


class ProgressRow(TypedDict):
    """A row of ``metrics.jsonl`` over the steps since the previous one; None stands for a number that is not finite."""

    step: int
    loss: float | None  # mean
    grad_norm: float | None  # mean of the finite ones
    threshold: float | None  # of the last step
    clipped_share: float  # of all steps so far
    skipped: int  # of all steps so far
    learning_rate: float  # of the next step
    seconds: float  # of training in total
    steps_per_second: float | None
    waited_share: float  # share of the time spent waiting for data
    # share of clipped steps of the most clipped layers or tensors, if each has its own threshold
    most_clipped: NotRequired[dict[str, float]]


class ValidationRow(TypedDict):
    """A row of ``metrics.jsonl`` with the scores of a validation; None stands for a number that is not finite."""

    step: int
    valid_loss: float | None
    valid_si_sdr_improvement: float | None  # dB


class TrainingSummary(TypedDict):
    """The state of a run in numbers: the JSON document of ``sepclip train``."""

    steps: int
    seconds: float
    best_step: int
    best_valid_loss: float | None
    best_valid_si_sdr_improvement: float | None  # dB
    clip: str
    grad_norm: float | None  # as last recorded
    threshold: float | None  # as last recorded
    clipped_share: float
    skipped_steps: int
    ended: str  # why: "steps", "early stopping", "time"
    clipped_share_of: dict[str, float]  # by layer or tensor


def finite_or_none(value: float) -> float | None:
    """Return ``value``, or None if it is a number that JSON cannot represent."""
    return value if math.isfinite(value) else None


def cut_rows(path: Path, step: int) -> None:
    """Remove from a file of JSON rows those after the checkpoint of ``step``, and half a row at its end."""
    if not path.is_file():
        return
    kept = []
    # rows are written before the checkpoint that they belong to, so a kill in between leaves rows of later steps
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            break
    write_text(path, "".join(kept))


def _cut_end(path: Path, state: TrainingState, valid_every: int) -> None:
    """Remove the rows of an end at the step of ``state`` that a longer run does not have."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    while lines and json.loads(lines[-1])["step"] == state.step > 0:
        # steps that still wait for their row, and a validation that was not due
        if not (state.step % valid_every if "valid_loss" in json.loads(lines[-1]) else state.recent):
            break
        del lines[-1]
    write_text(path, "".join(lines))


def was_validated(path: Path, step: int) -> bool:
    """Return whether the last validation in a file of rows was at ``step``."""
    return last_row_with(path, "valid_loss").get("step") == step


def last_row_with(path: Path, key: str) -> dict[str, float | None]:
    """Return the last row of a file that has ``key``; an empty one if there is none."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = (json.loads(line) for line in reversed(lines))
    return next((row for row in rows if key in row), {})


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Append one row to a file with one JSON document per line. Raises UserError if it cannot be written."""
    try:
        # opened for each row, which costs microseconds: a kill loses no row, and a report can read it at once
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def progress_row(state: TrainingState, waited_share: float) -> ProgressRow:
    """Return the row over the steps since the previous one, and start the next one.

    ``waited_share``: the share of the time since then that was spent waiting for data.
    """
    # ``recent`` is part of the checkpoint, so a resumed run writes the row of an uninterrupted one
    losses, norms, thresholds = zip(*state.recent, strict=True)
    finite_norms = [norm for norm in norms if math.isfinite(norm)]
    seconds = state.progress.seconds
    elapsed = seconds - state.recent_since
    row: ProgressRow = {
        "step": state.step,
        "loss": finite_or_none(fmean(losses)),
        "grad_norm": fmean(finite_norms) if finite_norms else None,
        "threshold": finite_or_none(thresholds[-1]),
        "clipped_share": state.clip.clipped / state.clip.steps,
        "skipped": state.skipped,
        "learning_rate": state.learning_rate,
        "seconds": round(seconds, 3),
        "steps_per_second": round(len(losses) / elapsed, 3) if elapsed > 0 else None,
        "waited_share": round(waited_share, 3),
    }
    # three parts only: with per=tensor all of them would make rows of many kilobytes
    shares = state.clip.clipped_shares()
    if shares:
        row["most_clipped"] = dict(list(shares.items())[:_MOST_PARTS])
    state.recent, state.recent_since = [], seconds
    return row


def validation_row(step: int, scores: ValidationScores) -> ValidationRow:
    """Return the row for the scores of the validation after ``step`` steps."""
    return {
        "step": step,
        "valid_loss": finite_or_none(scores["valid_loss"]),
        "valid_si_sdr_improvement": finite_or_none(scores["valid_si_sdr_improvement"]),
    }


def training_summary(state: TrainingState, metrics: Path, best: RunProgress, ended: str) -> TrainingSummary:
    """Return the summary of a run; gradient norm and threshold are read from its file of ``metrics``.

    ``best``: the progress of the best checkpoint; ``ended``: why the training has ended.
    """
    # not from ``recent``, which is empty after a row has been written
    last_row = last_row_with(metrics, "grad_norm")
    return {
        "steps": state.step,
        "seconds": round(state.progress.seconds, 1),
        "best_step": best.best_step,
        "best_valid_loss": best.best_loss,
        "best_valid_si_sdr_improvement": best.best_score,
        "clip": repr(state.clip),
        "grad_norm": last_row.get("grad_norm"),
        "threshold": last_row.get("threshold"),
        "clipped_share": state.clip.clipped / max(state.clip.steps, 1),
        "skipped_steps": state.skipped,
        "ended": ended,
        "clipped_share_of": state.clip.clipped_shares(),
    }


class RunLog:
    """Appends rows to ``metrics.jsonl`` and shows the latest: two live lines in a terminal, or a plain line at times.

    Without a ``path``, as in all processes of a training except the first, it does nothing.
    """

    def __init__(self, path: Path | None, steps: int, state: TrainingState, valid_every: int):
        self._path, self._steps, start = path, steps, state.step
        # a resumed run takes its last steps again, and their rows
        if path is not None:
            cut_rows(path, start)
            _cut_end(path, state, valid_every)
        self._tensorboard = None if path is None else TensorBoardWriter(path)
        self._latest: dict[str, object] = {}  # values by key
        self._last_plain = time.monotonic()
        self._bar = Progress(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        )
        self._task = self._bar.add_task("", total=steps, completed=start)
        # a live display would fill a log file with control characters
        is_live = notes.is_terminal and path is not None and not terminal.volume.quiet
        self._live = Live(get_renderable=self._live_lines, console=notes) if is_live else None

    def _live_lines(self) -> Group:
        return Group(self._bar.get_renderable(), Text(self._latest_text(), overflow="fold"))

    def __enter__(self) -> "RunLog":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def record(self, row: ProgressRow | ValidationRow) -> None:
        """Append one row and show it. Raises UserError if it cannot be written."""
        if self._path is None or self._tensorboard is None:
            return
        append_row(self._path, row)
        self._tensorboard.add(row)
        self._latest.update(row)
        due = time.monotonic() - self._last_plain > _PLAIN_SECONDS
        if not self._live and (due or terminal.volume.verbose or "valid_loss" in row):
            self._last_plain = time.monotonic()
            say(f"step {row['step']}/{self._steps}  {self._latest_text()}")

    def flush(self) -> None:
        """Write all rows to the disk; called before a checkpoint is saved that relies on them."""
        if self._path is not None and self._path.is_file():
            with self._path.open("rb") as file:
                os.fsync(file.fileno())

    def advance(self, step: int) -> None:
        """Show that ``step`` steps are finished."""
        self._bar.update(self._task, completed=step)

    def _latest_text(self) -> str:
        """Return the latest values as one line; no number is shown for values that were not finite."""
        latest = self._latest
        texts = [text.format(value) for key, text in _SHOWN.items() if isinstance(value := latest.get(key), float)]
        if isinstance(parts := latest.get("most_clipped"), dict):
            texts.append("most " + ", ".join(f"{part} {share:.0%}" for part, share in parts.items()))
        return "  ".join(texts)
