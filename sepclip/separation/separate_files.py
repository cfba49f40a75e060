"""Separating sound files of any format, rate, length and channel count; results keep rate, length and level.

Files are taken in batches by a few threads. Each file is opened as a recording, separated as a stream of waves
(stream.py), stored in a spool until its peak is known, and written (output.py).
"""

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
from sepclip.errors import UserError, counted, is_out_of_memory
from sepclip.model.inference import BlockSeparator
from sepclip.parallel import cores
from sepclip.separation.jobs import NAME, STDIN, Job, make_plan
from sepclip.separation.origins import Origins
from sepclip.separation.output import Format, Overload, choose_encoding, write_results
from sepclip.separation.recording import FileRecording
from sepclip.separation.spool import Spool
from sepclip.separation.stream import MOST_TOGETHER, SeparatedStream, batch_seconds, encode_together
from sepclip.terminal import AudioProgress, warn

MOST_JOBS = 4  # threads by default; each needs some hundred MB
_SHOWN_JOINS = 3
T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """How results are written; see ``sepclip separate --help``. ``jobs``: number of threads, None for the default."""

    format: Format = "wav"
    subtype: str | None = None
    overload: Overload | None = None
    residual: bool = False
    name: str = NAME
    overwrite: bool = False
    jobs: int | None = None


@dataclass
class Separation:
    """The outcome for every file: results written, existing results kept, or a reason why it failed."""

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
    weights_time: float = 0.0,
    provenance: Mapping[str, object] | None = None,
    options: Options = Options(),
) -> Separation:
    """Separate files, and the sound files of folders, into ``out`` as ``NAME_s1.wav``, ``NAME_s2.wav``, ...

    Named sources have their names instead: ``NAME_vocals.wav``. ``-`` is a file on stdin. Folders keep their tree.
    If all results of a file exist and are newer than both the file and ``weights_time`` (when the weights were saved),
    they are kept. Older results are only replaced with ``options.overwrite``, and so are results of another file or
    with another ``provenance`` (the run and its options; None: neither checked nor recorded). A file that cannot be
    used is reported, and the rest are separated. Raises UserError if two inputs would be written to the same name, or a
    result over an input.
    """
    # check the options before any file is opened
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: choose a folder")
    encoding = choose_encoding("PCM_16", options.format, options.subtype, options.overload)
    if options.residual and encoding.format == "ogg":
        raise UserError("--residual: ogg is lossy, so that no parts add up to the mixture: choose --format wav or flac")
    # list the files that have no current results yet
    plan = make_plan(
        inputs, out, separator.layout.names, extension=options.format, name=options.name, residual=options.residual
    )
    result = Separation(failed=plan.failed)
    origins = None
    if provenance is not None:
        origins = Origins(out, {**provenance, "subtype": options.subtype, "overload": options.overload})
    jobs = [job for job in plan.jobs if _is_due(job, weights_time, options.overwrite, origins, result)]
    # separate them; jobs end in any order
    workers = _Workers(separator, out, device, options)
    with AudioProgress("separating", len(jobs)) as progress:
        for job, outcome in workers.run(jobs, progress):
            if isinstance(outcome, str):
                result.failed[job.path] = outcome
            else:
                if origins:
                    origins.add(job)
                result.written[job.path] = job.results
                result.seconds += outcome
        result.speed = progress.speed
    # list the results in the order of the inputs
    result.written = {job.path: job.results for job in jobs if job.path in result.written}
    return result


def _is_due(job: Job, weights_time: float, overwrite: bool, origins: Origins | None, result: Separation) -> bool:
    """Return whether a job is to be run; if not, add it to the kept or failed files of ``result``."""
    # stdin has no age, so existing results of it are never known to be current
    if overwrite or job.path == STDIN:
        existing = [target for target in job.results if target.exists()]
        if existing and not overwrite:
            result.failed[job.path] = f"{existing[0]} already exists: --overwrite replaces it"
        return overwrite or not existing
    state = job.state(weights_time)
    difference = origins.difference(job) if origins and state != "new" else None
    if difference:
        result.failed[job.path] = (
            f"{job.targets[0]} exists, but was {difference}: --overwrite replaces it, another --out keeps both"
        )
        return False
    if state == "done":
        result.kept[job.path] = job.results
    elif state == "old":
        result.failed[job.path] = (
            f"{job.targets[0]} exists, but is older than the file or the weights of the run: --overwrite replaces it"
        )
    return state == "new"


@dataclass(frozen=True)
class _OpenFile:
    """A file that is being separated."""

    job: Job
    recording: FileRecording
    stream: SeparatedStream


@dataclass
class _Workers:
    """Threads that separate files. Each takes several short files at a time, for common batches of the network."""

    separator: BlockSeparator
    out: Path
    device: torch.device
    options: Options
    pending: queue.SimpleQueue[Job] = field(default_factory=queue.SimpleQueue)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, jobs: list[Job], progress: AudioProgress) -> Iterator[tuple[Job, float | str]]:
        """Yield every job as it ends, with the seconds of sound separated, or the reason why it failed."""
        # share the cores among the threads, and the files among the batches
        workers = min(self.options.jobs or min(cores(), MOST_JOBS), max(len(jobs), 1))
        torch_threads = max(1, torch.get_num_threads() // workers)
        batch_files = min(MOST_TOGETHER, -(-len(jobs) // workers))
        for job in jobs:
            self.pending.put(job)
        # a single worker is this thread: a second thread would start a second team of torch threads, more than there
        # are cores, while the first team sleeps
        if workers == 1:
            for _ in jobs:
                yield from self._separate_batch(batch_files, progress)
            return
        # as many calls as jobs, since a batch may contain a single file; surplus calls find no pending job
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(torch_threads,)) as pool:
            futures = [pool.submit(self._separate_batch, batch_files, progress) for _ in jobs]
            try:
                for future in as_completed(futures):
                    yield from future.result()
            finally:  # after an interrupt or a bug, the threads stop at their next block
                self.stop.set()
                pool.shutdown(cancel_futures=True)

    def _separate_batch(self, most: int, progress: AudioProgress) -> list[tuple[Job, float | str]]:
        """Separate up to ``most`` pending files, fewer if they fill a batch of the network; return their outcomes."""
        outcomes: list[tuple[Job, float | str]] = []
        files: list[_OpenFile] = []
        full = batch_seconds(self.separator, self.device)
        with ExitStack() as stack:
            # open files until they fill a batch
            while len(files) < most and sum(file.stream.seconds for file in files) < full:
                try:
                    job = self.pending.get_nowait()
                except queue.Empty:
                    break
                file = self._try(partial(self._open, job, stack))
                if isinstance(file, str):
                    outcomes.append((job, file))
                    progress.file_done()
                else:
                    files.append(file)
            # run the network on all short files; if memory is too small for that, each file runs it on its own
            short = [file.stream for file in files if file.stream.is_short]
            self._try(partial(encode_together, short))
            # finish and write file by file
            for file in files:
                outcome = self._try(partial(self._separate, file, progress))
                outcomes.append((file.job, outcome))
                file.stream.discard_encoded()
                progress.file_done()
        return outcomes

    def _try(self, work: Callable[[], T]) -> T | str:
        """Return the result of ``work`` on a file, or the reason why it failed."""
        try:
            return work()
        except BadSound as error:
            return error.reason
        except UserError as error:
            return str(error)
        except OSError as error:
            return f"{error.filename or self.out} cannot be written: {error.strerror or error}"
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return f"too much for the memory of {self.device}: try a smaller --jobs, or --device cpu"

    def _open(self, job: Job, stack: ExitStack) -> _OpenFile:
        """Open the file of a job and measure it; ``stack`` removes temporary files."""
        if self.stop.is_set():
            raise UserError("interrupted")
        self.out.mkdir(parents=True, exist_ok=True)
        recording = stack.enter_context(open_recording(job.path, self.out))
        return _OpenFile(job, recording, SeparatedStream(self.separator, recording, self.device))

    def _separate(self, file: _OpenFile, progress: AudioProgress) -> float:
        """Separate a file, write its results and return its seconds."""
        separator, options = self.separator, self.options
        job, recording, stream = file.job, file.recording, file.stream
        encoding = choose_encoding(recording.header.subtype, options.format, options.subtype, options.overload)
        progress.expect(stream.seconds)
        spool = Spool(self.out, separator.sources, recording.channels)
        try:
            # from the file to blocks to waves
            for waves in stream.chunks():
                if self.stop.is_set():
                    raise UserError("interrupted")
                spool.add(waves)
                progress.advance(waves.shape[-1] / recording.rate_hz)
            # from waves to files, now that their scale and peak are known
            if stream.factors is not None:
                spool.factors = stream.factors
            messages = write_results(spool, recording, job.targets, encoding, job.residual)
        finally:
            spool.close()
        # warn about changed levels and uncertain joins
        for message in messages:
            warn(f"{job.path}: {message}")
        if stream.undecided_join_times:
            warn(f"{job.path}: {_describe_undecided(stream)}")
        return stream.seconds


def _describe_undecided(stream: SeparatedStream) -> str:
    """Describe the joins at which the sources may have changed places."""
    joins = stream.undecided_join_times
    times = ", ".join(f"{int(second) // 60}:{int(second) % 60:02d}" for second in joins[:_SHOWN_JOINS])
    more = f" and {len(joins) - _SHOWN_JOINS} more" if len(joins) > _SHOWN_JOINS else ""
    return (
        f"at {len(joins)} of {counted(stream.joins, 'join')} of blocks it is uncertain which source is which, "
        f"so that they may change places there: {times}{more}"
    )


@contextmanager
def open_recording(path: Path, folder: Path) -> Iterator[FileRecording]:
    """Open a sound file of any kind, or stdin for ``-``; temporary copies are in ``folder`` until it is closed.

    Raises BadSound if neither libsndfile nor ffmpeg can read the file.
    """
    with ExitStack() as stack:
        # copy stdin to a file, since recordings are read more than once
        is_stdin = path == STDIN
        if is_stdin:
            copy = _temporary_folder(stack, folder) / "stdin"
            with copy.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            if not copy.stat().st_size:
                raise BadSound(path, "stdin is empty")
            path = copy
        # open the file with libsndfile, or decode it with ffmpeg first
        try:
            recording = FileRecording(path, read_header(path), whole=not is_stdin)
        except BadSound as libsndfile_error:
            if not path.is_file() or not os.access(path, os.R_OK):
                raise
            decoded = _temporary_folder(stack, folder) / "decoded.wav"
            try:
                decode(path, decoded)
            except BadSound as error:
                raise (error if path.suffix.lower() in UNREAD else libsndfile_error) from error
            # a compressed file has no sample format that its results could keep: they get the default
            recording = FileRecording(decoded, replace(read_header(decoded), subtype="PCM_16"))
        yield recording


def _temporary_folder(stack: ExitStack, folder: Path) -> Path:
    """Create a folder in ``folder`` that ``stack`` removes."""
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".sepclip-", dir=folder)))
