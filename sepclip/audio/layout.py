"""The layout of mixtures: number and names of the sources, sampling rate and channels."""

import re
from dataclasses import dataclass

from sepclip.errors import counted


def part_names(sources: int) -> list[str]:
    """Return ``["s1", "s2", ...]``, the default names of sources."""
    return [f"s{index + 1}" for index in range(sources)]


@dataclass(frozen=True)
class Layout:
    """The layout of mixtures and their sources, shared by a mixture set and the networks trained on it.

    ``names`` are the names of the sources, by default s1, s2, ... With ``fixed_order`` the source and the estimate of
    the same index belong together, as for the stems of music; otherwise, as for voices, estimates come in any order.
    """

    rate_hz: int
    sources: int
    channels: int = 1
    names: tuple[str, ...] = ()
    fixed_order: bool = False

    def __post_init__(self) -> None:
        """Fill in default names. Raises ValueError for names that do not fit."""
        if not self.names:
            object.__setattr__(self, "names", tuple(part_names(self.sources)))
        if len(self.names) != self.sources:
            raise ValueError(f"{self.sources} sources cannot have the names {', '.join(self.names)}")
        if any(re.search(r"^\.|[/\\\0]", name) for name in self.names):  # names become files and folders
            raise ValueError(f"sources cannot have the names {', '.join(self.names)}")

    def __str__(self) -> str:
        """Return a description such as ``2 sources in any order (s1, s2), 1 channel at 8000 Hz``."""
        order = "fixed" if self.fixed_order else "any"
        names = ", ".join(self.names)
        sources = f"{counted(self.sources, 'source')} in {order} order ({names})"
        return f"{sources}, {counted(self.channels, 'channel')} at {self.rate_hz} Hz"
