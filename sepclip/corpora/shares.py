"""Shares of tr, cv and tt: as an option gives them, and as numbers of voices, files or tracks."""

from collections.abc import Mapping

from sepclip.errors import UserError
from sepclip.mixing.recipe import SPLITS


def parse_fractions(text: str) -> dict[str, float]:
    """Read the shares of tr, cv and tt, such as ``"0.8,0.1,0.1"``."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != len(SPLITS) or not (min(values) > 0 and abs(sum(values) - 1) <= 1e-6):  # NaN is neither
        raise UserError(f"--fractions {text}: give three positive numbers that sum to 1, such as 0.8,0.1,0.1")
    return dict(zip(SPLITS, values, strict=True))


def shares_of(total: int, fractions: Mapping[str, float], least: int) -> dict[str, int]:
    """Divide ``total`` things by ``fractions``, at least ``least`` to each, the rest to the first."""
    rest = dict(list(fractions.items())[1:])
    shares = {name: max(least, round(total * fraction)) for name, fraction in rest.items()}
    while sum(shares.values()) > total - least:  # the first needs its least too
        shares[max(shares, key=lambda name: shares[name])] -= 1
    first = next(iter(fractions))
    return {first: total - sum(shares.values()), **shares}
