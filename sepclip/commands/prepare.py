"""``sepclip prepare``: a sub-command for each corpus, and the list of all corpora."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from sepclip.commands.options import with_volume
from sepclip.corpora import corpora
from sepclip.terminal import out

prepare_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make mixtures for training and testing from a corpus.\n\n"
    "Writes recipes (tr.jsonl, cv.jsonl, tt.jsonl) and the audio in the layout of wsj0-2mix. Run the same command "
    "again to resume an interrupted preparation. --check only lists everything that is missing or wrong.",
)


def show_cards() -> None:
    """Print a paragraph about each corpus: what it is, expected folders, size, licence and source."""
    for name, corpus in sorted(corpora().items()):
        card = corpus.card
        out.print(Text(name, style="bold"))
        lines = Table.grid(padding=(0, 2, 0, 0))
        lines.add_column(min_width=9)
        lines.add_column(overflow="fold")
        for label, text in (
            ("what", card.what),
            ("folders", card.layout),
            ("size", card.size),
            ("licence", card.licence),
            ("from", card.source),
        ):
            lines.add_row(f"  {label}", Text(text))  # plain text, because the folders may contain brackets
        out.print(lines)
        out.print()


def _list_corpora(requested: bool) -> None:
    if requested:
        show_cards()
        raise typer.Exit


@prepare_app.callback()
def _prepare(
    list_corpora: Annotated[
        bool,
        typer.Option(
            "--list",
            callback=_list_corpora,
            is_eager=True,
            help="List all corpora with size, licence, source and folders.",
        ),
    ] = False,
) -> None:
    pass


for _name, _corpus in corpora().items():
    prepare_app.command(_name, help=_corpus.card.text(), short_help=_corpus.card.what)(with_volume(_corpus.prepare))
