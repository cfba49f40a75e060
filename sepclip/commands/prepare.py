"""``sepclip prepare``: a sub-command for each corpus, and the list of all."""

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
    "Writes recipes (tr.jsonl, cv.jsonl, tt.jsonl) and the audio in the layout of wsj0-2mix. An interrupted "
    "preparation goes on with the same command; --check looks for all that is missing or wrong before any work.",
)


def show_cards() -> None:
    """Print the cards of all corpora, a paragraph each."""
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
            lines.add_row(f"  {label}", Text(text))  # not as markup, for the folders may hold brackets
        out.print(lines)
        out.print()


def _list(wanted: bool) -> None:
    if wanted:
        show_cards()
        raise typer.Exit


@prepare_app.callback()
def _prepare(
    listed: Annotated[
        bool,
        typer.Option(
            "--list", callback=_list, is_eager=True, help="Show all corpora: what, size, licence, source, folders."
        ),
    ] = False,
) -> None:
    pass


for _name, _corpus in corpora().items():
    prepare_app.command(_name, help=_corpus.card.text(), short_help=_corpus.card.what)(with_volume(_corpus.prepare))
