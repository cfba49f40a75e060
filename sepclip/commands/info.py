"""``sepclip info``."""

from sepclip.commands.options import Json
from sepclip.terminal import out, print_json


def info(as_json: Json = False) -> None:
    """Show versions, devices and what works here."""
    from sepclip.information import gather, lines

    facts = gather()
    if as_json:
        print_json(facts)
        return
    for line in lines(facts):
        out.print(line, markup=False, soft_wrap=True)
