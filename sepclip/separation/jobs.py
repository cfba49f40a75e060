"""The files to separate, and where their results are written."""

import math
import os
import string
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, islice
from pathlib import Path, PurePosixPath

from sepclip.audio.decoding import ffmpeg
from sepclip.audio.files import HIDDEN, UNREAD, find_sounds
from sepclip.errors import UserError
from sepclip.terminal import warn

STDIN = Path("-")
NAME = "{name}_{source}"  # name of a result, without its extension
RESIDUAL, OTHER_RESIDUAL = "residual", "mixture_minus_sources"
_SHOWN_NAMES = 5
_LONGEST_NAME = 255  # bytes, on all usual file systems


def is_stream(path: Path) -> bool:
    """Return whether a path is stdin or a pipe, which can be read only once and has no date."""
    return path == STDIN or path.is_fifo()


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

    def state(self, weights_time: float, *, same_version: bool = False) -> str:
        """Return ``old`` if a result is older than the file or the weights, else ``done`` or ``new``.

        ``done``: all results exist. If only some exist, they are left from an interruption, and the job is ``new``.
        ``same_version``: the results are known to be made from this version of the file, whatever its date.
        """
        existing = [result for result in self.results if result.is_file()]
        file_time = 0.0 if same_version else self.path.stat().st_mtime if self.path.exists() else math.inf
        # a date in the future is wrong and says nothing
        newest = max((date for date in (file_time, weights_time) if date <= time.time() or date == math.inf), default=0)
        if any(result.stat().st_mtime < newest for result in existing):
            return "old"
        return "done" if len(existing) == len(self.results) else "new"


@dataclass
class JobList:
    """The files to separate, and the inputs that cannot be separated, with the reason.

    ``renamed``: the files whose results got other names, because they would have been those of another file.
    """

    jobs: list[Job] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    renamed: dict[Path, Path] = field(default_factory=dict)


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

    Files whose results would have the same names get distinct ones. An input that cannot be used, and a file whose
    result would overwrite an input or have too long a name, are in ``failed``.
    """
    check_template(name)
    plan = JobList()
    # list the files, each with its path below `out` and without its extension
    files: dict[Path, list[Path]] = {}
    for argument in dict.fromkeys(inputs):
        try:
            for path, relative in _files_of(argument, out, plan):
                files.setdefault(relative.with_name(relative.stem), []).append(path)
        except OSError as error:  # such as a name that is too long
            plan.failed[argument] = f"cannot be read: {error.strerror or error}"
        except UserError as error:
            plan.failed[argument] = str(error)
    named, plan.renamed = distinct_names(files)
    # name the results of every file
    remainder = residual_name(sources)
    parts = [*sources, *([remainder] if residual else [])]
    input_files = {os.path.realpath(path) for path in named.values() if path != STDIN}
    owners: dict[Path, Path] = {}
    order = {path: index for index, path in enumerate(path for paths in files.values() for path in paths)}
    for relative, path in sorted(named.items(), key=lambda item: order[item[1]]):
        names = [name.format(name=relative.name, source=part) + f".{extension}" for part in parts]
        results = [out / relative.parent / result for result in names]
        problem = _naming_problem(results, input_files, owners)
        if problem:
            plan.failed[path] = problem
            continue
        owners.update(dict.fromkeys(results, path))
        plan.jobs.append(Job(path, results[: len(sources)], results[-1] if residual else None))
    return plan


def residual_name(sources: Sequence[str]) -> str:
    """Return the name of the mixture minus the sources, which must not be the name of a source."""
    taken = {source.casefold() for source in sources}
    candidates = chain((RESIDUAL, OTHER_RESIDUAL), (f"{OTHER_RESIDUAL}-{number}" for number in count(2)))
    return next(name for name in candidates if name not in taken)


def distinct_names(files: Mapping[Path, Sequence[Path]]) -> tuple[dict[Path, Path], dict[Path, Path]]:
    """Return the file of each name, with a distinct name for each file, and the new names of the files renamed.

    ``files``: the files of each name, which is a path below the folder of the results, without an extension. If
    several files have a name, each gets its extension, or the folders in which they differ, or both.
    """
    named: dict[Path, Path] = {}
    renamed: dict[Path, Path] = {}
    clashes: dict[Path, list[Path]] = {}
    for name, paths in files.items():
        by_place: dict[str, Path] = {}  # one file may be reached by several paths
        for path in paths:
            by_place.setdefault(os.path.realpath(path), path)
        if len(by_place) == 1:
            named[name] = paths[0]
        else:
            clashes[name] = list(by_place.values())
    for name, paths in clashes.items():
        top = Path(os.path.commonpath([path.absolute().parent for path in paths]))
        folders = [path.absolute().parent.relative_to(top) for path in paths]
        with_extension = [name.with_name(f"{name.name}{path.suffix}") for path in paths]
        candidates = [
            with_extension,
            [name.parent / folder / name.name for folder in folders],
            [new.parent / folder / new.name for new, folder in zip(with_extension, folders, strict=True)],
        ]
        free = (names for names in candidates if len({*names}) == len(names) and not {*names} & ({*named} | {*clashes}))
        # a number as a last resort, such as for a.wav, a.flac and a.wav.wav
        numbered = (name.with_name(f"{name.name}-{number}") for number in count(2))
        chosen = next(free, None) or list(islice((new for new in numbered if new not in named), len(paths)))
        named.update(zip(chosen, paths, strict=True))
        renamed.update(zip(paths, chosen, strict=True))
    return named, renamed


def unusual_names(plan: JobList, sources: Sequence[str], residual: bool) -> list[str]:
    """Return sentences for the user about results that do not have the usual names."""
    messages = []
    if plan.renamed:
        names = [f"{path} as {name}" for path, name in plan.renamed.items()]
        more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
        shown = ", ".join(names[:_SHOWN_NAMES])
        messages.append(f"results that would have the same name are written with distinct names: {shown}{more}")
    if residual and residual_name(sources) != RESIDUAL:
        messages.append(f"a source is called {RESIDUAL}: the mixture minus the sources is {residual_name(sources)}")
    return messages


def _naming_problem(results: Sequence[Path], inputs: Collection[str], owners: Mapping[Path, Path]) -> str | None:
    """Return why results cannot have their names, if so; ``owners`` has the files of the results before."""
    for result in results:
        longest = max(result.parts, key=lambda part: len(os.fsencode(part)))
        size = len(os.fsencode(longest))
        if size > _LONGEST_NAME:
            return f"the name of its result has {size} bytes, and a name may have {_LONGEST_NAME}: shorten the file's"
        if result in owners:
            return f"its result {result} is also one of {owners[result]}: separate them into two --out"
        # not even an input that is reached by another path
        if os.path.realpath(result) in inputs:
            return f"its result {result} is an input too, and would overwrite it: choose another --out"
    return None


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
    # realpath, because Path.resolve raises RuntimeError for a loop of links
    out_folder = Path(os.path.realpath(out))
    files = []
    for path in sorted(sounds):
        if path.is_fifo():
            plan.failed[path] = "is a named pipe: to read it, give its path instead of the folder's"
        elif out_folder not in Path(os.path.realpath(path)).parents:
            files.append((path, path.relative_to(argument)))
    if not files:
        inside_out = "all its sound files are in --out: choose another --out"
        plan.failed[argument] = inside_out if sounds else "a folder without sound files"
    return files
