"""``sepclip report``."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.commands.options import Json
from sepclip.terminal import out, print_json


def report(
    path: Annotated[
        Path, typer.Argument(help="Folder of a run, a sweep, or an evaluation (scores.json).", show_default=False)
    ],
    other: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PATH2]", help="Another run or evaluation, to be compared with it.", show_default=False
        ),
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
        typer.Option(help="Also draw curves and scores into this folder, SVG and PNG for a paper.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what happened as one HTML file: curves, scores, and the best, median and worst mixtures to listen to.

    The file holds everything: it opens from disk, without a network, on a phone or a desktop, in light or dark.
    """
    from sepclip.report.figures import write_figures
    from sepclip.report.write_report import write_report

    paths = [path] if other is None else [path, other]
    made = write_report(paths, out_file)
    drawn = write_figures(paths, plots) if plots else []
    if as_json:
        print_json({"report": str(made), "bytes": made.stat().st_size, "plots": [str(file) for file in drawn]})
        return
    out.print(f"written: {made} ({made.stat().st_size / 1e6:.1f} MB)", markup=False, soft_wrap=True)
    if drawn:
        out.print(f"drawn: {' '.join(map(str, drawn))}", markup=False, soft_wrap=True)
