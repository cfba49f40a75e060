"""Random numbers: every choice comes from a generator of (seed, purpose, index)."""

import random


def generator(seed: int, purpose: str, index: int = 0) -> random.Random:
    """Return a generator that depends only on its arguments, not on the process, worker or platform."""
    return random.Random(f"{seed}/{purpose}/{index}")
