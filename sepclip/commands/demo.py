"""The command ``sepclip demo``."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.commands.options import Json
from sepclip.terminal import out, print_json


def demo(
    data: Annotated[Path, typer.Option(help="Folder of the demo voices.")] = Path("data/speech"),
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for all output of the demo.")] = Path("demo"),
    as_json: Json = False,
) -> None:
    """Run every step on the repository's voices, on a CPU, in minutes.

    Separates two speakers with the pretrained model, mixes six voices, trains a small network on them with
    --clip auto:10, separates test mixtures, scores them and lists what to listen to. An interrupted demo resumes.
    """
    from sepclip.demo import run_demo
    from sepclip.evaluation.terminal_tables import BRIEF_COLUMNS, print_scores

    result = run_demo(data, out_folder)
    if as_json:
        print_json({"seconds": result.seconds, "listen": [str(path) for path in result.listen], **result.scores})
        return
    print_scores(result.scores, BRIEF_COLUMNS)
    for line in result.lines():
        out.print(line, markup=False, soft_wrap=True)
