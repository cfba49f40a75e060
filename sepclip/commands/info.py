"""``sepclip info``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sepclip.commands.options import Json
from sepclip.terminal import out, print_json


def info(
    path: Annotated[
        Path | None, typer.Argument(metavar="[RUN|DATA]", show_default=False, help="A run, or a mixture set.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show versions, devices and what works on this machine; or summarize a run or a mixture set."""
    from sepclip.environment import gather, lines

    document: dict[str, Any]
    if path is not None:
        from sepclip.report.contents import contents

        facts = contents(path)
        width = max(map(len, facts)) + 1
        document, text = {**facts}, [f"{key + ':':<{width}} {value}" for key, value in facts.items()]
    else:
        environment = gather()
        document, text = {**environment}, lines(environment)
    if as_json:
        print_json(document)
        return
    for line in text:
        out.print(line, markup=False, soft_wrap=True)
