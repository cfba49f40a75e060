"""sepclip: from a folder of voices to a trained, scored, listenable separator, with AutoClip."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sepclip.separation.trained import Separator as Separator

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import ``Separator`` on first use, because torch takes seconds to import and `sepclip --help` must be instant."""
    if name == "Separator":
        from sepclip.separation.trained import Separator

        return Separator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
