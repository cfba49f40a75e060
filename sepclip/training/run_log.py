"""What a run writes down (``metrics.jsonl``) and shows while it goes on."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any

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
from sepclip.training.state import TrainingState
from sepclip.training.tensorboard import Scalars

Value = float | int | str | None | dict[str, float]
_SHOWN_PARTS = 3  # of the layers or tensors most often clipped, in a row of metrics.jsonl
_PLAIN_SECONDS = 30.0  # between lines where there is no terminal


def finite(value: float) -> float | None:
    """Return ``value``, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None


def cut_metrics(path: Path, step: int) -> None:
    """Leave out of a file of rows what came after the checkpoint of ``step``, half a line included."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            break
    write_text(path, "".join(kept))


def last_with(path: Path, key: str) -> dict[str, Value]:
    """Return the last row that has ``key``; an empty one where there is none."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = (json.loads(line) for line in reversed(lines))
    return next((row for row in rows if key in row), {})


def append_row(path: Path, row: Mapping[str, Value]) -> None:
    """Append one row to a file of a row a line."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def progress_row(state: TrainingState, waited: float) -> dict[str, Any]:
    """Return the row of ``metrics.jsonl`` over the steps since the last one, and forget them.

    Means of loss and gradient norm, the last threshold, the share of all steps so far that were clipped, and the layers
    or tensors that were most often, where each has its own threshold; ``waited``: the share of the time for data.
    """
    losses, norms, thresholds = zip(*state.recent, strict=True)
    usable = [norm for norm in norms if math.isfinite(norm)]
    seconds = state.progress.seconds
    elapsed = seconds - state.recent_since
    row: dict[str, Any] = {
        "step": state.step,
        "loss": finite(fmean(losses)),
        "grad_norm": fmean(usable) if usable else None,
        "threshold": finite(thresholds[-1]),
        "clipped_share": state.clip.clipped / state.clip.steps,
        "skipped": state.skipped,
        "learning_rate": state.learning_rate,
        "seconds": round(seconds, 3),
        "steps_per_second": round(len(losses) / elapsed, 3) if elapsed > 0 else None,
        "waited_share": round(waited, 3),
    }
    shares = state.clip.shares()
    if shares:
        row["most_clipped"] = dict(list(shares.items())[:_SHOWN_PARTS])
    state.recent, state.recent_since = [], seconds
    return row


def summary(state: TrainingState, metrics: Path) -> dict[str, Any]:
    """Return where a run stands, for people and for ``--json``; gradient norm and threshold as last recorded."""
    last = last_with(metrics, "grad_norm")
    return {
        "steps": state.step,
        "seconds": round(state.progress.seconds, 1),
        "best_step": state.progress.best_step,
        "best_valid_loss": state.progress.best_loss,
        "best_valid_si_sdr_improvement": state.progress.best_score,
        "clip": repr(state.clip),
        "grad_norm": last.get("grad_norm"),
        "threshold": last.get("threshold"),
        "clipped_share": state.clip.clipped / max(state.clip.steps, 1),
        "skipped_steps": state.skipped,
        "clipped_share_of": state.clip.shares(),
    }


class RunLog:
    """Appends rows to ``metrics.jsonl`` and shows the latest: two live lines, or now and then a plain one in a log.

    Without a ``path`` it does neither: the processes of a training but the first.
    """

    def __init__(self, path: Path | None, steps: int, start: int):
        self._path, self._steps = path, steps
        if path is not None:
            cut_metrics(path, start)
        self._scalars = None if path is None else Scalars(path)
        self._shown: dict[str, Value] = {}
        self._last_plain = time.monotonic()
        self._bar = Progress(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        )
        self._task = self._bar.add_task("", total=steps, completed=start)
        shown = notes.is_terminal and path is not None and not terminal.volume.quiet
        self._live = Live(get_renderable=self._screen, console=notes) if shown else None

    def _screen(self) -> Group:
        return Group(self._bar.get_renderable(), Text(self._facts(), overflow="fold"))

    def __enter__(self) -> "RunLog":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if self._scalars is not None:
            self._scalars.close()

    def record(self, row: Mapping[str, Value]) -> None:
        """Append one row and show it."""
        if self._path is None or self._scalars is None:
            return
        append_row(self._path, row)
        self._scalars.add(row)
        self._shown.update(row)
        due = time.monotonic() - self._last_plain > _PLAIN_SECONDS
        if not self._live and (due or terminal.volume.verbose or "valid_loss" in row):
            self._last_plain = time.monotonic()
            say(f"step {row['step']}/{self._steps}  {self._facts()}")

    def flush(self) -> None:
        """Have all rows on the disk, before the checkpoint that counts on them."""
        if self._path is not None and self._path.is_file():
            with self._path.open("rb") as file:
                os.fsync(file.fileno())

    def advance(self, step: int) -> None:
        """Show that ``step`` steps are done."""
        self._bar.update(self._task, completed=step)

    def _facts(self) -> str:
        names = {
            "loss": "loss {:.3g}",
            "valid_si_sdr_improvement": "SI-SDRi {:.1f} dB",
            "grad_norm": "norm {:.2g}",
            "threshold": "threshold {:.2g}",
            "clipped_share": "clipped {:.0%}",
        }
        facts = [
            text.format(value) for name, text in names.items() if isinstance(value := self._shown.get(name), float)
        ]
        if isinstance(parts := self._shown.get("most_clipped"), dict):
            facts.append("most " + ", ".join(f"{part} {share:.0%}" for part, share in parts.items()))
        return "  ".join(facts)
