"""What this process may use of the processor."""

import os


def cores() -> int:
    """Return how many cores: a batch system or a container may grant fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
