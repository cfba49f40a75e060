"""``sepclip models``."""

from typing import Annotated

import typer
from rich.table import Table

from sepclip.commands.options import Json
from sepclip.pretrained.model_cards import DEFAULT, model_names, read_card
from sepclip.terminal import out, print_json


def models(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Model whose card to print.", show_default=False, autocompletion=model_names
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the pretrained models that ship with sepclip, or print the card of one."""
    cards = [read_card(each) for each in ([name] if name else model_names())]
    if as_json:
        documents = [card.facts() for card in cards]
        print_json({**documents[0], "card": cards[0].text} if name else {"models": documents})
        return
    if name:
        out.print(cards[0].text, markup=False, soft_wrap=True)
        return
    for card in cards:
        table = Table(title=card.name + (" (default)" if card.name == DEFAULT else ""), show_header=False, box=None)
        table.title_justify = "left"
        table.add_row("task", f"{card.task}, {card.rate_hz} Hz, {card.megabytes:.1f} MB")
        table.add_row("training", card.training_data)
        for score in card.scores:
            table.add_row("scores", str(score))
        table.add_row("limits", card.limits)
        table.add_row("licence", card.licence)
        out.print(table, markup=False)
    out.print("`sepclip models NAME` prints the card of a model.", markup=False)
