"""``sepclip sweep``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sepclip.commands.options import Json, NoiseRoot, RirsRoot, Root
from sepclip.errors import EXIT_USER_ERROR, counted
from sepclip.terminal import out, print_json, say, say_some, show_lines, warn

if TYPE_CHECKING:
    from sepclip.sweep.folder import Sweep


def sweep(
    grid: Annotated[
        str,
        typer.Argument(
            help="A grid file, or the name of a grid that comes with sepclip: table1, table1-small.",
            show_default=False,
        ),
    ],
    data: Annotated[Path, typer.Argument(help="Mixture set made by `sepclip prepare`.", show_default=False)],
    out_folder: Annotated[
        Path,
        typer.Option("--out", help="Folder of the sweep. Created, or resumed if it exists.", show_default=False),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set any key of configs/base.yaml, for all cells."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of every cell, such as 0,1,2 [those of the grid file].")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of every cell; overrides epochs.", min=1)] = None,
    jobs: Annotated[
        int | None,
        typer.Option(help="Cells in parallel on the CPU; the cores are divided evenly [cores, at most 4].", min=1),
    ] = None,
    jobs_per_gpu: Annotated[
        int | None,
        typer.Option(help="Cells in parallel on each GPU; a small network leaves most of a GPU idle [1].", min=1),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto (all GPUs if there are any, else cpu), cpu, cuda (all GPUs) or cuda:N.")
    ] = "auto",
    metric: Annotated[
        Literal["si_sdr", "si_sdr_improvement"], typer.Option(help="The score in the table, in dB.")
    ] = "si_sdr",
    group: Annotated[
        str | None,
        typer.Option(help="Use only test mixtures of this group, such as seen or unseen [all]."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the cells and how far each is; train nothing.")
    ] = False,
    root: Root = None,
    noise_root: NoiseRoot = None,
    rirs_root: RirsRoot = None,
    as_json: Json = False,
) -> None:
    """Train and score every cell of a grid and write the table of scores, such as the paper's Table 1.

    GRID is YAML: a recipe (config), keys for all cells (set), and lists of values for any keys (grid). Each cell is a
    run in DIR/runs, trained in its own process as `sepclip train` would, and scored by SI-SDR on the test mixtures. The
    same command resumes after a kill or Ctrl-C and tries failed cells again; cells that are done are never repeated.
    Writes table.md, table.csv, table.svg and table.png (with matplotlib), cells.json and cells.csv.
    """
    from sepclip.sweep import folder

    opened = folder.Sweep.open(
        grid,
        data,
        out_folder,
        settings=settings or (),
        seeds=_parse_seeds(seeds),
        steps=steps,
        device=device,
        group=group,
        folders={"root": root, "noise": noise_root, "rirs": rirs_root},
    )
    if dry_run:
        _list_cells(opened, as_json)
        return
    # train what is not done, draw, and print the table
    folder.run_sweep(opened, device, jobs=jobs, jobs_per_gpu=jobs_per_gpu, metric=metric)
    no_picture = opened.draw(metric)
    if no_picture:
        say(no_picture)
    _print_table(opened, metric, no_picture, as_json)
    # failed cells do not stop a sweep, but they fail the command
    failures = opened.failures()
    if failures:
        say_some(
            f"{counted(len(failures), 'cell')} failed; run the same command to try again:",
            [f"{opened.grid.describe(result.cell)}: {result.reason} (log: {result.log})" for result in failures],
            most=50,
        )
        raise typer.Exit(EXIT_USER_ERROR)


def _list_cells(opened: "Sweep", as_json: bool) -> None:
    """Print every cell with its state and its folder, and how many are left to train."""
    rows = [
        {"cell": opened.grid.describe(cell), "state": opened.state(cell), "run": str(opened.run_path(cell))}
        for cell in opened.grid.cells
    ]
    if as_json:
        print_json({"cells": rows})
        return
    for row in rows:
        out.print(f"{row['cell']}: {row['state']}  {row['run']}", markup=False, soft_wrap=True)
    out.print(f"{counted(len(rows), 'cell')}, {len(opened.remaining_cells())} to train", markup=False)


def _print_table(opened: "Sweep", metric: str, no_picture: str | None, as_json: bool) -> None:
    """Print the table with a curve for each cell, or one JSON document; warn about cells with identical scores."""
    from sepclip.report.sparklines import sweep_lines
    from sepclip.sweep.cell_table import Table, run_rows
    from sepclip.sweep.folder import identical_scores

    table, warnings = Table.from_results(opened.grid, opened.results, metric), identical_scores(opened)
    for warning in warnings:
        warn(warning)
    if as_json:
        print_json(
            {
                "out": str(opened.out),
                "complete": table.complete(),
                "table": table.rows(),
                "cells": run_rows(opened.grid, opened.results),
                "same_scores": warnings,
                "picture": None if no_picture else str(opened.out / "table.svg"),
            }
        )
        return
    table.show()
    show_lines(sweep_lines({opened.grid.describe(cell): opened.run_path(cell) for cell in opened.grid.cells}))
    names = "table.csv, cells.csv, cells.json" + ("" if no_picture else ", table.svg, table.png")
    out.print(f"written: {opened.out / 'table.md'}, {names}", markup=False, soft_wrap=True)


def _parse_seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--seeds {text}: write whole numbers separated by commas, such as 0,1,2") from error
