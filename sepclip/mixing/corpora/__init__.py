"""One file a corpus, found by itself: a module here with a ``CARD`` and a function ``prepare`` is a sub-command.

The signature of ``prepare`` gives the command's options. The modules are imported for every ``--help``, so what they
import at the top must be light: the standard library, typer and this file.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from types import ModuleType


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


def corpora() -> dict[str, ModuleType]:
    """Return the corpus modules by the names on their cards."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return {module.CARD.name: module for module in modules}
