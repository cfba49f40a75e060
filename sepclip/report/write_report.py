"""Writes the report of a folder: selects the kind of page and saves it as a file."""

from collections.abc import Sequence
from pathlib import Path

from sepclip.audio.files import write_text
from sepclip.errors import UserError
from sepclip.report.page import Page
from sepclip.report.run_page import is_run, run_page, scores_page
from sepclip.report.scores import FILE
from sepclip.report.sweep_page import is_sweep, sweep_page
from sepclip.terminal import warn

NAME = "report.html"
MOST_BYTES = 10_000_000


def build_page(path: Path, other: Path | None = None) -> Page:
    """Return the page of a run, a sweep or an evaluation, or the comparison of two runs or two evaluations.

    Raises UserError for other folders.
    """
    for folder in filter(None, (path, other)):
        if not folder.is_dir() and not is_run(folder):
            raise UserError(f"{folder}: {'is a file, not a folder' if folder.exists() else 'no such folder'}")
    if other is not None:
        # imports scipy, which the page at the end of a training does not need
        from sepclip.report.comparison_page import comparison_page

        return comparison_page(path, other)
    if is_run(path):
        return run_page(path)
    if is_sweep(path):
        return sweep_page(path)
    if (path / FILE).is_file():
        return scores_page(path)
    raise UserError(
        f"{path} is not a run (config.yaml), a sweep (cells.json) or an evaluation ({FILE}): give the folder of one"
    )


def write_report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page of one or two folders, and return the file.

    By default the file is ``report.html`` in the folder, or, for two, ``report-NAME.html`` in the first folder, where
    NAME is the name of the second.
    """
    page = build_page(*paths)
    name = NAME if len(paths) == 1 else f"report-{paths[1].resolve().name}.html"
    target = out or paths[0] / name
    if target.is_dir():
        target = target / name
    document = page.render()
    target.parent.mkdir(parents=True, exist_ok=True)  # of a model there is no folder yet
    write_text(target, document)
    size = len(document.encode())
    if size > MOST_BYTES:
        warn(f"{target} is large ({size / 1e6:.1f} MB), because its lists are long")
    return target


def report_at_end(folder: Path) -> Path | None:
    """Write the page of a finished training. Return None, after a warning, if that fails: training must not fail."""
    try:
        return write_report([folder])
    except Exception as error:  # noqa: BLE001 - a finished training must not fail because of its report
        reason = str(error) or type(error).__name__
        warn(f"no report was written ({reason}); `sepclip report {folder}` tries again")
        return None
