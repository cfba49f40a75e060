"""What the user sees: results on stdout, notes and progress on stderr, plain where it is not a terminal.

Colours go where a terminal shows them, unless ``NO_COLOR`` is set.
"""

import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")
_BARS = "▁▂▃▄▅▆▇█"
_PLAIN_SECONDS = 30.0  # between lines of progress in a log

out = Console(highlight=False)
notes = Console(stderr=True, highlight=False)


@dataclass
class Volume:
    """How much is told: ``quiet`` leaves results, warnings and errors, ``verbose`` tells all there is."""

    quiet: bool = False
    verbose: bool = False


volume = Volume()


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(document, allow_nan=False, ensure_ascii=False) + "\n")


def say(message: str) -> None:
    """Print a note for the user on stderr, unless all is to be quiet."""
    if not volume.quiet:
        notes.print(message, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning on stderr."""
    notes.print(f"warning: {message}", markup=False, soft_wrap=True, style="yellow")


def say_some(heading: str, lines: list[str], most: int = 10) -> None:
    """Print a heading and up to ``most`` lines below it, and how many more there are."""
    say(heading)
    most = len(lines) if volume.verbose else most
    for line in lines[:most]:
        say(f"  {line}")
    if len(lines) > most:
        say(f"  ... and {len(lines) - most} more")


class _RateColumn(ProgressColumn):
    """How many items are done in a second, of late."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s", style="progress.data.speed")


def track(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Yield ``items`` under a progress bar that disappears at the end; in a log a line now and then instead."""
    if not notes.is_terminal or volume.quiet:
        yield from _track_plainly(items, total, description)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes, transient=True) as progress:
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task)


def speak(on: bool) -> None:
    """Switch all output of this process but tracebacks on or off."""
    out.quiet = notes.quiet = not on


class AudioProgress:
    """A progress bar over sounds: files done of all, sound done, and how many times as fast as it plays.

    It may be used by several threads. The total grows as files are opened. In a log a line now and then instead.
    """

    def __init__(self, description: str, files: int):
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
        )
        self._plain, self._description = not notes.is_terminal, description
        self._progress = Progress(*columns, console=notes, transient=True, disable=self._plain or volume.quiet)
        self._task = self._progress.add_task(description, total=0.0, state="")
        self._files, self._files_done, self._seconds = files, 0, 0.0
        self._begun = self._told = time.monotonic()
        self._lock = threading.Lock()

    def __enter__(self) -> "AudioProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @property
    def speed(self) -> float:
        """How many seconds of sound were done in a second."""
        return self._seconds / max(time.monotonic() - self._begun, 1e-9)

    def expect(self, seconds: float) -> None:
        """Add a sound of so many seconds to what is to be done."""
        with self._lock:
            task = self._progress.tasks[self._task]
            self._progress.update(self._task, total=(task.total or 0) + seconds)

    def advance(self, seconds: float) -> None:
        """Say that so many seconds of sound are done."""
        with self._lock:
            self._seconds += seconds
            self._progress.update(self._task, advance=seconds, state=self._state())
            if self._plain and time.monotonic() - self._told > _PLAIN_SECONDS:
                self._told = time.monotonic()
                say(f"{self._description} {self._state()}")

    def file_done(self) -> None:
        """Say that a file is done."""
        with self._lock:
            self._files_done += 1
            self._progress.update(self._task, state=self._state())

    def _state(self) -> str:
        minutes, seconds = divmod(int(self._seconds), 60)
        return f"{self._files_done}/{self._files} files, {minutes}:{seconds:02d}, {self.speed:.1f} x real time"


def _track_plainly(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Yield ``items`` and tell how far they are, at most every half minute."""
    began = told = time.monotonic()
    for count, item in enumerate(items):
        now = time.monotonic()
        if count and now - told > _PLAIN_SECONDS:
            told = now
            rate = count / (now - began)
            say(f"{description} {count}/{total}, {rate:.3g} a second, about {(total - count) / rate:.0f} s left")
        yield item


def sparkline(values: Sequence[float | None], width: int = 40) -> str:
    """Return values as a row of bars, at most ``width`` of them; a gap where there is none."""
    count = min(width, len(values))
    edges = [len(values) * place // count for place in range(count + 1)] if count else []
    parts = [[value for value in values[a:b] if value is not None] for a, b in pairwise(edges)]
    means = [sum(part) / len(part) if part else None for part in parts]
    found = [mean for mean in means if mean is not None]
    if not found:
        return ""
    low, span = min(found), max(found) - min(found) or 1.0
    return "".join(" " if mean is None else _BARS[round((mean - low) / span * (len(_BARS) - 1))] for mean in means)


def show_lines(lines: Iterable[str]) -> None:
    """Print lines that only please the eye: on a terminal that has the letters for them, and not where all is quiet."""
    if out.is_terminal and not volume.quiet and out.encoding.lower().startswith("utf"):
        for line in lines:
            out.print(line, markup=False, soft_wrap=True)
