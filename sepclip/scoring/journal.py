"""The files that are scored already, so that a killed scoring goes on where it was."""

import json
from pathlib import Path
from typing import Any

from sepclip.audio.files import write_text
from sepclip.errors import UserError


class Journal:
    """A line a finished file in ``path``: its place in the input, and what came out.

    ``digest`` stands for all that is scored and how; a journal of another digest is begun anew. ``done`` holds what an
    earlier scoring left.
    """

    def __init__(self, path: Path, digest: str):
        self._path = path
        self.done: dict[int, list[dict[str, Any]]] = {}
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []  # the last is empty, or half a line
        try:
            if lines and json.loads(lines[0]) == {"digest": digest}:
                for line in lines[1:]:
                    entry = json.loads(line)
                    self.done[entry["file"]] = entry["rows"]
        except (ValueError, KeyError, TypeError):
            pass  # what is damaged is scored anew, with all that follows
        self.replaced = bool(lines) and not self.done
        text = "".join(_line({"file": index, "rows": rows}) for index, rows in self.done.items())
        write_text(path, _line({"digest": digest}) + text)
        self._file = path.open("a", encoding="utf-8")

    def add(self, index: int, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of one file."""
        try:
            self._file.write(_line({"file": index, "rows": rows}))
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self._path} cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Leave the journal to the next scoring."""
        self._file.close()

    def remove(self) -> None:
        """Remove the journal, for its results lie elsewhere now."""
        self.close()
        self._path.unlink(missing_ok=True)


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, allow_nan=False) + "\n"
