"""``sepclip info``."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.commands.options import Json
from sepclip.terminal import out, print_json


def info(
    path: Annotated[
        Path | None, typer.Argument(metavar="[RUN|DATA]", show_default=False, help="A run, or a mixture set.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show versions, devices and what works here; or what a run or a mixture set is."""
    from sepclip.environment import gather, lines

    if path is not None:
        from sepclip.report.contents import contents

        facts = contents(path)
        width = max(map(len, facts)) + 1
        told = [f"{key + ':':<{width}} {value}" for key, value in facts.items()]
    else:
        facts = gather()
        told = lines(facts)
    if as_json:
        print_json(facts)
        return
    for line in told:
        out.print(line, markup=False, soft_wrap=True)
