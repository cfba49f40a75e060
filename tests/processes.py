"""What has become of processes."""

from pathlib import Path


def ended(pid: int) -> bool:
    """Whether a process has ended; maybe nobody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True
