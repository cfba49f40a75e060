"""The files to separate, and where their results are written."""

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
NAME = "{name}_{source}"  # name of a result, without its extension
RESIDUAL, OTHER_RESIDUAL = "residual", "mixture_minus_sources"


@dataclass(frozen=True)
class Job:
    """One file and its results: the sources in their order, and the residual if it is to be written."""

    path: Path
    targets: list[Path]
    residual: Path | None = None

    @property
    def results(self) -> list[Path]:
        """All files that the job writes."""
        return self.targets if self.residual is None else [*self.targets, self.residual]

    def state(self, weights_time: float) -> str:
        """Return ``old`` if a result is older than the file or the weights, else ``done`` or ``new``.

        ``done``: all results exist. If only some exist, they are left from an interruption, and the job is ``new``.
        """
        existing = [result for result in self.results if result.is_file()]
        newest = max(self.path.stat().st_mtime, weights_time) if self.path.exists() else math.inf
        if any(result.stat().st_mtime < newest for result in existing):
            return "old"
        return "done" if len(existing) == len(self.results) else "new"


@dataclass
class JobList:
    """The files to separate, and the inputs that cannot be separated, with the reason."""

    jobs: list[Job] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)


def check_template(name: str) -> None:
    """Raise UserError if ``name`` is not a valid pattern for the names of results."""
    try:
        fields = {field for _, field, *_ in string.Formatter().parse(name) if field is not None}
        # a result must not be written outside of --out
        example = PurePosixPath(name.format(name="a", source="s1"))
    except (ValueError, KeyError, IndexError, AttributeError):
        fields, example = set(), PurePosixPath()
    if fields != {"name", "source"} or example.is_absolute() or ".." in example.parts:
        raise UserError(f"--name {name}: it must contain {{name}} and {{source}} and stay in --out, such as {NAME}")


def residual_name(sources: Sequence[str]) -> str:
    """Return the name of the residual; another one, with a warning, if a source has it."""
    if RESIDUAL not in {source.lower() for source in sources}:
        return RESIDUAL
    warn(f"a source of the model is called {RESIDUAL}: the mixture minus all sources is written as {OTHER_RESIDUAL}")
    return OTHER_RESIDUAL


def make_plan(
    inputs: Sequence[Path],
    out: Path,
    sources: Sequence[str],
    *,
    extension: str,
    name: str = NAME,
    residual: bool = False,
) -> JobList:
    """Return the jobs for ``inputs`` (files, folders, ``-`` for stdin), with the paths of their results.

    Raises UserError if two inputs would be written to the same name, or a result over an input.
    """
    check_template(name)
    plan, owners = JobList(), dict[Path, Path]()
    parts = [*sources, *([residual_name(sources)] if residual else [])]
    # name the results of every file; `owners` has the file of each first result
    for argument in dict.fromkeys(inputs):
        for path, relative in _files_of(argument, out, plan):
            names = [name.format(name=relative.stem, source=part) + f".{extension}" for part in parts]
            results = [out / relative.parent / result for result in names]
            owner = owners.setdefault(results[0], path)
            if owner != path:
                raise UserError(
                    f"{owner} and {path} would both be written to {results[0]}: separate them into two --out"
                )
            plan.jobs.append(Job(path, results[: len(sources)], results[-1] if residual else None))
    # no result may overwrite an input, not even one that is reached by another path
    input_files = {job.path.resolve() for job in plan.jobs if job.path != STDIN}
    for job in plan.jobs:
        overwritten = next((result for result in job.results if result.resolve() in input_files), None)
        if overwritten:
            raise UserError(
                f"{overwritten} is an input that the result of {job.path} would overwrite: choose another --out"
            )
    return plan


def _files_of(argument: Path, out: Path, plan: JobList) -> list[tuple[Path, Path]]:
    """Return the files of an input, each with its path relative to ``out``; note a folder without any in ``plan``."""
    if argument == STDIN:
        return [(STDIN, Path("stdin"))]
    if not argument.is_dir():
        return [(argument, Path(argument.name))]
    # files that libsndfile cannot read are separated too if ffmpeg is there to decode them
    sounds, skipped = find_sounds(argument)
    for path, reason in skipped.items():
        if reason != HIDDEN and path.suffix.lower() in UNREAD and ffmpeg():
            sounds.append(path)
        elif reason != HIDDEN:
            warn(f"{path}: {reason}")
    # results of an earlier command are not inputs
    out_folder = out.resolve()
    files = [(path, path.relative_to(argument)) for path in sorted(sounds) if out_folder not in path.resolve().parents]
    if not files:
        inside_out = "all its sound files are in --out: choose another --out"
        plan.failed[argument] = inside_out if sounds else "a folder without sound files"
    return files
