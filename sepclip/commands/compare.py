"""``sepclip compare``."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.commands.options import Json
from sepclip.errors import counted
from sepclip.scoring.metrics import METRICS, chosen
from sepclip.terminal import out, print_json, say


def compare(
    scores: Annotated[
        list[Path],
        typer.Argument(help="Folders with the scores.json of `sepclip eval`, or these files: two or more."),
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            help=f"Scores, with commas between: {', '.join(METRICS)} [all that they share].", show_default=False
        ),
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder for comparison.json, comparison.md and comparison.svg [none]", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare scored systems on the same files: what one gains over the other, and how sure that is.

    For every pair of systems: the mean difference over files with its 95 % interval (bootstrap), the median, the share
    of files in which the second is better, and Wilcoxon's signed-rank test, corrected for the number of pairs (Holm).
    A file counts once, with the mean over its sources. Scores of different definitions or references are refused.
    """
    import json

    from sepclip.audio.files import write_text
    from sepclip.evaluation import comparison
    from sepclip.evaluation.comparison_picture import draw
    from sepclip.evaluation.markdown import table

    wanted = None if metrics is None else chosen(metrics, tuple(METRICS), (), "metrics")
    result = comparison.compare(scores, wanted)
    heads, lines = comparison.cells(result)
    if out_folder is not None:
        text = [f"# Comparison on {result['files']} files", "", *table(heads, lines)]
        definitions = ([result["titles"][name], words] for name, words in result["metrics"].items())
        write_text(out_folder / "comparison.md", "\n".join([*text, *table(["score", "what it is"], definitions)]))
        no_picture = draw(result, out_folder / "comparison.svg")
        if no_picture:
            say(no_picture)
        whole = json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False)
        write_text(out_folder / "comparison.json", whole + "\n")
    if as_json:
        print_json(result)
        return
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD)
    short = {"difference": "diff.", "better in": "better"}
    # a terminal has no room for all; how many files there are is said once, or beside the score
    narrow = [place for place, head in enumerate(heads) if head not in ("median", "files")]
    for place in narrow:
        words = place < 2
        head = short.get(heads[place], heads[place])
        shown.add_column(head, justify="left" if words else "right", no_wrap=not words, overflow="fold", min_width=6)
    for line in lines:
        files = "" if line[2] == str(result["files"]) else f", {counted(int(line[2]), 'file')}"
        shown.add_row(line[0] + files, *(line[place] for place in narrow[1:]))
    out.print(f"{counted(result['files'], 'file')} that all have")
    out.print(shown)
    left_out = comparison.told_left_out(result)
    if left_out:
        say(left_out)
    if out_folder is not None:
        picture = "" if no_picture else ", comparison.svg"
        out.print(f"written: {out_folder / 'comparison.json'}, comparison.md{picture}", markup=False, soft_wrap=True)
