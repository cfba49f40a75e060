"""The processes of a sweep: cells side by side, each in a process of its own, watched until the last one ends."""

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
from sepclip.terminal import notes, say
from sepclip.training.run import METRICS
from sepclip.training.signals import SignalRequests

MOST_JOBS = 4  # by default on a CPU: each holds a network, its gradients and audio in memory
_LOOK_EVERY_SECONDS = 0.1
_ROOT = str(Path(sepclip.__file__).resolve().parent.parent)
_LONGEST = 300  # characters of a reason; the log has the rest
_PATIENCE_SECONDS = 300.0  # that a cell may take to finish its step and save, once told to end


@dataclass(frozen=True)
class Task:
    """A cell to train, the folder of its run, the log of its process, and how it is called."""

    cell: Cell
    run: Path
    log: Path
    words: str
    steps: int


@dataclass(frozen=True)
class Slots:
    """Where cells run side by side: a device for each place, and the threads of each."""

    devices: tuple[str, ...]
    threads: int


def slots_of(device: torch.device, *, jobs: int | None, jobs_per_gpu: int | None, every_gpu: bool, most: int) -> Slots:
    """Share the machine out: ``jobs`` slots on the CPU, or ``jobs_per_gpu`` on each visible GPU or on ``device``.

    ``most`` slots are of use. Cores are divided evenly; OMP_NUM_THREADS, where set, is each cell's own number.
    Raises UserError for a number that the device has no use for.
    """
    if device.type == "cpu":
        if jobs_per_gpu is not None:
            raise UserError(f"--jobs-per-gpu {jobs_per_gpu}: the cells run on the CPU here; use --jobs")
        devices = ["cpu"] * (jobs or min(cores(), MOST_JOBS))
    else:
        if jobs is not None:
            raise UserError(f"--jobs {jobs}: the cells run on {device} here; use --jobs-per-gpu or --device cpu")
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if every_gpu else [str(device)]
        devices = gpus * (jobs_per_gpu or 1)  # one cell on each GPU before a second one on any
    devices = devices[: max(most, 1)]
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return Slots(tuple(devices), int(asked) if asked.isdigit() else max(1, cores() // len(devices)))


def run_tasks(
    tasks: Sequence[Task],
    where: Slots,
    data: MixtureSet,
    *,
    done: int,
    started: Callable[[Task, str], None],
    ended: Callable[[Task, str | None, float], bool],
) -> None:
    """Run all tasks; ``done`` cells need none.

    ``started`` gets each task and its device; ``ended`` gets it with the reason why it failed, or None, and the
    seconds it took, and returns whether it is done. After Ctrl-C or a termination the processes are ended, which
    saves them, and Stopped is raised.
    """
    waiting, running = list(tasks), list[_Child]()
    with SignalRequests() as asked, _Screen(len(tasks), done) as screen:
        try:
            while (waiting or running) and not asked.exit_code:
                free = list(where.devices)
                for child in running:
                    free.remove(child.device)
                for device in free[: len(waiting)]:
                    running.append(_Child(waiting.pop(0), device, where, data))
                    started(running[-1].task, device)
                time.sleep(_LOOK_EVERY_SECONDS)
                for child in [child for child in running if child.process.poll() is not None]:
                    if asked.exit_code:
                        break  # what ends now may have ended by the signal: the next call finds out
                    running.remove(child)
                    screen.count(done=ended(child.task, child.reason(), time.monotonic() - child.began))
                screen.show(running)
        finally:
            _end(running)
    if asked.exit_code:
        left = counted(len(waiting) + len(running), "cell")
        raise Stopped(f"stopped with {left} left, and saved: the same command goes on", asked.exit_code)


class _Child:
    """The process of one cell. Its output goes to the end of the task's log."""

    def __init__(self, task: Task, device: str, where: Slots, data: MixtureSet):
        self.task, self.device, self.began = task, device, time.monotonic()
        config = task.cell.config.model_copy(update={"device": device})
        orders = {
            "cell": task.cell.digest,
            "run": str(task.run),
            "config": config.model_dump(),
            "data": str(data.path),
            **{name: str(folder) if folder else None for name, folder in data.folders.items()},
        }
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(where.threads),
            "MKL_NUM_THREADS": str(where.threads),
            "LOCAL_WORLD_SIZE": str(len(where.devices)),  # as torchrun says by how many processes the cores are shared
            # this very sepclip, whatever the folder that the command is given in
            "PYTHONPATH": os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH")))),
        }
        self._log = _open_log(task.log)
        self._from = self._log.tell()
        self._log.write(f"{task.words} on {device}: {json.dumps(orders)}\n".encode())
        self._log.flush()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sepclip.sweep.worker"],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            self._stdin().write(json.dumps(orders).encode() + b"\n")
            self._stdin().flush()  # and it stays open: its end tells the process that this one is gone
        except BrokenPipeError:
            pass  # the process has died already; its exit code says so

    def _stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    def reason(self) -> str | None:
        """Return why the ended process failed, None where it did not."""
        self._stdin().close()
        self._log.close()
        code = self.process.returncode
        if code == 0:
            return None
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            hint = ", perhaps for want of memory: fewer side by side need less" if -code == signal.SIGKILL else ""
            return f"its process was killed by {name}{hint}"
        with self.task.log.open("rb") as file:
            file.seek(self._from)
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        return (
            lines[-1].removeprefix("error: ")[:_LONGEST]
            if len(lines) > 1
            else f"its process ended with exit code {code}"
        )

    def share_done(self) -> float:
        """Return how much of the training is done, from 0 to 1, by the last line of its metrics."""
        try:
            with (self.task.run / METRICS).open("rb") as file:
                file.seek(-min(2000, file.seek(0, os.SEEK_END)), os.SEEK_END)
                return min(1.0, float(json.loads(file.read().splitlines()[-1])["step"]) / self.task.steps)
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            return 0.0  # not there yet, or half a line


def _open_log(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def _end(children: Sequence[_Child]) -> None:
    """Tell all processes to save and end, and wait until they have."""
    if not children:
        return
    say(f"saving {counted(len(children), 'running cell')}")
    for child in children:
        child.process.terminate()
    until = time.monotonic() + _PATIENCE_SECONDS
    try:
        for child in children:
            child.process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass  # killed below; its last checkpoint is whole
    finally:
        for child in children:
            child.process.kill()
            child.process.wait()


class _Screen:
    """One live line: how many cells are done, running and failed, and the time left."""

    def __init__(self, total: int, done: int):
        self._done, self._failed, self._ended, self._last = done, 0, 0, 0.0
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

    def __enter__(self) -> "_Screen":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def count(self, *, done: bool) -> None:
        """Count a cell that has ended."""
        self._ended += 1
        self._done += done
        self._failed += not done
        self._last = 0.0

    def show(self, running: Sequence[_Child]) -> None:
        """Show where the sweep stands, at most once a second."""
        if time.monotonic() - self._last < 1:
            return
        self._last = time.monotonic()
        words = f"cells: {self._done} done, {len(running)} running, {self._failed} failed"
        share = self._ended + sum(child.share_done() for child in running)
        self._bar.update(self._task, description=words, completed=share)
