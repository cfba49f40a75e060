"""From which file, by which run and how each result was made, so that nothing else is taken for it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sepclip.separation.jobs import STDIN, Job

FILE = ".separated.jsonl"  # in the folder of the results, a line a separated file


class Origins:
    """What is known of the results in a folder. ``how``: the run, and all options that change what is written."""

    def __init__(self, out: Path, how: Mapping[str, object]):
        self._out, self._how = out, {key: None if value is None else str(value) for key, value in how.items()}
        self._known: dict[str, dict[str, Any]] = {}
        if (out / FILE).is_file():
            for line in (out / FILE).read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    found = json.loads(line)
                    self._known[found["result"]] = {"size": int(found["size"]), "how": dict(found["how"]), **found}
                except (ValueError, KeyError, TypeError):
                    continue  # cut short by a kill: nothing is known of this one

    def other(self, job: Job) -> str | None:
        """Return what else the results of a job were made from or by; None where it is the same, or not known."""
        before = self._known.get(self._name(job))
        if before is None or not job.path.exists():
            return None
        now = self._record(job)
        if (before["size"], before.get("mtime_ns")) != (now["size"], now["mtime_ns"]):
            same = before.get("input") == now["input"]
            return "made from another version of it" if same else f"made from {before.get('input')}"
        for key, value in self._how.items():
            if before["how"].get(key) != value:
                said = before["how"].get(key)
                if key == "run":
                    return f"made by {said}"
                return f"made without --{key}" if said is None else f"made with --{key} {said}"
        return None

    def note(self, job: Job) -> None:
        """Remember how the results of a job, which are there now, were made."""
        if job.path == STDIN:
            return
        with (self._out / FILE).open("a", encoding="utf-8") as file:  # in one piece: others may do so, too
            file.write(json.dumps(self._record(job), ensure_ascii=False) + "\n")

    def _name(self, job: Job) -> str:
        return job.targets[0].relative_to(self._out).as_posix()

    def _record(self, job: Job) -> dict[str, Any]:
        stat = job.path.stat()  # a file that has moved is the same
        return {
            "result": self._name(job),
            "input": str(job.path.resolve()),
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "how": self._how,
        }
