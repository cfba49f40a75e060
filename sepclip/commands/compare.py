"""``sepclip compare``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sepclip.commands.options import Json
from sepclip.scoring.table import METRICS, select_names
from sepclip.terminal import out, print_json, say

if TYPE_CHECKING:
    from sepclip.evaluation.document import Comparison


def compare(
    scores: Annotated[
        list[Path],
        typer.Argument(help="Two or more scored runs, or folders with a scores.json of `sepclip eval`."),
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            help=f"Scores, with commas between: {', '.join(METRICS)} [all that they have in common].",
            show_default=False,
        ),
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder for comparison.json, comparison.md and comparison.svg [none].", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare scored systems on the same files: how much one improves over the other, and how certain that is.

    For every pair of systems, prints the mean difference over files with its 95 % interval (bootstrap), the median, the
    share of files in which the second is better, and Wilcoxon's signed-rank test, corrected for the number of pairs
    (Holm). A file counts once, with the mean over its sources. Scores with different definitions or references cannot
    be compared.
    """
    from sepclip.evaluation import comparison

    names = None if metrics is None else select_names(metrics, tuple(METRICS), (), "metrics")
    result = comparison.compare(scores, names)
    heads, lines = comparison.comparison_table(result)
    written = [] if out_folder is None else _write(result, heads, lines, out_folder)
    if as_json:
        print_json(dict(result))
        return
    _print_table(heads, lines)
    message = comparison.left_out_message(result)
    if message:
        say(message)
    if written:
        out.print(f"written: {', '.join(written)}", markup=False, soft_wrap=True)


def _write(result: "Comparison", heads: Sequence[str], lines: Sequence[Sequence[str]], folder: Path) -> list[str]:
    """Write the comparison as Markdown, picture and JSON; returns what to say of what was written."""
    import json

    from sepclip.audio.files import write_text
    from sepclip.evaluation.comparison_picture import draw_comparison
    from sepclip.evaluation.markdown import definition_table, table

    text = [f"# Comparison on {result['files']} files", "", *table(list(heads), map(list, lines))]
    write_text(folder / "comparison.md", "\n".join([*text, *definition_table(result["titles"], result["metrics"])]))
    no_picture = draw_comparison(result, folder / "comparison.svg")
    if no_picture:
        say(no_picture)
    whole = json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False)
    write_text(folder / "comparison.json", whole + "\n")
    return [str(folder / "comparison.json"), "comparison.md", *([] if no_picture else ["comparison.svg"])]


def _print_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print the table in the width of a terminal.

    The median is left out, and columns that are the same in all lines are in the title instead.
    """
    from rich import box
    from rich.table import Table

    same = [column for column in (1, 2) if len({line[column] for line in lines}) == 1]  # the systems, the files
    title = [lines[0][1] if 1 in same else "", f"{lines[0][2]} files" if 2 in same else ""]
    table = Table(box=box.SIMPLE_HEAD, title=", ".join(filter(None, title)), title_justify="left")
    columns = [column for column, head in enumerate(heads) if head != "median" and column not in same]
    for column in columns:
        justify: Literal["left", "right"] = "left" if column < 2 else "right"
        table.add_column(heads[column], justify=justify, no_wrap=column != 1, overflow="fold")
    for line in lines:
        table.add_row(*(line[column] for column in columns))
    out.print(table, markup=False)
