"""``sepclip report``."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.commands.options import Json
from sepclip.terminal import out, print_json


def report(
    path: Annotated[
        Path,
        typer.Argument(
            help="Folder of a run, a sweep, or an evaluation (with scores.json), or the name of a model.",
            show_default=False,
        ),
    ],
    other: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH2]", help="A second run or evaluation to compare with.", show_default=False),
    ] = None,
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="File or folder of the page [PATH/report.html; of two PATH/report-NAME2.html].",
            show_default=False,
        ),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            help="Also draw the curves and scores into this folder, as SVG and PNG for a paper.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a report as one HTML file: curves, scores, and the best, median and worst mixtures to listen to.

    The file is self-contained: it opens from disk, without a network, on a phone or a desktop, in light or dark mode.
    """
    from sepclip.report.figures import write_figures
    from sepclip.report.write_report import write_report

    paths = [path] if other is None else [path, other]
    page = write_report(paths, out_file)
    figures = write_figures(paths, plots) if plots else []
    if as_json:
        print_json({"report": str(page), "bytes": page.stat().st_size, "plots": [str(file) for file in figures]})
        return
    out.print(f"written: {page} ({page.stat().st_size / 1e6:.1f} MB)", markup=False, soft_wrap=True)
    if figures:
        out.print(f"drawn: {' '.join(map(str, figures))}", markup=False, soft_wrap=True)
