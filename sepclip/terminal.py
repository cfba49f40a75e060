"""Output for the user: results on stdout, notes, warnings and progress on stderr.

If stderr is not a terminal, progress bars are replaced by a line every half minute. Colours are used on terminals only,
unless ``NO_COLOR`` is set.
"""

import json
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

T = TypeVar("T")
_BARS = "▁▂▃▄▅▆▇█"
_PLAIN_SECONDS = 30.0  # between lines of progress if stderr is not a terminal

# control characters but tab and line feed, surrogates, and characters that reverse the direction of writing
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return a text with control characters, and bytes of file names that are not UTF-8, as escapes.

    A file name can hold anything, and a terminal would take some of it for commands.
    """
    return _UNPRINTABLE.sub(lambda match: _escape(ord(match[0])), text)


def _escape(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8 (PEP 383)
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class _SafeConsole(Console):
    """A console whose texts contain no control characters but its own."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(item) if isinstance(item, str) else item for item in objects), **options)


out = _SafeConsole(highlight=False)
notes = _SafeConsole(stderr=True, highlight=False)


@dataclass
class Volume:
    """How much is printed: ``quiet`` only results, warnings and errors, ``verbose`` every detail."""

    quiet: bool = False
    verbose: bool = False


volume = Volume()


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document on stdout."""
    # elsewhere than in UTF-8, escapes are safe; those of names that are not UTF-8 are the same in both
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(document, allow_nan=False, ensure_ascii=not unicode)
    sys.stdout.write(text.encode(errors="backslashreplace").decode() + "\n")


def print_table(table: Table) -> None:
    """Print a table on stdout. Numbers are never wrapped, even if the terminal is too narrow."""
    # a console as wide as the table, since rich would cut off the last columns on a narrow terminal
    Console(width=max(out.width, table_width(table)), highlight=False).print(table)


def table_width(table: Table) -> int:
    """Return the columns that a table needs."""
    return out.measure(table, options=out.options.update(max_width=10_000)).maximum


def say(message: str) -> None:
    """Print a note for the user on stderr, unless ``--quiet`` is set."""
    if not volume.quiet:
        notes.print(message, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning on stderr."""
    notes.print(f"warning: {message}", markup=False, soft_wrap=True, style="yellow")


def print_error(error: Exception) -> None:
    """Print the message of an error on stderr; an error of the system with its path."""
    message = str(error)
    if isinstance(error, OSError):
        path = f"{error.filename}: " if error.filename else ""
        message = f"{path}{error.strerror or error}"
    notes.print(f"error: {message}", markup=False, soft_wrap=True, style="red")


_warned: set[str] = set()  # messages of warn_once


def warn_once(message: str) -> None:
    """Print a warning on stderr, unless this process has printed the same before, as several steps read one file."""
    if message not in _warned:
        _warned.add(message)
        warn(message)


def say_some(heading: str, lines: list[str], most: int = 10, *, always: bool = False) -> None:
    """Print a heading, up to ``most`` lines below it (all if ``--verbose`` is set), and how many more there are.

    ``always`` prints them with ``--quiet`` too, for what the user has to know, such as files that are left out.
    """
    if volume.quiet and not always:
        return
    most = len(lines) if volume.verbose else most
    shown = [heading, *(f"  {line}".replace("\n", r"\n") for line in lines[:most])]  # a name may have a line break
    if len(lines) > most:
        shown.append(f"  ... and {len(lines) - most} more")
    for line in shown:
        notes.print(line, markup=False, soft_wrap=True)


class _RateColumn(ProgressColumn):
    """The column with the recent number of items per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s", style="progress.data.speed")


def track(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Yield ``items`` with a progress bar that disappears at the end, or with lines if stderr is not a terminal."""
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


def enable_output(on: bool) -> None:
    """Switch all output of this process except tracebacks on or off."""
    out.quiet = notes.quiet = not on


class AudioProgress:
    """A progress bar over sound files: files done, seconds of sound done, and the speed relative to real time.

    Several threads may use it. The total grows as files are opened. If stderr is not a terminal, it prints lines.
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
        self._start = self._last_line = time.monotonic()
        self._lock = threading.Lock()

    def __enter__(self) -> "AudioProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @property
    def speed(self) -> float:
        """Seconds of sound done per second."""
        return self._seconds / max(time.monotonic() - self._start, 1e-9)

    def expect(self, seconds: float) -> None:
        """Add a sound of ``seconds`` to the total."""
        with self._lock:
            task = self._progress.tasks[self._task]
            self._progress.update(self._task, total=(task.total or 0) + seconds)

    def advance(self, seconds: float) -> None:
        """Add ``seconds`` of sound to what is done."""
        with self._lock:
            self._seconds += seconds
            self._progress.update(self._task, advance=seconds, state=self._state())
            if self._plain and time.monotonic() - self._last_line > _PLAIN_SECONDS:
                self._last_line = time.monotonic()
                say(f"{self._description} {self._state()}")

    def file_done(self) -> None:
        """Count a file as done."""
        with self._lock:
            self._files_done += 1
            self._progress.update(self._task, state=self._state())

    def _state(self) -> str:
        minutes, seconds = divmod(int(self._seconds), 60)
        return f"{self._files_done}/{self._files} files, {minutes}:{seconds:02d}, {self.speed:.1f} x real time"


def _track_plainly(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Yield ``items`` and print the progress, at most every half minute."""
    start = last_line = time.monotonic()
    for count, item in enumerate(items):
        now = time.monotonic()
        if count and now - last_line > _PLAIN_SECONDS:
            last_line = now
            rate = count / (now - start)
            say(f"{description} {count}/{total}, {rate:.3g} per second, about {(total - count) / rate:.0f} s left")
        yield item


def sparkline(values: Sequence[float | None], width: int = 40) -> str:
    """Return values as a row of at most ``width`` bars, each the mean of its values; a space if there are none."""
    count = min(width, len(values))
    edges = [len(values) * index // count for index in range(count + 1)] if count else []
    parts = [[value for value in values[a:b] if value is not None] for a, b in pairwise(edges)]
    means = [sum(part) / len(part) if part else None for part in parts]
    known = [mean for mean in means if mean is not None]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known) or 1.0
    return "".join(" " if mean is None else _BARS[round((mean - low) / span * (len(_BARS) - 1))] for mean in means)


def show_lines(lines: Iterable[str]) -> None:
    """Print decorative lines, such as sparklines: only on a terminal with UTF-8, and not with ``--quiet``."""
    if out.is_terminal and not volume.quiet and out.encoding.lower().startswith("utf"):
        for line in lines:
            out.print(line, markup=False, soft_wrap=True)
