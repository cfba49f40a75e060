"""Scoring many files on all cores, within the memory that is free.

:func:`score_files` yields each file as it ends; ``evaluation/evaluate_items.py`` keeps the rows in a journal. Each file
is scored by ``score_file.py``, in one of several processes. A file that needs a network is separated in the main
process meanwhile, and only its waves are sent to the process that scores it.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from sepclip.errors import UserError, is_out_of_memory
from sepclip.parallel import cores
from sepclip.scoring.engines import TOO_LONG, memory_needed
from sepclip.scoring.items import Item, ScoreRow, ScoringPlan, Waves
from sepclip.scoring.museval_adapter import require_museval
from sepclip.scoring.perceptual import PACKAGES, require_package
from sepclip.scoring.score_file import WindowScores, score_file
from sepclip.scoring.table import METRICS

ScoredFile = tuple[int, list[ScoreRow], WindowScores]  # the index of its item, its rows, v4 scores per window
_MEMORY_SHARE = 0.8  # of the free memory, for scoring
_QUEUED_PER_JOB = 4  # files handed to the processes at a time: enough to keep them busy


def score_files(
    items: Sequence[Item],
    plan: ScoringPlan,
    *,
    jobs: int | None = None,
    memory: int | None = None,
    skip: Collection[int] = (),
) -> Iterator[ScoredFile]:
    """Score all items except those whose index is in ``skip``, and yield each one as it ends.

    ``jobs`` processes score (all cores by default; 0: this process). ``memory`` bytes are shared by the files that are
    scored at a time (by default 80 % of what is free). A file that museval cannot score within ``memory`` is scored by
    the fast engine in blocks; if it is too long even for that, it is excluded, with the reason in its rows. Scores do
    not depend on ``jobs``, to the last bit.
    """
    indices = [index for index in range(len(items)) if index not in skip]
    memory = memory or int(_MEMORY_SHARE * free_memory())
    if jobs == 0:
        yield from _score_in_this_process(items, indices, plan, memory)
    else:
        yield from _score_in_processes(items, indices, plan, jobs, memory)


def score(
    items: Sequence[Item], plan: ScoringPlan, *, jobs: int | None = None, memory: int | None = None
) -> list[ScoreRow]:
    """Return the rows of all items in their order; see :func:`score_files`.

    Raises UserError if a package that ``plan`` needs is missing.
    """
    require_packages(plan)
    by_index = {index: rows for index, rows, _ in score_files(items, plan, jobs=jobs, memory=memory)}
    return [row for index in range(len(items)) for row in by_index[index]]


def require_packages(plan: ScoringPlan) -> None:
    """Raise UserError if a package for the metrics of ``plan`` is missing, before any work is done."""
    if any(METRICS[name].family in ("v4", "v3") for name in plan.metrics):
        require_museval()
    for name in plan.metrics:
        if name in PACKAGES:
            require_package(name)


def free_memory() -> int:
    """Return the bytes of free memory, or half of all memory if the system does not say how much is free."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _plan_within_memory(item: Item, plan: ScoringPlan, memory: int) -> tuple[ScoringPlan, int, str | None]:
    """Return the plan with which a file fits into ``memory``, the bytes that it takes, and the reason if none does."""
    sources, channels = max(len(item.rows), 1), item.channels
    size = (-(-item.total_samples // (sources * channels)), sources, channels)
    families = {METRICS[name].family for name in plan.metrics}
    has_filters = bool({"v4", "v3"} & families)
    # as planned
    needed = memory_needed(plan.engine if has_filters else "fast", *size, oracles=bool(plan.oracles))
    if needed <= memory:
        return plan, needed, None
    # by the fast engine
    in_blocks = memory_needed("fast", *size, oracles=bool(plan.oracles))
    if in_blocks <= memory:
        return replace(plan, in_blocks=True), in_blocks, None
    # not at all
    gib = in_blocks / 2**30
    return plan, 0, f"too long for the memory: {gib:.2f} GiB are needed, {memory / 2**30:.2f} GiB given (--memory)"


def _score_item(item: Item, waves: Waves | str | None, plan: ScoringPlan) -> tuple[list[ScoreRow], WindowScores]:
    """Score one file, in any process; without ``waves`` the item loads them here."""
    if waves is None:
        waves = item.waves()
    if plan.in_blocks and isinstance(waves, Waves):
        waves = replace(waves, notes=(*waves.notes, TOO_LONG))
    try:
        windows = score_file(item.rows, waves, plan)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        # the estimate was wrong, or another program took the memory
        for row in item.rows:
            row.scores = dict.fromkeys(row.scores)
            row.status, row.reason = "excluded", "too long for the memory"
        windows = {}
    return item.rows, windows


def _score_in_this_process(
    items: Sequence[Item], indices: Sequence[int], plan: ScoringPlan, memory: int
) -> Iterator[ScoredFile]:
    """Score the files one by one."""
    for index in indices:
        item_plan, _, reason = _plan_within_memory(items[index], plan, memory)
        # a network uses all threads and scoring uses one, as with several processes, so that rounding is the same
        waves = reason or items[index].waves()
        with one_thread():
            scored = _score_item(items[index], waves, item_plan)
        yield index, *scored


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit BLAS and torch to one thread, so that every process rounds alike, to the last bit."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def _score_in_processes(
    items: Sequence[Item], indices: Sequence[int], plan: ScoringPlan, jobs: int | None, memory: int
) -> Iterator[ScoredFile]:
    """Score the files in a pool of processes, and yield them as they end."""
    jobs = min(jobs or cores(), max(len(indices), 1))
    # spawned and not forked: torch's threads, which a network in this process may have started, do not survive a fork
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start_worker)
    running: dict[Future[tuple[list[ScoreRow], WindowScores]], tuple[int, int]] = {}  # index of the item, bytes

    def wait_until(most_files: int, most_bytes: int) -> Iterator[ScoredFile]:
        """Yield files as they end, until so few are running."""
        while len(running) > most_files or (running and sum(size for _, size in running.values()) > most_bytes):
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future)[0], *future.result()

    try:
        for index in indices:
            item = items[index]
            item_plan, size, reason = _plan_within_memory(item, plan, memory)
            # wait until the file fits beside those that are running
            yield from wait_until(_QUEUED_PER_JOB * jobs, memory - size)
            # separate it here if that needs a network; the waves are sent along, the network is not
            waves: Waves | str | None = reason
            if waves is None and item.load_in_parent:
                waves = item.waves()
            sent = replace(item, load=_already_loaded) if waves is not None else item
            running[pool.submit(_score_item, sent, waves, item_plan)] = (index, size)
        yield from wait_until(0, 0)
    except BrokenProcessPool as error:
        raise UserError(
            "a scoring process was killed, possibly out of memory: use fewer --jobs or less --memory; run the same "
            "command again to score the files that are left"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _already_loaded() -> Waves | str:
    raise AssertionError("the waves were sent with the item")


def _start_worker() -> None:
    """Prepare a scoring process: signals, its end with the parent's, and one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # one thread per process, with a process per core; more threads are several times slower
    threadpool_limits(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for torch, which is imported when it is needed,
    if "torch" in sys.modules:  # unless the program that started this process has imported it already
        sys.modules["torch"].set_num_threads(1)


def _end_with_parent() -> None:
    parent: Any = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
