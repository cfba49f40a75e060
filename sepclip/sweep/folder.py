"""A sweep and its folder: finds the cells that are done, trains the others and writes the tables.

``runs/NAME`` is the run of a cell, with its scores in ``eval/sweep``; ``logs/NAME.log`` the output of its process;
``sweep.log`` the log of the sweep; ``cells.json`` and ``cells.csv`` have one row per run; ``table.md``, ``table.csv``,
``table.svg`` and ``table.png`` are the table. All are updated after every cell, the pictures at the end.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from sepclip.errors import Stopped, UserError, counted
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.sweep import cell_table
from sepclip.sweep.cell_table import LOGS, RUNS
from sepclip.sweep.grid import Cell, Grid, load_grid
from sepclip.sweep.picture import draw_table
from sepclip.sweep.results import METRICS, Result, read_result
from sepclip.sweep.run_cells import CellTask, Slots, allocate_slots, run_tasks
from sepclip.terminal import notes, say, warn
from sepclip.training import checkpoint
from sepclip.training.hardware import resolve_device, resolve_precision
from sepclip.training.run import hold

LOG = "sweep.log"


@dataclass
class Sweep:
    """The cells of ``grid``, trained on the mixtures ``data`` into the folder ``out``, and the result of each."""

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
        folders: Mapping[str, Path | None] | None = None,
    ) -> "Sweep":
        """Resolve all cells and read the results of those that are done; write nothing.

        ``folders`` has the current places of ``root``, ``noise`` and ``rirs`` of the data, if they have moved. Raises
        UserError for any mistake in the grid, the settings, the data or the folder.
        """
        # the cells
        mixtures = MixtureSet.open(data, **(folders or {}))
        grid_cells = load_grid(
            grid,
            settings=settings,
            seeds=seeds,
            steps=steps,
            precision=resolve_precision("auto", resolve_device(device)),
            data_digest=mixtures.digest,
        )
        # the folder: new, empty, or that of a sweep
        if out.exists() and not out.is_dir():
            raise UserError(f"--out {out} is a file: choose a folder")
        contents = sorted(child.name for child in out.glob("[!.]*"))
        if contents and not (out / LOG).is_file():
            raise UserError(f"--out {out} already contains something else ({', '.join(contents[:3])}): choose another")
        _require_test_mixtures(mixtures, group)
        # the results so far
        sweep = cls(grid_cells, mixtures, out, group)
        for cell in grid_cells.cells:
            sweep.update_result(cell)
        return sweep

    def update_result(self, cell: Cell) -> Result:
        """Read the result of a cell from its folder, and return it."""
        path = self.run_path(cell)
        self.results[cell.digest] = read_result(cell, path, self.log_path(path), self.group)
        return self.results[cell.digest]

    def run_path(self, cell: Cell) -> Path:
        """Return the folder of a cell's run. The part before the digest may come from an earlier sweep."""
        existing = sorted((self.out / RUNS).glob(f"*-{cell.digest}"))
        return existing[0] if existing else self.out / RUNS / cell.name

    def log_path(self, run: Path) -> Path:
        """Return the log of the cell whose run is in the folder ``run``."""
        return self.out / LOGS / f"{run.name}.log"

    def remaining_cells(self) -> list[Cell]:
        """Return the cells that are not done."""
        return [cell for cell in self.grid.cells if self.results[cell.digest].status != "done"]

    def failures(self) -> list[Result]:
        """Return the results of the cells that failed."""
        return [result for result in self.results.values() if result.status == "failed"]

    def state(self, cell: Cell) -> str:
        """Return how far a cell is: ``done``, ``at step N``, or ``new``."""
        if self.results[cell.digest].status == "done":
            return "done"
        latest = checkpoint.find(self.run_path(cell) / "checkpoints" / "last")
        return f"at step {checkpoint.load_progress(latest).step}" if latest else "new"

    def write(self, metric: str) -> list[Path]:
        """Write the tables that have changed, and return their files."""
        table = cell_table.Table.from_results(self.grid, self.results, metric)
        texts = {
            "cells.json": cell_table.cells_json(self.grid, self.results, self.data, self.group),
            "cells.csv": cell_table.cells_csv(self.grid, self.results),
            "table.csv": table.csv(),
            "table.md": table.markdown(self.description()),
        }
        return [self.out / name for name, text in texts.items() if cell_table.write_if_new(self.out / name, text)]

    def description(self) -> str:
        """Return the grid and the test mixtures of the table in one sentence."""
        group = f", only {self.group}" if self.group else ""
        return f"Grid {self.grid.path.name}, test mixtures of {self.data.path.name} ({self.data.digest[:12]}){group}."

    def draw(self, metric: str) -> str | None:
        """Draw the picture of the table. Return None, or the reason why there is no picture."""
        return draw_table(cell_table.Table.from_results(self.grid, self.results, metric), self.out)


def run_sweep(
    sweep: Sweep, device: str, *, jobs: int | None = None, jobs_per_gpu: int | None = None, metric: str = METRICS[0]
) -> None:
    """Train and score the cells that are not done, and write the tables after each of them.

    A cell that fails does not stop the others; its reason is printed, and the next call tries it again. Raises
    UserError if another process works in the same folder, and Stopped after a signal.
    """
    cells = sweep.remaining_cells()
    slots = allocate_slots(
        resolve_device(device),
        jobs=jobs,
        jobs_per_gpu=jobs_per_gpu,
        every_gpu=device in ("auto", "cuda"),
        most=len(cells),
    )
    if not cells:
        sweep.write(metric)
        return
    sweep.out.mkdir(parents=True, exist_ok=True)
    with hold(sweep.out, "in use"), (sweep.out / LOG).open("a", 1, "utf-8") as log_file:
        # read again now that the folder is locked: another process may have finished some of the cells meanwhile
        cells = [cell for cell in cells if sweep.update_result(cell).status != "done"]
        _run_cells(sweep, cells, slots, metric, log_file)


def _run_cells(sweep: Sweep, cells: list[Cell], slots: Slots, metric: str, log_file: TextIO) -> None:
    """Run all ``cells``; log the start and the end of each, and write the tables after each."""
    grid = sweep.grid

    def log(line: str) -> None:
        log_file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n")

    def on_start(task: CellTask, device: str) -> None:
        log(f"started {task.label} on {device}: {task.run.name}")

    def on_end(task: CellTask, failure: str | None, seconds: float) -> bool:
        result = sweep.update_result(task.cell)
        if failure is None and result.status != "done":
            failure = "it ended without scores"
        if failure is not None:
            result = sweep.results[task.cell.digest] = result.as_failed(failure)
            message = f"failed {task.label} after {seconds:.0f} s: {failure} (log: {result.log})"
            warn(message)
        else:
            message = f"done   {task.label} after {seconds:.0f} s: {result.mean(metric):.2f} dB {metric}"
            if not notes.is_terminal:
                say(message)
        log(message)
        sweep.write(metric)
        return failure is None

    # the tasks and the slots that run them
    mixtures = len(sweep.data.recipes("tr"))
    tasks = [_task(sweep, cell, mixtures) for cell in cells]
    done = len(grid.cells) - len(cells)
    devices = ", ".join(dict.fromkeys(slots.devices))
    # on the screen and in the log: how much there is to do
    say(
        f"{counted(len(cells), 'cell')} to train, {done} already done; {len(slots.devices)} in parallel on {devices}, "
        f"{counted(slots.threads, 'thread')} each; log: {sweep.out / LOG}"
    )
    log(f"{grid.path}: {len(cells)} of {counted(len(grid.cells), 'cell')} to train on {sweep.data.path.resolve()}")
    try:
        run_tasks(tasks, slots, sweep.data, done=done, on_start=on_start, on_end=on_end)
    except Stopped as stop:
        log(str(stop))
        raise
    sweep.write(metric)


def _task(sweep: Sweep, cell: Cell, mixtures: int) -> CellTask:
    path, train = sweep.run_path(cell), cell.config.train
    # an estimate for the progress bar only; the training loop counts its own steps
    steps = train.steps or train.epochs * max(1, mixtures // cell.config.data.batch_size)
    return CellTask(cell, path, sweep.log_path(path), sweep.grid.describe(cell), steps)


def _require_test_mixtures(data: MixtureSet, group: str | None) -> None:
    """Raise UserError if there is nothing to score the cells on: before hours of training, not after them."""
    groups = sorted({recipe.group for recipe in data.recipes("tt")})
    if not groups:
        raise UserError(f"{data.path} has no mixtures in tt to score the cells on: prepare it with --tt 1 or more")
    if group is not None and group not in groups:
        raise UserError(f"--group {group}: the groups of the test mixtures of {data.path} are {', '.join(groups)}")
    if not data.audio:
        data.require_root()


def identical_scores(sweep: Sweep) -> list[str]:
    """Return a warning for each pair of cells with identical scores: the setting that differs may have no effect."""
    first: dict[str, Cell] = {}  # of each set of scores
    warnings = []
    for cell in sweep.grid.cells:
        result = sweep.results[cell.digest]
        key = json.dumps(result.scores, sort_keys=True)
        if result.status == "done" and (twin := first.setdefault(key, cell)) is not cell:
            warnings.append(
                f"{sweep.grid.describe(twin)} and {sweep.grid.describe(cell)} have the same scores to the last digit: "
                "the setting in which they differ may have no effect"
            )
    return warnings
