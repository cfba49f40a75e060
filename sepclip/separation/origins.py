"""A record of how each result was made, so that results of another file, run or option are not taken for it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sepclip.separation.jobs import Job, is_stream

FILE = ".separated.jsonl"  # in the folder of the results, one line per separated file


class Origins:
    """The records of the results in a folder.

    ``provenance``: the run, and all options that change the results.
    """

    def __init__(self, out: Path, provenance: Mapping[str, object]):
        self._out = out
        self._provenance = {key: None if value is None else str(value) for key, value in provenance.items()}
        self._records: dict[str, dict[str, Any]] = {}
        if (out / FILE).is_file():
            # the last line about a result is the one that counts
            for line in (out / FILE).read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    record = json.loads(line)
                    fields = {"size": int(record["size"]), "how": dict(record["how"])}
                    self._records[record["result"]] = {**fields, **record}
                except (ValueError, KeyError, TypeError):
                    continue  # a line cut short by a kill: nothing is known about this result

    def difference(self, job: Job) -> str | None:
        """Describe how existing results of a job were made, if from another input or by other options; else None."""
        old = self._records.get(self._result_name(job))
        if old is None or not job.path.exists():
            return None
        # another input
        new = self._record(job)
        if (old["size"], old.get("mtime_ns")) != (new["size"], new["mtime_ns"]):
            same_path = old.get("input") == new["input"]
            return "made from another version of it" if same_path else f"made from {old.get('input')}"
        # another run or option
        for key, value in self._provenance.items():
            old_value = old["how"].get(key)
            if old_value != value:
                if key == "run":
                    return f"made by {old_value}"
                return f"made without --{key}" if old_value is None else f"made with --{key} {old_value}"
        return None

    def knows(self, job: Job) -> bool:
        """Return whether there is a record of the results of a job."""
        return self._result_name(job) in self._records

    def add(self, job: Job) -> None:
        """Append a record of the results of a job, which have just been written."""
        if is_stream(job.path) or not job.path.exists():
            return
        # one write per line, since several processes may append at once
        with (self._out / FILE).open("ab") as file:
            # a name that is not UTF-8 becomes escapes that json reads back
            line = json.dumps(self._record(job), ensure_ascii=False).encode(errors="backslashreplace")
            file.write(line + b"\n")

    def _result_name(self, job: Job) -> str:
        return job.targets[0].relative_to(self._out).as_posix()

    def _record(self, job: Job) -> dict[str, Any]:
        stat = job.path.stat()  # by size and time, so that a file that was moved is still the same
        return {
            "result": self._result_name(job),
            "input": os.path.realpath(job.path),
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "how": self._provenance,
        }


def state_of(job: Job, origins: Origins | None, *, weights_time: float, overwrite: bool) -> str:
    """Return ``due`` if a job is to be run, ``done`` if its results are current, else the reason why it is not run."""
    try:
        # a stream has no age, so existing results of it are never known to be current
        if overwrite or is_stream(job.path):
            existing = [target for target in job.results if target.exists()]
            return "due" if overwrite or not existing else f"{existing[0]} already exists: --overwrite replaces it"
        difference = origins.difference(job) if origins else None
        # a record knows the file by its size and date, so its date does not matter any more
        same_version = origins is not None and origins.knows(job) and difference is None
        state = job.state(weights_time, same_version=same_version)
    except OSError as error:  # such as a folder without permission to look into it
        return f"{error.filename or job.path}: {error.strerror or error}"
    result = f"{job.targets[0]} exists, but"
    if state == "new":
        return "due"
    if difference:
        return f"{result} was {difference}: --overwrite replaces it, another --out keeps both"
    if state == "old":
        return f"{result} is older than the file or the weights of the run: --overwrite replaces it"
    return "done"
