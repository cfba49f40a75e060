"""The state of processes."""

from pathlib import Path


def ended(pid: int) -> bool:
    """Return whether a process has ended, even if its parent has not waited for it (Linux only)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True
