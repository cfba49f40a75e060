"""The processes of a sweep: runs cells in parallel, each in its own process, until the last one ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import sepclip
from sepclip.errors import Stopped, UserError, counted
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.parallel import cores
from sepclip.sweep.grid import Cell
from sepclip.sweep.worker import CellJob
from sepclip.terminal import notes, say
from sepclip.training.run import METRICS
from sepclip.training.signals import SignalRequests

MOST_JOBS = 4  # by default on a CPU: each has a network, its gradients and audio in memory
_POLL_SECONDS = 0.1
_ROOT = str(Path(sepclip.__file__).resolve().parent.parent)
_MOST_CHARACTERS = 300  # of a reason; the log has the rest
_PATIENCE_SECONDS = 300.0  # for a terminated cell to finish its step and save


@dataclass(frozen=True)
class CellTask:
    """A cell to train, the folder of its run, the log of its process, its label and the expected number of steps."""

    cell: Cell
    run: Path
    log: Path
    label: str
    steps: int


@dataclass(frozen=True)
class Slots:
    """The cells that can run in parallel: one device per slot, and the CPU threads of each slot."""

    devices: tuple[str, ...]
    threads: int


def allocate_slots(
    device: torch.device, *, jobs: int | None, jobs_per_gpu: int | None, every_gpu: bool, most: int
) -> Slots:
    """Divide the machine: ``jobs`` slots on the CPU, or ``jobs_per_gpu`` on each visible GPU or on ``device`` only.

    There are at most ``most`` slots. Cores are divided evenly; OMP_NUM_THREADS, if set, is the number per cell.
    Raises UserError for an option that does not apply to the device.
    """
    if device.type == "cpu":
        if jobs_per_gpu is not None:
            raise UserError(f"--jobs-per-gpu {jobs_per_gpu}: the cells run on the CPU here; use --jobs")
        devices = ["cpu"] * (jobs or min(cores(), MOST_JOBS))
    else:
        if jobs is not None:
            raise UserError(f"--jobs {jobs}: the cells run on {device} here; use --jobs-per-gpu or --device cpu")
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if every_gpu else [str(device)]
        devices = gpus * (jobs_per_gpu or 1)  # ordered so that each GPU gets a first cell before any gets a second
    devices = devices[: max(most, 1)]
    omp_threads = os.environ.get("OMP_NUM_THREADS", "")
    return Slots(tuple(devices), int(omp_threads) if omp_threads.isdigit() else max(1, cores() // len(devices)))


def run_tasks(
    tasks: Sequence[CellTask],
    slots: Slots,
    data: MixtureSet,
    *,
    done: int,
    on_start: Callable[[CellTask, str], None],
    on_end: Callable[[CellTask, str | None, float], bool],
) -> None:
    """Run all tasks in parallel; ``done`` other cells of the sweep are done already.

    ``on_start`` is called with each task and its device; ``on_end`` with the task, the reason why it failed, or None,
    and its seconds, and returns whether the cell is done. After Ctrl-C or SIGTERM all processes are terminated, which
    makes them save, and Stopped is raised.
    """
    waiting, running = list(tasks), list[_CellProcess]()
    with SignalRequests() as requests, _ProgressLine(len(tasks), done) as progress:
        try:
            while (waiting or running) and not requests.exit_code:
                # fill the free slots
                free = list(slots.devices)
                for process in running:
                    free.remove(process.device)
                for device in free[: len(waiting)]:
                    running.append(_CellProcess(waiting.pop(0), device, slots, data))
                    on_start(running[-1].task, device)
                time.sleep(_POLL_SECONDS)
                # collect the processes that have ended since the last poll
                for process in [process for process in running if process.popen.poll() is not None]:
                    if requests.exit_code:
                        break  # the same signal may have ended it, which is not a failure: the next call finds out
                    running.remove(process)
                    seconds = time.monotonic() - process.start_time
                    progress.count(done=on_end(process.task, process.failure(), seconds))
                progress.show(running)
        finally:
            _terminate(running)
    if requests.exit_code:
        left = counted(len(waiting) + len(running), "cell")
        raise Stopped(f"stopped and saved, with {left} left: run the same command to resume", requests.exit_code)


class _CellProcess:
    """The process of one cell. Its output is appended to the log of the task."""

    def __init__(self, task: CellTask, device: str, slots: Slots, data: MixtureSet):
        self.task, self.device, self.start_time = task, device, time.monotonic()
        # its job and its environment
        config = task.cell.config.model_copy(update={"device": device})
        folders = {name: str(folder) if folder else None for name, folder in data.folders.items()}
        job = CellJob(
            cell=task.cell.digest,
            run=str(task.run),
            config=config.model_dump(),
            data=str(data.path),
            root=folders["root"],
            noise=folders["noise"],
            rirs=folders["rirs"],
        )
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(slots.threads),
            "MKL_NUM_THREADS": str(slots.threads),
            # the number of processes that share the cores, as set by torchrun
            "LOCAL_WORLD_SIZE": str(len(slots.devices)),
            # the same sepclip as this process, whatever the current folder
            "PYTHONPATH": os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH")))),
        }
        # its log; a failure is explained by what follows this offset
        self._log = _open_log(task.log)
        self._log_offset = self._log.tell()
        self._log.write(f"{task.label} on {device}: {json.dumps(job)}\n".encode())
        self._log.flush()
        self.popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "sepclip.sweep.worker"],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            self._stdin().write(json.dumps(job).encode() + b"\n")
            self._stdin().flush()  # not closed: the end of stdin tells the worker that this process has ended
        except BrokenPipeError:
            pass  # the process has ended already; its exit code says so

    def _stdin(self) -> IO[bytes]:
        assert self.popen.stdin is not None
        return self.popen.stdin

    def failure(self) -> str | None:
        """Return why the ended process failed, or None if it did not fail."""
        self._stdin().close()
        self._log.close()
        code = self.popen.returncode
        if code == 0:
            return None
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            hint = ", possibly out of memory: run fewer cells in parallel" if -code == signal.SIGKILL else ""
            return f"its process was killed by {name}{hint}"
        # the last line of its output is its error message; the first is written by this process
        with self.task.log.open("rb") as file:
            file.seek(self._log_offset)
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        return (
            lines[-1].removeprefix("error: ")[:_MOST_CHARACTERS]
            if len(lines) > 1
            else f"its process ended with exit code {code}"
        )

    def share_done(self) -> float:
        """Return the share of the training that is done, from 0 to 1, by the last row of its metrics."""
        try:
            with (self.task.run / METRICS).open("rb") as file:
                file.seek(-min(2000, file.seek(0, os.SEEK_END)), os.SEEK_END)
                return min(1.0, float(json.loads(file.read().splitlines()[-1])["step"]) / self.task.steps)
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            return 0.0  # no row yet, or only part of one


def _open_log(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def _terminate(processes: Sequence[_CellProcess]) -> None:
    """Terminate all processes, which makes them save, and wait until they have ended."""
    if not processes:
        return
    say(f"saving {counted(len(processes), 'running cell')}")
    for process in processes:
        process.popen.terminate()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    try:
        for process in processes:
            process.popen.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass  # killed below; its last checkpoint is complete
    finally:
        for process in processes:
            process.popen.kill()
            process.popen.wait()


class _ProgressLine:
    """One live line on the terminal: how many cells are done, running and failed, and the time left."""

    def __init__(self, total: int, done: int):
        self._done, self._failed, self._ended, self._update_time = done, 0, 0, 0.0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=notes,
            transient=True,
            disable=not notes.is_terminal,
        )
        self._task = self._bar.add_task("cells", total=total)

    def __enter__(self) -> "_ProgressLine":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def count(self, *, done: bool) -> None:
        """Count a cell that has ended, as done or as failed."""
        self._ended += 1
        self._done += done
        self._failed += not done
        self._update_time = 0.0  # so that the next call of show() is not skipped

    def show(self, running: Sequence[_CellProcess]) -> None:
        """Update the line, at most once per second."""
        if time.monotonic() - self._update_time < 1:
            return
        self._update_time = time.monotonic()
        description = f"cells: {self._done} done, {len(running)} running, {self._failed} failed"
        share = self._ended + sum(process.share_done() for process in running)
        self._bar.update(self._task, description=description, completed=share)
