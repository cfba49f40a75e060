"""A whole sweep and its folder: which cells are done, training those that are not, and the files that tell of it.

``runs/NAME`` the run of each cell with its scores in ``eval/sweep``; ``logs/NAME.log`` what its process printed;
``sweep.log`` what happened when; ``cells.json``, ``cells.csv`` a row a run; ``table.md``, ``table.csv``, ``table.svg``,
``table.png``. The files are written anew after every cell, the picture at the end.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sepclip.errors import Stopped, UserError, counted
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.sweep import cell_table, picture
from sepclip.sweep.cell_table import LOGS, RUNS
from sepclip.sweep.grid import Cell, Grid, load_grid
from sepclip.sweep.results import METRICS, Result, read_result
from sepclip.sweep.run_cells import Slots, Task, run_tasks, slots_of
from sepclip.terminal import notes, say, warn
from sepclip.training import checkpoint
from sepclip.training.hardware import resolve_device, resolve_precision
from sepclip.training.run import hold

LOG = "sweep.log"


@dataclass
class Sweep:
    """The cells of a grid, trained on the mixtures ``data`` into the folder ``out``, and what is known of each."""

    grid: Grid
    data: MixtureSet
    out: Path
    group: str | None  # of the test mixtures; None: all
    results: dict[str, Result] = field(default_factory=dict)  # by the digest of the cell

    @classmethod
    def open(
        cls,
        grid: str,
        data: Path,
        out: Path,
        *,
        settings: Sequence[str] = (),
        seeds: Sequence[int] | None = None,
        steps: int | None = None,
        device: str = "auto",
        group: str | None = None,
        moved: Mapping[str, Path | None] | None = None,
    ) -> "Sweep":
        """Resolve all cells and see which are done; writes nothing. UserError for all that is wrong with them.

        ``moved`` says where root, noise and rirs of the data lie now.
        """
        mixtures = MixtureSet.open(data, **(moved or {}))
        where = resolve_device(device)
        found = load_grid(
            grid,
            settings=settings,
            seeds=seeds,
            steps=steps,
            precision=resolve_precision("auto", where),
            data_digest=mixtures.digest,
        )
        if out.exists() and not out.is_dir():
            raise UserError(f"--out {out} is a file: choose a folder")
        others = sorted(child.name for child in out.glob("[!.]*"))
        if others and not (out / LOG).is_file():
            raise UserError(f"--out {out} already holds something else ({', '.join(others[:3])}): choose another")
        _require_test_mixtures(mixtures, group)
        sweep = cls(found, mixtures, out, group)
        for cell in found.cells:
            sweep.look(cell)
        return sweep

    def look(self, cell: Cell) -> Result:
        """See whether a cell is done."""
        path = self.run_path(cell)
        self.results[cell.digest] = read_result(cell, path, self.log_path(path), self.group)
        return self.results[cell.digest]

    def run_path(self, cell: Cell) -> Path:
        """Return the folder of a cell's run: what comes before the digest may differ from sweep to sweep."""
        found = sorted((self.out / RUNS).glob(f"*-{cell.digest}"))
        return found[0] if found else self.out / RUNS / cell.name

    def log_path(self, run: Path) -> Path:
        """Return the log of a cell by the folder of its run."""
        return self.out / LOGS / f"{run.name}.log"

    def left(self) -> list[Cell]:
        """Return the cells that are not done."""
        return [cell for cell in self.grid.cells if self.results[cell.digest].status != "done"]

    def failed(self) -> list[Result]:
        """Return what is known of the cells that failed."""
        return [result for result in self.results.values() if result.status == "failed"]

    def state(self, cell: Cell) -> str:
        """Say how far a cell is: ``done``, ``stands at step N``, or ``new``."""
        if self.results[cell.digest].status == "done":
            return "done"
        found = checkpoint.find(self.run_path(cell) / "checkpoints" / "last")
        return f"stands at step {checkpoint.load_progress(found).step}" if found else "new"

    def write(self, metric: str) -> list[Path]:
        """Write the files that tell of the sweep, where anything is new in them."""
        made = cell_table.Table.of(self.grid, self.results, metric)
        texts = {
            "cells.json": cell_table.cells_json(self.grid, self.results, self.data, self.group),
            "cells.csv": cell_table.cells_csv(self.grid, self.results),
            "table.csv": made.csv(),
            "table.md": made.markdown(self.about()),
        }
        return [self.out / name for name, text in texts.items() if cell_table.write_if_new(self.out / name, text)]

    def about(self) -> str:
        """Return what the table is of, in a line."""
        group = f", only {self.group}" if self.group else ""
        return f"Grid {self.grid.path.name}, test mixtures of {self.data.path.name} ({self.data.digest[:12]}){group}."

    def draw(self, metric: str) -> str | None:
        """Draw the picture of the table; returns what to tell where that cannot be done."""
        return picture.draw(cell_table.Table.of(self.grid, self.results, metric), self.out)


def run(
    sweep: Sweep, device: str, *, jobs: int | None = None, jobs_per_gpu: int | None = None, metric: str = METRICS[0]
) -> None:
    """Train and score the cells that are not done, and write the files after each.

    A cell that fails is told and stays for the next call, and the others go on. Raises UserError where another
    process works on the same folder, and Stopped after a signal.
    """
    where = resolve_device(device)
    every_gpu = device in ("auto", "cuda")
    left = sweep.left()
    shared = slots_of(where, jobs=jobs, jobs_per_gpu=jobs_per_gpu, every_gpu=every_gpu, most=len(left))
    if not left:
        sweep.write(metric)
        return
    sweep.out.mkdir(parents=True, exist_ok=True)
    with hold(sweep.out, "being swept"), (sweep.out / LOG).open("a", 1, "utf-8") as log_file:
        _run_left(sweep, [cell for cell in left if sweep.look(cell).status != "done"], shared, metric, log_file.write)


def _run_left(sweep: Sweep, left: list[Cell], shared: Slots, metric: str, write: Any) -> None:
    grid = sweep.grid

    def log(line: str) -> None:
        write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n")

    def started(task: Task, device: str) -> None:
        log(f"started {task.words} on {device}: {task.run.name}")

    def ended(task: Task, reason: str | None, seconds: float) -> bool:
        result = sweep.look(task.cell)
        if reason is None and result.status != "done":
            reason = "it ended without scores"
        if reason is not None:
            result = sweep.results[task.cell.digest] = result.as_failed(reason)
            words = f"failed {task.words} after {seconds:.0f} s: {reason} (log: {result.log})"
            warn(words)
        else:
            words = f"done   {task.words} after {seconds:.0f} s: {result.mean(metric):.2f} dB {metric}"
            if not notes.is_terminal:
                say(words)
        log(words)
        sweep.write(metric)
        return reason is None

    mixtures = len(sweep.data.recipes("tr"))
    tasks = [_task(sweep, cell, mixtures) for cell in left]
    done = len(grid.cells) - len(left)
    kinds = ", ".join(dict.fromkeys(shared.devices))
    say(
        f"{counted(len(left), 'cell')} to train, {done} done before; {len(shared.devices)} side by side on {kinds}, "
        f"{counted(shared.threads, 'thread')} each; what happens stands in {sweep.out / LOG}"
    )
    log(f"{grid.path}: {len(left)} of {counted(len(grid.cells), 'cell')} to train on {sweep.data.path.resolve()}")
    try:
        run_tasks(tasks, shared, sweep.data, done=done, started=started, ended=ended)
    except Stopped as stop:
        log(str(stop))
        raise
    sweep.write(metric)


def _task(sweep: Sweep, cell: Cell, mixtures: int) -> Task:
    path, train = sweep.run_path(cell), cell.config.train
    # for the time left alone; the loop counts its steps itself
    steps = train.steps or train.epochs * max(1, mixtures // cell.config.data.batch_size)
    return Task(cell, path, sweep.log_path(path), sweep.grid.describe(cell), steps)


def _require_test_mixtures(data: MixtureSet, group: str | None) -> None:
    """Raise UserError where there is nothing to score: told before the hours of training, not after them."""
    groups = sorted({recipe.group for recipe in data.recipes("tt")})
    if not groups:
        raise UserError(f"{data.path} has no mixtures in tt to score the cells on: prepare it with --tt 1 or more")
    if group is not None and group not in groups:
        raise UserError(f"--group {group}: the test mixtures of {data.path} are {', '.join(groups)}")
    if not data.audio:
        data.require_root()


def same_scores(sweep: Sweep) -> list[str]:
    """Say which different cells have the same scores to the last digit: what sets them apart may not act."""
    seen: dict[str, Cell] = {}
    told = []
    for cell in sweep.grid.cells:
        result = sweep.results[cell.digest]
        key = json.dumps(result.scores, sort_keys=True)
        if result.status == "done" and (other := seen.setdefault(key, cell)) is not cell:
            one, two = sweep.grid.describe(other), sweep.grid.describe(cell)
            told.append(f"{one} and {two} have the same scores to the last digit: does what sets them apart act?")
    return told
