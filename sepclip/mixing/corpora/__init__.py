"""One file a corpus, found by itself: a module here with ``CORPORA`` brings one sub-command for each of them.

The signature of ``prepare`` gives the command's options; all have ``root``, ``out``, ``check``, ``jobs`` and
``as_json``, of the types below, and end in ``preflight.carry_out``. The modules are imported for every ``--help``, so
what they import at the top must be light: the standard library, typer and this file.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Argument(help="New folder for the mixture set.", show_default=False)]
Check = Annotated[
    bool,
    typer.Option("--check", help="Only list what is missing or wrong and the disk space needed; write nothing."),
]
Jobs = Annotated[
    int | None,
    typer.Option(help="Files worked on at once; the result is the same for any number [cores].", min=1),
]
TASKS = ("sep_clean", "sep_noisy", "enh_single", "enh_both")  # of WHAM! and LibriMix
Task = Annotated[
    str,
    typer.Option(
        help="sep_clean: mix_clean into s1, s2, ... sep_noisy: mix_both into s1, s2, ... enh_single: mix_single into "
        "s1. enh_both: mix_both into mix_clean."
    ),
]
Rates = Annotated[str, typer.Option(help="Sampling rate of the mixtures in Hz: 8000, 16000, or both with a comma.")]
Modes = Annotated[
    str,
    typer.Option(
        help="min: cut to the shortest source. max: fill up with silence. Or both with a comma. Several sets are made "
        "in one pass and lie in OUT/wav8k/min and so on."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of text.")]


@dataclass(frozen=True)
class Card:
    """What a user wants to know of a corpus before preparing it."""

    name: str
    what: str
    layout: str
    size: str
    licence: str
    source: str

    def text(self) -> str:
        """Return the card as the paragraphs of a help text."""
        return (
            f"{self.what}\n\nExpected folders: {self.layout}\n\nSize: {self.size}\n\nLicence: {self.licence}\n\n"
            f"Where to get it: {self.source}"
        )


@dataclass(frozen=True)
class Corpus:
    """A corpus: its card, and the function that prepares it, as typer calls it."""

    card: Card
    prepare: Callable[..., None]


def corpora() -> dict[str, Corpus]:
    """Return all corpora by the names on their cards."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return {corpus.card.name: corpus for module in modules for corpus in module.CORPORA}
