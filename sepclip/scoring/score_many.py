"""Scoring many files on all cores: in the order of the input, within the memory, from where it was left."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from sepclip.errors import UserError, counted
from sepclip.parallel import cores
from sepclip.scoring.engines import TOO_LONG, memory_needed
from sepclip.scoring.items import Item, ScoreRow, ScoringPlan, Waves
from sepclip.scoring.journal import Journal
from sepclip.scoring.museval_adapter import require_museval
from sepclip.scoring.perceptual import PACKAGES, require
from sepclip.scoring.score_file import Frames, score_file
from sepclip.scoring.table import METRICS
from sepclip.terminal import say, track

Keep = Callable[[int, list[ScoreRow], Frames], None]  # what is done with a file's scores at once
_SHARE = 0.8  # of the free memory


def score(
    items: Sequence[Item],
    plan: ScoringPlan,
    *,
    jobs: int | None = None,
    journal: Journal | None = None,
    keep: Keep | None = None,
    memory: int | None = None,
) -> list[ScoreRow]:
    """Score all items in ``jobs`` processes (all cores by default, 0: in this one); rows in the order of the items.

    ``memory`` bytes are shared by the files that are scored at a time (by default 80 % of what is free). A file that
    museval cannot score within it is scored by the fast engine in blocks; one that even that cannot, is told.
    ``journal`` keeps what is finished, and what it holds is not scored again. ``keep`` is called for each file as it
    ends.
    """
    require_packages(plan)
    done = {
        index: [ScoreRow.from_flat(row) for row in rows] for index, rows in (journal.done if journal else {}).items()
    }
    if done:
        say(f"going on: {counted(len(done), 'file')} of {len(items)} scored already")
    todo = [index for index in range(len(items)) if index not in done]
    memory = memory or int(_SHARE * free_memory())

    def finish(index: int, rows: list[ScoreRow], frames: Frames) -> None:
        done[index] = rows
        if keep:
            keep(index, rows, frames)
        if journal:
            journal.add(index, [row.flat() for row in rows])

    scored = _in_processes(items, todo, plan, jobs, memory) if jobs != 0 else _here(items, todo, plan, memory)
    for index, rows, frames in track(scored, len(todo), "scoring"):
        finish(index, rows, frames)
    return [row for index in range(len(items)) for row in done[index]]


def require_packages(plan: ScoringPlan) -> None:
    """Raise UserError where a package for the metrics of ``plan`` is missing, before any work."""
    if any(METRICS[name].family in ("v4", "v3") for name in plan.metrics):
        require_museval()
    for name in plan.metrics:
        if name in PACKAGES:
            require(name)


def free_memory() -> int:
    """Return the bytes of memory that are free, or half of all where the system does not say."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _fitted(item: Item, plan: ScoringPlan, memory: int) -> tuple[ScoringPlan, int, str | None]:
    """Return the plan by which a file fits into ``memory``, the bytes that it takes, and the reason if it does not."""
    sources, channels = max(len(item.rows), 1), item.channels
    size = (-(-item.values // (sources * channels)), sources, channels)
    families = {METRICS[name].family for name in plan.metrics}
    filters = bool({"v4", "v3"} & families)
    needed = memory_needed(plan.engine if filters else "fast", *size, oracles=bool(plan.oracles))
    if needed <= memory:
        return plan, needed, None
    in_blocks = memory_needed("fast", *size, oracles=bool(plan.oracles))
    if in_blocks <= memory:
        return replace(plan, in_blocks=True), in_blocks, None
    gib = in_blocks / 2**30
    return plan, 0, f"too long for the memory: {gib:.2f} GiB are needed, {memory / 2**30:.2f} GiB given (--memory)"


def _score(item: Item, given: Waves | str | None, plan: ScoringPlan) -> tuple[list[ScoreRow], Frames]:
    """Score one file, in whatever process."""
    waves = item.waves() if given is None else given
    if plan.in_blocks and isinstance(waves, Waves):
        waves = replace(waves, notes=(*waves.notes, TOO_LONG))
    try:
        frames = score_file(item.rows, waves, plan)
    except MemoryError:
        for row in item.rows:
            row.scores = dict.fromkeys(row.scores)
            row.status, row.reason = "excluded", "too long for the memory"
        frames = {}
    return item.rows, frames


def _here(
    items: Sequence[Item], todo: Sequence[int], plan: ScoringPlan, memory: int
) -> Iterator[tuple[int, list[ScoreRow], Frames]]:
    for index in todo:
        fitted, _, refused = _fitted(items[index], plan, memory)
        waves = refused or items[index].waves()  # a network works with all threads, as it does beside processes
        with one_thread():
            scored = _score(items[index], waves, fitted)
        yield index, *scored


@contextmanager
def one_thread() -> Iterator[None]:
    """Let BLAS and torch compute on one thread, so that every process rounds alike, to the last bit."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def _in_processes(
    items: Sequence[Item], todo: Sequence[int], plan: ScoringPlan, jobs: int | None, memory: int
) -> Iterator[tuple[int, list[ScoreRow], Frames]]:
    """Yield the files as they end. What needs a network is made here meanwhile, and read there where it needs none."""
    jobs = min(jobs or cores(), max(len(todo), 1))
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start_worker)
    flying: dict[Future[tuple[list[ScoreRow], Frames]], tuple[int, int]] = {}  # place in the input, bytes

    def landed(most_files: int, most_bytes: int) -> Iterator[tuple[int, list[ScoreRow], Frames]]:
        while len(flying) > most_files or (flying and sum(size for _, size in flying.values()) > most_bytes):
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                yield flying.pop(future)[0], *future.result()

    try:
        for index in todo:
            item = items[index]
            fitted, size, given = _fitted(item, plan, memory)
            yield from landed(4 * jobs, memory - size)
            made: Waves | str | None = given
            if made is None and item.here:
                made = item.waves()
            # a file that is made here takes its waves along and not the network
            there = replace(item, load=_nothing) if made is not None else item
            flying[pool.submit(_score, there, made, fitted)] = (index, size)
        yield from landed(0, 0)
    except BrokenProcessPool as error:
        raise UserError(
            "a scoring process was killed, probably for want of memory: use fewer --jobs or less --memory; the same "
            "command goes on with the files that are left"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _nothing() -> Waves | str:
    raise AssertionError("the waves were given")


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threadpool_limits(1)  # a process a core with a thread each; more are several times slower
    os.environ["OMP_NUM_THREADS"] = "1"  # for torch, which is imported when it is needed,
    if "torch" in sys.modules:  # unless the program that this was started from did so
        sys.modules["torch"].set_num_threads(1)


def _end_with_parent() -> None:
    parent: Any = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
