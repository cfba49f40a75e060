"""What kind of page folders ask for, and the file that it becomes."""

from collections.abc import Sequence
from pathlib import Path

from sepclip.audio.files import write_text
from sepclip.errors import UserError
from sepclip.report.of_run import is_run, run_page, scores_page
from sepclip.report.of_sweep import is_sweep, sweep_page
from sepclip.report.page import Page
from sepclip.report.scores import FILE
from sepclip.terminal import warn

NAME = "report.html"
MOST_BYTES = 10_000_000


def page_of(path: Path, other: Path | None = None) -> Page:
    """Return the page of a run, a sweep or an evaluation, or of two of these. Raises UserError for other folders."""
    for folder in filter(None, (path, other)):
        if not folder.is_dir():
            raise UserError(f"{folder}: {'is a file, not a folder' if folder.exists() else 'no such folder'}")
    if other is not None:
        from sepclip.report.of_two import two_page  # scipy, which the page at the end of a training does not need

        return two_page(path, other)
    if is_run(path):
        return run_page(path)
    if is_sweep(path):
        return sweep_page(path)
    if (path / FILE).is_file():
        return scores_page(path)
    raise UserError(
        f"{path} is no run (config.yaml), no sweep (cells.json) and no evaluation ({FILE}): give the folder of one"
    )


def write_report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page of one folder or two as ``report.html``, by default into the first; returns the file.

    That of two is called ``report-NAME.html`` by default, after the second folder, for the first has its own.
    """
    page = page_of(*paths)
    name = NAME if len(paths) == 1 else f"report-{paths[1].resolve().name}.html"
    target = out or paths[0] / name
    if target.is_dir():
        target = target / name
    document = page.render()
    write_text(target, document)
    size = len(document.encode())
    if size > MOST_BYTES:
        warn(f"{target} has {size / 1e6:.1f} MB: its lists are long")
    return target


def report_at_end(folder: Path) -> Path | None:
    """Write the page of what has just been done; None where that fails, which is told and never fails what was done."""
    try:
        return write_report([folder])
    except Exception as error:  # noqa: BLE001 - a finished training must not end in an error of its report
        reason = str(error) or type(error).__name__
        warn(f"no report was written ({reason}); `sepclip report {folder}` tries again")
        return None
