"""Separating sound files: any format, rate, length and channel count in, the same rate, length and level out."""

import os
import queue
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from sepclip.audio.decoding import decode
from sepclip.audio.files import UNREAD, BadSound, read_header
from sepclip.errors import UserError, counted
from sepclip.model.inference import BlockSeparator
from sepclip.parallel import cores
from sepclip.separation.jobs import NAME, STDIN, Job, make_plan
from sepclip.separation.origins import Origins
from sepclip.separation.output import Format, Overload, choose_encoding, write_results
from sepclip.separation.recording import FileRecording
from sepclip.separation.spool import Spool
from sepclip.separation.stream import MOST_TOGETHER, SeparatedStream, batch_seconds, see_together
from sepclip.terminal import AudioProgress, warn

MOST_JOBS = 4  # files at once by default; each takes some hundred MB
_SHOWN_JOINS = 3
T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """How results are written; see ``sepclip separate --help``. ``jobs``: files at once, None for what suits."""

    format: Format = "wav"
    subtype: str | None = None
    overload: Overload | None = None
    residual: bool = False
    name: str = NAME
    overwrite: bool = False
    jobs: int | None = None


@dataclass
class Separation:
    """What became of every file: written, already there, or failed with a reason."""

    written: dict[Path, list[Path]] = field(default_factory=dict)
    kept: dict[Path, list[Path]] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)
    seconds: float = 0.0  # of sound separated
    speed: float = 0.0  # how many times as fast as it plays


def separate_files(
    separator: BlockSeparator,
    inputs: Sequence[Path],
    out: Path,
    *,
    device: torch.device,
    made_after: float = 0.0,
    how: Mapping[str, object] | None = None,
    options: Options = Options(),
) -> Separation:
    """Separate files, and the sound files of folders, into ``out`` as ``NAME_s1.wav``, ``NAME_s2.wav``, ...

    Sources with names have these instead: ``NAME_vocals.wav``. ``-`` is a file on stdin. Folders keep their tree.
    Files whose results are all there, and newer than both the file and ``made_after`` (when the weights were saved),
    are left as they are; older results are replaced with ``options.overwrite`` alone, and so are those of another file
    or made otherwise than ``how`` says (the run and its options; None: it is not looked at or recorded). A file that
    cannot be used is reported, and the others go on. Raises UserError where two inputs would be written to the same
    name, or a result over an input.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: choose a folder")
    encoding = choose_encoding("PCM_16", options.format, options.subtype, options.overload)
    if options.residual and encoding.format == "ogg":
        raise UserError("--residual: ogg is lossy, so that no parts add up to the mixture: choose --format wav or flac")
    plan = make_plan(
        inputs, out, separator.layout.names, extension=options.format, name=options.name, residual=options.residual
    )
    result = Separation(failed=plan.failed)
    origins = None
    if how is not None:
        origins = Origins(out, {**how, "subtype": options.subtype, "overload": options.overload})
    todo = [job for job in plan.jobs if _is_due(job, made_after, options.overwrite, origins, result)]
    work = _Work(separator, out, device, options)
    with AudioProgress("separating", len(todo)) as progress:
        for job, outcome in work.all(todo, progress):
            if isinstance(outcome, str):
                result.failed[job.path] = outcome
            else:
                if origins:
                    origins.note(job)
                result.written[job.path] = job.results
                result.seconds += outcome
        result.speed = progress.speed
    result.written = {job.path: job.results for job in todo if job.path in result.written}  # in the order given
    return result


def _is_due(job: Job, made_after: float, overwrite: bool, origins: Origins | None, result: Separation) -> bool:
    if overwrite or job.path == STDIN:
        there = [target for target in job.results if target.exists()]
        if there and not overwrite:
            result.failed[job.path] = f"{there[0]} is there already: --overwrite replaces it"
        return overwrite or not there
    state = job.state(made_after)
    other = origins.other(job) if origins and state != "new" else None
    if other:
        result.failed[job.path] = (
            f"{job.targets[0]} is there, but {other}: --overwrite makes it anew, another --out keeps both"
        )
        return False
    if state == "done":
        result.kept[job.path] = job.results
    elif state == "old":
        result.failed[job.path] = (
            f"{job.targets[0]} is there, but of another version of the file or of the run: --overwrite makes it anew"
        )
    return state == "new"


@dataclass
class _Work:
    """Separates files: several at once, and the network sees short ones in common batches."""

    separator: BlockSeparator
    out: Path
    device: torch.device
    options: Options
    waiting: queue.SimpleQueue[Job] = field(default_factory=queue.SimpleQueue)
    stopped: threading.Event = field(default_factory=threading.Event)

    def all(self, jobs: list[Job], progress: AudioProgress) -> Iterator[tuple[Job, float | str]]:
        """Yield every job as it ends, with the seconds of sound separated, or why there are none."""
        at_once = min(self.options.jobs or min(cores(), MOST_JOBS), max(len(jobs), 1))
        threads = max(1, torch.get_num_threads() // at_once)
        together = min(MOST_TOGETHER, -(-len(jobs) // at_once))
        for job in jobs:
            self.waiting.put(job)
        if at_once == 1:
            # in this thread: torch's threads of a second one would be more than there are cores, and then wait asleep
            for _ in jobs:
                yield from self.turn(together, progress)
            return
        with ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
            turns = [pool.submit(self.turn, together, progress) for _ in jobs]
            try:
                for turn in as_completed(turns):
                    yield from turn.result()
            finally:  # an interrupt, or a bug: the others end at their next block
                self.stopped.set()
                pool.shutdown(cancel_futures=True)

    def turn(self, together: int, progress: AudioProgress) -> list[tuple[Job, float | str]]:
        """Separate the next files, as many as make a batch; none where others have taken them all."""
        done: list[tuple[Job, float | str]] = []
        opened: list[_Opened] = []
        most = batch_seconds(self.separator, self.device)
        with ExitStack() as stack:
            while len(opened) < together and sum(one.stream.seconds for one in opened) < most:
                try:
                    job = self.waiting.get_nowait()
                except queue.Empty:
                    break
                found = self._guarded(partial(self._open, job, stack))
                if isinstance(found, str):
                    done.append((job, found))
                    progress.file_done()
                else:
                    opened.append(found)
            short = [one.stream for one in opened if one.stream.short]
            self._guarded(partial(see_together, short))  # where memory lacks, each will see its own
            for one in opened:
                outcome = self._guarded(partial(self._separate, one, progress))
                done.append((one.job, outcome))
                one.stream.forget()
                progress.file_done()
        return done

    def _guarded(self, work: Callable[[], T]) -> T | str:
        """Return what ``work`` on a file gives, or why it cannot be done."""
        try:
            return work()
        except BadSound as error:
            return error.reason
        except UserError as error:
            return str(error)
        except OSError as error:
            return f"{error.filename or self.out} cannot be written: {error.strerror or error}"
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):  # torch's own are no MemoryError
                raise
            return f"too much for the memory of {self.device}: try a smaller --jobs, or --device cpu"

    def _open(self, job: Job, stack: ExitStack) -> "_Opened":
        if self.stopped.is_set():
            raise UserError("interrupted")
        self.out.mkdir(parents=True, exist_ok=True)
        recording = stack.enter_context(open_recording(job.path, self.out))
        return _Opened(job, recording, SeparatedStream(self.separator, recording, self.device))

    def _separate(self, opened: "_Opened", progress: AudioProgress) -> float:
        separator, options = self.separator, self.options
        job, recording, stream = opened.job, opened.recording, opened.stream
        encoding = choose_encoding(recording.header.subtype, options.format, options.subtype, options.overload)
        progress.expect(stream.seconds)
        spool = Spool(self.out, separator.sources, recording.channels)
        try:
            for waves in stream.chunks():
                if self.stopped.is_set():
                    raise UserError("interrupted")
                spool.add(waves)
                progress.advance(waves.shape[-1] / recording.rate_hz)
            if stream.factors is not None:
                spool.factors = stream.factors
            told = write_results(spool, recording, job.targets, encoding, job.residual)
        finally:
            spool.close()
        for sentence in told:
            warn(f"{job.path}: {sentence}")
        if stream.undecided_seconds:
            warn(f"{job.path}: {_told_joins(stream)}")
        return stream.seconds


@dataclass(frozen=True)
class _Opened:
    job: Job
    recording: FileRecording
    stream: SeparatedStream


def _told_joins(stream: SeparatedStream) -> str:
    places = stream.undecided_seconds
    shown = ", ".join(f"{int(second) // 60}:{int(second) % 60:02d}" for second in places[:_SHOWN_JOINS])
    more = f" and {len(places) - _SHOWN_JOINS} more" if len(places) > _SHOWN_JOINS else ""
    return (
        f"at {len(places)} of {counted(stream.joins, 'join')} of blocks it could not be told which source is which, "
        f"so that they may change places there: {shown}{more}"
    )


@contextmanager
def open_recording(path: Path, folder: Path) -> Iterator[FileRecording]:
    """Open a sound file of any kind, or stdin for ``-``; what must be decoded or kept for that lies in ``folder``.

    Raises BadSound for what neither libsndfile nor ffmpeg reads.
    """
    with ExitStack() as stack:
        streamed = path == STDIN
        if streamed:
            kept = _aside(stack, folder) / "stdin"
            with kept.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            if not kept.stat().st_size:
                raise BadSound(path, "nothing came on stdin")
            path = kept
        try:
            recording = FileRecording(path, read_header(path), whole=not streamed)
        except BadSound as told:
            if not path.is_file() or not os.access(path, os.R_OK):
                raise
            decoded = _aside(stack, folder) / "decoded.wav"
            try:
                decode(path, decoded)
            except BadSound as error:
                raise (error if path.suffix.lower() in UNREAD else told) from error
            # it was stored compressed: its float samples say nothing of how
            recording = FileRecording(decoded, replace(read_header(decoded), subtype="PCM_16"))
        yield recording


def _aside(stack: ExitStack, folder: Path) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".sepclip-", dir=folder)))
