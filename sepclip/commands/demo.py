"""``sepclip demo``."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.commands.options import Json
from sepclip.terminal import out, print_json


def demo(
    data: Annotated[Path, typer.Option(help="Folder of the demo voices.")] = Path("data/speech"),
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for all that the demo makes.")] = Path("demo"),
    as_json: Json = False,
) -> None:
    """Do all of it on the repository's voices, on a CPU, in minutes.

    Mixes six voices, trains a small network with --clip auto:10, separates test mixtures, scores them and says what
    to listen to. Goes on where it was interrupted.
    """
    from sepclip.demo import demo as run_demo
    from sepclip.evaluation.terminal_tables import BRIEF_COLUMNS, print_scores

    done = run_demo(data, out_folder)
    if as_json:
        print_json({"seconds": done.seconds, "listen": [str(path) for path in done.listen], **done.result})
        return
    print_scores(done.result, BRIEF_COLUMNS)
    for line in done.words():
        out.print(line, markup=False, soft_wrap=True)
