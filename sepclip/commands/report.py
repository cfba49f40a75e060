"""``sepclip report``."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.commands.options import Json
from sepclip.terminal import out, print_json


def report(
    path: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    out_file: Annotated[
        Path | None, typer.Option("--out", help="File or folder of the page [PATH/report.html].", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what happened as one HTML file: curves, scores, and the best, median and worst mixtures to listen to.

    The file holds everything: it opens from disk, without a network, on a phone or a desktop, in light or dark.
    """
    from sepclip.report.writing import write_report

    made = write_report([path], out_file)
    if as_json:
        print_json({"report": str(made), "bytes": made.stat().st_size})
        return
    out.print(f"written: {made} ({made.stat().st_size / 1e6:.1f} MB)", markup=False, soft_wrap=True)
