"""The journal of the files that are scored already, from which a killed evaluation resumes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sepclip.audio.files import write_text
from sepclip.errors import UserError
from sepclip.scoring.items import ScoreRow


class Journal:
    """A file with one line per scored file: the index of its item, and its rows.

    ``digest`` identifies everything that is scored, and how; a journal with another digest is discarded, and then
    ``replaced`` is True. ``finished`` has the rows that an earlier evaluation wrote, by the index of the item. Raises
    UserError if the file cannot be written.
    """

    def __init__(self, path: Path, digest: str):
        self._path = path
        self.finished: dict[int, list[ScoreRow]] = {}
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []  # the last is empty, or half a line
        try:
            if lines and json.loads(lines[0]) == {"digest": digest}:
                for line in lines[1:]:
                    entry = json.loads(line)
                    self.finished[entry["file"]] = [ScoreRow.from_flat(row) for row in entry["rows"]]
        except (ValueError, KeyError, TypeError):
            pass  # a damaged line and everything after it is scored again
        self.replaced = bool(lines) and not self.finished
        # written again without half a line or damaged ones, then appended to
        text = "".join(_file_line(index, rows) for index, rows in self.finished.items())
        write_text(path, _line({"digest": digest}) + text)
        self._file = path.open("a", encoding="utf-8")

    def add(self, index: int, rows: Sequence[ScoreRow]) -> None:
        """Append the rows of one file, so that they survive a kill of this process."""
        try:
            self._file.write(_file_line(index, rows))
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self._path} cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the journal and leave it to the next evaluation."""
        self._file.close()

    def remove(self) -> None:
        """Remove the journal, because its results have been written elsewhere."""
        self.close()
        self._path.unlink(missing_ok=True)


def _file_line(index: int, rows: Sequence[ScoreRow]) -> str:
    return _line({"file": index, "rows": [row.flat() for row in rows]})


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, allow_nan=False) + "\n"
