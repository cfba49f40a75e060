"""What this process may use of the processor."""

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of processors in so many of time


def cores() -> int:
    """Return how many cores: a batch system may grant fewer than there are, and a container's limit pay for fewer."""
    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(granted, int(quota) // int(period)))
    except (OSError, ValueError):  # no such limit, or "max"
        return granted
