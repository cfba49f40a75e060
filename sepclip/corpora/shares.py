"""Shares of tr, cv and tt: reading them from an option, and dividing voices, files or tracks by them."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import TypeVar

from sepclip.errors import UserError
from sepclip.mixing.recipe import SPLITS

T = TypeVar("T")


def parse_fractions(text: str) -> dict[str, float]:
    """Read the shares of tr, cv and tt, such as ``"0.8,0.1,0.1"``."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != len(SPLITS) or not (min(values) > 0 and abs(sum(values) - 1) <= 1e-6):  # also refuses NaN
        raise UserError(f"--fractions {text}: give three positive numbers that sum to 1, such as 0.8,0.1,0.1")
    return dict(zip(SPLITS, values, strict=True))


def divide(items: Sequence[T], fractions: Mapping[str, float], least: int, chance: Random) -> dict[str, list[T]]:
    """Divide shuffled ``items`` by ``fractions``: at least ``least`` to each part, the rest to the first."""
    first, *others = fractions
    counts = {name: max(least, round(len(items) * fractions[name])) for name in others}
    while sum(counts.values()) > len(items) - least:  # the first needs its least too
        counts[max(counts, key=lambda name: counts[name])] -= 1
    order, parts, start = list(items), {}, 0
    chance.shuffle(order)
    for name, count in {first: len(items) - sum(counts.values()), **counts}.items():
        parts[name] = order[start : start + count]
        start += count
    return parts
