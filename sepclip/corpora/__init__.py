"""Making mixture sets from corpora. This file collects the cards of all corpora.

To add a corpus, add one file, or one folder with a ``command.py``, whose ``CORPORA`` names a card and a function
``prepare`` for each sub-command of ``sepclip prepare``. The signature of ``prepare`` defines its options; all have
``root``, ``out``, ``check``, ``jobs`` and ``as_json`` of the types in :mod:`sepclip.corpora.command`, and end in its
``carry_out``. These modules are imported for every ``--help``, so they may import only light modules at the top: the
standard library, typer, this file and ``command.py``.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

# files beside the corpora that all of them use; every other file or folder here is a corpus
_SHARED = {"command", "existing_mixtures", "preflight", "shares", "toolkit_lists", "write_set"}


@dataclass(frozen=True)
class Card:
    """What a user wants to know about a corpus before preparing it."""

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
    by_name: dict[str, Corpus] = {}
    for entry in pkgutil.iter_modules(__path__, f"{__name__}."):
        if entry.name.rsplit(".", 1)[-1] not in _SHARED:
            module = importlib.import_module(f"{entry.name}.command" if entry.ispkg else entry.name)
            by_name |= {corpus.card.name: corpus for corpus in module.CORPORA}
    return by_name
