"""``sepclip compare``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sepclip.commands.options import Json
from sepclip.scoring.table import METRICS, chosen
from sepclip.terminal import out, print_json, say


def compare(
    scores: Annotated[
        list[Path],
        typer.Argument(help="Scored runs, or folders with the scores.json of `sepclip eval`: two or more."),
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
    _show(result, heads, lines)
    left_out = comparison.told_left_out(result)
    if left_out:
        say(left_out)
    if out_folder is not None:
        picture = "" if no_picture else ", comparison.svg"
        out.print(f"written: {out_folder / 'comparison.json'}, comparison.md{picture}", markup=False, soft_wrap=True)


def _show(result: dict[str, Any], heads: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print the table with what a terminal has room for: the median is left out, and what is the same in all lines."""
    from rich import box
    from rich.table import Table

    same = [place for place in (1, 2) if len({line[place] for line in lines}) == 1]  # the systems, the files
    told = [lines[0][1] if 1 in same else "", f"{lines[0][2]} files" if 2 in same else ""]
    shown = Table(box=box.SIMPLE_HEAD, title=", ".join(filter(None, told)), title_justify="left")
    narrow = [place for place, head in enumerate(heads) if head != "median" and place not in same]
    for place in narrow:
        shown.add_column(heads[place], justify="left" if place < 2 else "right", no_wrap=place != 1, overflow="fold")
    for line in lines:
        shown.add_row(*(line[place] for place in narrow))
    out.print(shown, markup=False)
