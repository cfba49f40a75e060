"""What is separated: how many sources of which names, at which rate, in how many channels."""

import re
from dataclasses import dataclass

from sepclip.errors import counted


def part_names(sources: int) -> list[str]:
    """Return ``["s1", "s2", ...]``, the names of sources that have no others."""
    return [f"s{index + 1}" for index in range(sources)]


@dataclass(frozen=True)
class Layout:
    """The shape of mixtures and their sources, the same for a mixture set and for what is trained on it.

    ``names`` are those of the sources: s1, s2, ... where none are given. In a ``fixed_order`` source and estimate of
    one index belong together, as with the stems of music; otherwise, as with voices, estimates come in any order.
    """

    rate_hz: int
    sources: int
    channels: int = 1
    names: tuple[str, ...] = ()
    fixed_order: bool = False

    def __post_init__(self) -> None:
        """Fill in the names."""
        if not self.names:
            object.__setattr__(self, "names", tuple(part_names(self.sources)))
        if len(self.names) != self.sources:
            raise ValueError(f"{self.sources} sources cannot have the names {', '.join(self.names)}")
        if any(re.search(r"^\.|[/\\\0]", name) for name in self.names):  # they become names of files and folders
            raise ValueError(f"sources cannot have the names {', '.join(self.names)}")

    def __str__(self) -> str:
        """Return it in words, such as ``2 sources in any order (s1, s2), 1 channel at 8000 Hz``."""
        order = "fixed" if self.fixed_order else "any"
        names = ", ".join(self.names)
        what = f"{counted(self.sources, 'source')} in {order} order ({names})"
        return f"{what}, {counted(self.channels, 'channel')} at {self.rate_hz} Hz"
