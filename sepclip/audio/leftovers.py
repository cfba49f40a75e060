"""Names of temporary files, and the removal of those that a killed process has left behind."""

import os
import platform
import re
import shutil
import threading
import zlib
from contextlib import suppress
from pathlib import Path

_HOST = f"{zlib.crc32(platform.node().encode(errors='replace')):08x}"
_NAME = re.compile(r"\..*?(?:\.(?P<host>[0-9a-f]{8}))?\.(?P<process>\d+)-(?P<thread>\d+)\.tmp", re.DOTALL)


def temporary_suffix() -> str:
    """Return how the name of a temporary file of this thread ends; such a name begins with a dot."""
    # with the machine, since several machines may write to a shared folder
    return f".{_HOST}.{os.getpid()}-{threading.get_ident()}.tmp"


def remove_leftovers(*folders: Path) -> None:
    """Remove the temporary files and folders directly in ``folders`` whose process has ended on this machine."""
    for folder in folders:
        try:
            with os.scandir(folder) as scanned:
                entries = [(entry, match) for entry in scanned if (match := _NAME.fullmatch(entry.name))]
        except OSError:  # there is no such folder yet, or it cannot be listed
            continue
        for entry, match in entries:
            if match["host"] in (None, _HOST) and not _is_running(int(match["process"]), int(match["thread"])):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        Path(entry.path).unlink()


def _is_running(process: int, thread: int) -> bool:
    if process == os.getpid():
        return any(running.ident == thread for running in threading.enumerate())
    try:
        os.kill(process, 0)  # sends no signal, and fails if there is no such process
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to another user, or there is no /proc
        return True
    return state[0] not in "ZX"  # a zombie has ended, but its parent has not asked for its exit code
