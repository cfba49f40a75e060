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

Device = Annotated[str, typer.Option(help="auto (cuda if available, otherwise cpu), cpu, cuda or cuda:N.")]
KMeans = Annotated[
    str | None,
    typer.Option(
        metavar="KEY=VALUE,...",
        help="Change the clustering of the run: masks=binary or soft, fit=vad or loudest, restarts=N.",
        show_default=False,
    ),
]
MaskSource = Annotated[
    Literal["binary", "soft", "network"] | None,
    typer.Option(
        "--masks",
        help="Use binary or soft masks from k-means, or the masks of the network, if the run has both (chimera) "
        "[as configured in the run].",
        show_default=False,
    ),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"],
    typer.Option(help="Precision of the network; auto is bf16 if the device supports it, otherwise fp32."),
]
Root = Annotated[
    Path | None, typer.Option(help="New location of the corpus of DATA, if it has moved.", show_default=False)
]

NoiseRoot = Annotated[
    Path | None, typer.Option(help="New location of the noise of DATA, if it has moved.", show_default=False)
]
RirsRoot = Annotated[
    Path | None,
    typer.Option(help="New location of the room impulse responses of DATA, if they have moved.", show_default=False),
]


def table_keys(file: str, table: str) -> list[str]:
    """Return the keys of the dictionary ``table`` in a ``file`` of the package, for the help of options.

    They are read from the source, because importing the file would import torch and delay every ``--help`` by seconds.
    Raises LookupError if there is no such table.
    """
    tree = ast.parse((Path(__file__).parents[1] / file).read_text(encoding="utf-8"))
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(keys=keys)) if name == table:
                return [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    raise LookupError(f"{file} has no table {table}")


def class_texts(file: str, attribute: str) -> list[str]:
    """Return the text that each class in a ``file`` of the package assigns to ``attribute``, read from the source."""
    tree = ast.parse((Path(__file__).parents[1] / file).read_text(encoding="utf-8"))
    found = []
    for node in (line for body in tree.body if isinstance(body, ast.ClassDef) for line in body.body):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))) if name == attribute:
                found.append(text)
    return found


_QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Print only results, warnings and errors.")]
_VERBOSE = Annotated[bool, typer.Option("--verbose", "-v", help="Print all details.")]


def with_volume(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that also has the options ``--quiet`` and ``--verbose``."""

    @functools.wraps(command)
    def run(*, quiet: bool, verbose: bool, **arguments: Any) -> None:
        if quiet and verbose:
            raise typer.BadParameter("give --quiet or --verbose, not both")
        terminal.volume.quiet, terminal.volume.verbose = quiet, verbose
        command(**arguments)

    signature = inspect.signature(command)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("quiet", _QUIET), ("verbose", _VERBOSE))
    ]
    parameters = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in signature.parameters.values()]
    run.__signature__ = signature.replace(parameters=[*parameters, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {**command.__annotations__, "quiet": _QUIET, "verbose": _VERBOSE}
    return run
