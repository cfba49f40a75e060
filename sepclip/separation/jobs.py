"""Which files are separated, and where their results go."""

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sepclip.audio.decoding import ffmpeg
from sepclip.audio.files import HIDDEN, UNREAD, find_sounds
from sepclip.errors import UserError
from sepclip.terminal import warn

STDIN = Path("-")
NAME = "{name}_{source}"  # of a result, without its extension
RESIDUAL = "residual"


@dataclass(frozen=True)
class Job:
    """One file and its results: the sources in their order, and the residual where it is wanted."""

    path: Path
    targets: list[Path]
    residual: Path | None = None

    @property
    def results(self) -> list[Path]:
        """All files that it makes."""
        return self.targets if self.residual is None else [*self.targets, self.residual]

    def state(self, made_after: float) -> str:
        """Return ``new``, ``done`` or ``old``: whether its results are there, and newer than the file and the weights.

        Where only some are there and none is old, an interruption has left them: it is new.
        """
        there = [result for result in self.results if result.is_file()]
        newest = max(self.path.stat().st_mtime, made_after) if self.path.exists() else math.inf
        if any(result.stat().st_mtime < newest for result in there):
            return "old"
        return "done" if len(there) == len(self.results) else "new"


@dataclass
class JobList:
    """What is to be done, and what cannot be, with the reason."""

    jobs: list[Job] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)


def check_template(name: str) -> None:
    """Raise UserError where ``name`` is no pattern of a result's name."""
    try:
        fields = {field for _, field, *_ in string.Formatter().parse(name) if field is not None}
        example = PurePosixPath(name.format(name="a", source="s1"))
    except (ValueError, KeyError, IndexError, AttributeError):
        fields, example = set(), PurePosixPath()
    if fields != {"name", "source"} or example.is_absolute() or ".." in example.parts:
        raise UserError(f"--name {name}: it must hold {{name}} and {{source}} and stay in --out, such as {NAME}")


def make_plan(
    inputs: Sequence[Path],
    out: Path,
    sources: Sequence[str],
    *,
    extension: str,
    name: str = NAME,
    residual: bool = False,
) -> JobList:
    """Find the files of ``inputs`` (files, folders, ``-`` for stdin) and where their results go.

    Raises UserError where two inputs would be written to the same name, or a result over an input.
    """
    check_template(name)
    plan, owners = JobList(), dict[Path, Path]()
    parts = [*sources, *([RESIDUAL] if residual else [])]
    for given in dict.fromkeys(inputs):
        for path, relative in _files_of(given, out, plan):
            names = [name.format(name=relative.stem, source=part) + f".{extension}" for part in parts]
            results = [out / relative.parent / result for result in names]
            other = owners.setdefault(results[0], path)
            if other != path:
                raise UserError(
                    f"{other} and {path} would both be written to {results[0]}: separate them into two --out"
                )
            plan.jobs.append(Job(path, results[: len(sources)], results[-1] if residual else None))
    taken = {job.path.resolve() for job in plan.jobs if job.path != STDIN}
    for job in plan.jobs:
        hit = next((result for result in job.results if result.resolve() in taken), None)
        if hit:
            raise UserError(
                f"{hit} is an input, and the result of {job.path} would be written over it: choose another --out"
            )
    return plan


def _files_of(given: Path, out: Path, plan: JobList) -> list[tuple[Path, Path]]:
    """Return the files of an input, each with its place below ``out``."""
    if given == STDIN:
        return [(STDIN, Path("stdin"))]
    if not given.is_dir():
        return [(given, Path(given.name))]
    below, left_out = find_sounds(given)
    for path, reason in left_out.items():
        if reason != HIDDEN and path.suffix.lower() in UNREAD and ffmpeg():
            below.append(path)
        elif reason != HIDDEN:
            warn(f"{path}: {reason}")
    inside = out.resolve()
    files = [(path, path.relative_to(given)) for path in sorted(below) if inside not in path.resolve().parents]
    if not files:
        inside_out = "all its sound files lie in --out: choose another --out"
        plan.failed[given] = inside_out if below else "a folder without sound files"
    return files
