"""``sepclip compare``."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from sepclip.commands.options import Json
from sepclip.scoring.table import METRICS, select_names
from sepclip.terminal import out, print_json, print_table, say, table_width

if TYPE_CHECKING:
    from rich.table import Table

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
    share of files in which the second is better, and Wilcoxon's signed-rank test, corrected for all pairs and scores
    (Holm). A file counts once, with the mean over its sources. Scores with different definitions or references cannot
    be compared.
    """
    from sepclip.evaluation import comparison

    names = None if metrics is None else select_names(metrics, tuple(METRICS), (), "metrics")
    result = comparison.compare(scores, names)
    written = [] if out_folder is None else _write(result, *comparison.comparison_table(result), out_folder)
    if as_json:
        print_json(dict(result))
        return
    _print_tables(result)
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


def _print_tables(result: "Comparison") -> None:
    """Print a table for each pair of systems or, with more pairs than scores, for each score; the median is left out.

    If the names of the systems make a table wider than the terminal or 80 columns, they are numbered in a list.
    """
    from sepclip.evaluation.comparison import comparison_table

    heads, lines = comparison_table(result)
    tables = _tables(heads, lines)
    names = list(result["systems"])
    if len(names) > 2 and max(table_width(table) for _, table in tables) > max(80, out.width):
        for number, name in enumerate(names, 1):
            out.print(f"{number}: {name}", markup=False, soft_wrap=True)
        out.print()
        pairs = itertools.product(enumerate(names, 1), repeat=2)
        numbers = {f"{second} - {first}": f"{j} - {i}" for (i, first), (j, second) in pairs}
        tables = _tables(heads, [[line[0], numbers[line[1]], *line[2:]] for line in lines])
    for title, table in tables:
        out.print(title, markup=False, soft_wrap=True)
        print_table(table)


def _tables(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[tuple[str, "Table"]]:
    """Return the tables with their titles; what all lines of a table share is in its title, and not in a column."""
    from rich import box
    from rich.table import Table

    pairs, scores = (list(dict.fromkeys(line[column] for line in lines)) for column in (1, 0))
    by, titles = (1, pairs) if len(pairs) <= len(scores) else (0, scores)
    tables = []
    for title in titles:
        some = [line for line in lines if line[by] == title]
        files = {line[2] for line in some}
        left_out = {by, heads.index("median"), *([2] if len(files) == 1 else [])}
        columns = [column for column in range(len(heads)) if column not in left_out]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            justify: Literal["left", "right"] = "left" if column < 2 else "right"
            table.add_column(heads[column], justify=justify, no_wrap=True)
        for line in some:
            table.add_row(*(Text(line[column]) for column in columns))
        tables.append((f"{title}, {files.pop()} files" if len(files) == 1 else title, table))
    return tables
