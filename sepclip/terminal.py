"""What the user sees: results on stdout, notes and progress on stderr, plain where it is not a terminal."""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

out = Console(highlight=False)
notes = Console(stderr=True, highlight=False)


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(document, allow_nan=False, ensure_ascii=False) + "\n")


def say(message: str) -> None:
    """Print a note for the user on stderr."""
    notes.print(message, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning on stderr."""
    notes.print(f"warning: {message}", markup=False, soft_wrap=True, style="yellow")


def say_some(heading: str, lines: list[str], most: int = 10) -> None:
    """Print a heading and up to ``most`` lines below it, and how many more there are."""
    say(heading)
    for line in lines[:most]:
        say(f"  {line}")
    if len(lines) > most:
        say(f"  ... and {len(lines) - most} more")


def track(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Yield ``items`` under a progress bar that disappears at the end; silent where stderr is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as progress:
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task)


def speak(on: bool) -> None:
    """Switch all output of this process but tracebacks on or off."""
    out.quiet = notes.quiet = not on
