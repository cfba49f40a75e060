"""Options that several commands share."""

import ast
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sepclip import terminal
from sepclip.corpora.command import Json as Json

Device = Annotated[str, typer.Option(help="auto (cuda where there is one), cpu, cuda or cuda:N.")]
KMeans = Annotated[
    str | None,
    typer.Option(
        metavar="KEY=VALUE,...",
        help="Other clustering than the run's: masks=binary or soft, fit=vad or loudest, restarts=N.",
        show_default=False,
    ),
]
MaskSource = Annotated[
    Literal["binary", "soft", "network"] | None,
    typer.Option(
        "--masks",
        help="Binary or soft masks by k-means, or those of the network, where the run has both (chimera) "
        "[as the run is configured].",
        show_default=False,
    ),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"], typer.Option(help="Of the network; auto is bf16 where the device computes in it.")
]
Root = Annotated[
    Path | None, typer.Option(help="Where the corpus of DATA lies now, if it has moved.", show_default=False)
]

NoiseRoot = Annotated[
    Path | None, typer.Option(help="Where the noise of DATA lies now, if it has moved.", show_default=False)
]
RirsRoot = Annotated[
    Path | None,
    typer.Option(help="Where the room impulse responses of DATA lie now, if they have moved.", show_default=False),
]


def table_keys(file: str, table: str) -> list[str]:
    """Return the keys of a ``table`` in a ``file`` of the package, for the help of options.

    Read from the source, since importing it would import torch and make every ``--help`` wait for seconds.
    """
    tree = ast.parse((Path(__file__).parents[1] / file).read_text(encoding="utf-8"))
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(keys=keys)) if name == table:
                return [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    raise LookupError(f"{file} has no table {table}")


_QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Print results, warnings and errors alone.")]
_VERBOSE = Annotated[bool, typer.Option("--verbose", "-v", help="Print everything there is to tell.")]


def with_volume(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with the options ``--quiet`` and ``--verbose`` beside its own."""

    @functools.wraps(command)
    def run(*, quiet: bool, verbose: bool, **own: Any) -> None:
        if quiet and verbose:
            raise typer.BadParameter("give --quiet or --verbose, not both")
        terminal.volume.quiet, terminal.volume.verbose = quiet, verbose
        command(**own)

    signature = inspect.signature(command)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("quiet", _QUIET), ("verbose", _VERBOSE))
    ]
    own = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values()]
    run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {**command.__annotations__, "quiet": _QUIET, "verbose": _VERBOSE}
    return run
