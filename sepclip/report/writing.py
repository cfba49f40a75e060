"""What kind of page a folder asks for, and the file that it becomes."""

from collections.abc import Sequence
from pathlib import Path

from sepclip.audio.files import write_text
from sepclip.errors import UserError
from sepclip.report.of_run import run_page
from sepclip.report.page import Page
from sepclip.terminal import warn
from sepclip.training.run import CONFIG, ENVIRONMENT

NAME = "report.html"
MOST_BYTES = 10_000_000


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return (path / CONFIG).is_file() and (path / ENVIRONMENT).is_file()


def page_of(paths: Sequence[Path]) -> Page:
    """Return the page of a run. Raises UserError for any other folder."""
    path = paths[0]
    if not path.exists():
        raise UserError(f"{path}: no such folder")
    if is_run(path):
        return run_page(path)
    raise UserError(f"{path} is no run")


def write_report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page of ``paths`` into ``out`` (by default ``report.html`` in the first of them); returns the file."""
    page = page_of(paths)
    target = out or paths[0] / NAME
    if target.is_dir():
        target = target / NAME
    document = page.render()
    write_text(target, document)
    size = len(document.encode())
    if size > MOST_BYTES:
        warn(f"{target} has {size / 1e6:.1f} MB: its lists are long")
    return target
