"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="auto (cuda where there is one), cpu, cuda or cuda:N.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of text.")]
KMeans = Annotated[
    str | None,
    typer.Option(
        metavar="KEY=VALUE,...",
        help="Other clustering than the run's: masks=binary or soft, fit=vad or loudest, restarts=N.",
        show_default=False,
    ),
]
Root = Annotated[
    Path | None, typer.Option(help="Where the corpus of DATA lies now, if it has moved.", show_default=False)
]
