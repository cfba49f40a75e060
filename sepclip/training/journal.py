"""What a run writes down (``metrics.jsonl``) and shows while it goes on."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

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
from sepclip.training.tensorboard import Scalars

Value = float | int | str | None | dict[str, float]
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


class Journal:
    """Appends rows to ``metrics.jsonl`` and shows the latest: two live lines, or now and then a plain one in a log."""

    def __init__(self, path: Path, steps: int, start: int):
        self._path, self._steps = path, steps
        self._scalars = Scalars(path)
        self._shown: dict[str, Value] = {}
        self._last_plain = time.monotonic()
        self._bar = Progress(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        )
        self._task = self._bar.add_task("", total=steps, completed=start)
        self._live = (
            Live(get_renderable=self._screen, console=notes)
            if notes.is_terminal and not terminal.volume.quiet
            else None
        )

    def _screen(self) -> Group:
        return Group(self._bar.get_renderable(), Text(self._facts(), overflow="fold"))

    def __enter__(self) -> "Journal":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        self._scalars.close()

    def record(self, row: Mapping[str, Value]) -> None:
        """Append one row and show it."""
        append_row(self._path, row)
        self._scalars.add(row)
        self._shown.update(row)
        due = time.monotonic() - self._last_plain > _PLAIN_SECONDS
        if not self._live and (due or terminal.volume.verbose or "valid_loss" in row):
            self._last_plain = time.monotonic()
            say(f"step {row['step']}/{self._steps}  {self._facts()}")

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
