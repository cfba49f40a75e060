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
        typer.Argument(help="A grid file, or one that comes with sepclip: table1, table1-small.", show_default=False),
    ],
    data: Annotated[Path, typer.Argument(help="Mixture set made by `sepclip prepare`.", show_default=False)],
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder of the sweep: made, or gone on with.", show_default=False)
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of configs/base.yaml, for all cells."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of every cell, such as 0,1,2 [those of the grid file].")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of every cell; overrides epochs.", min=1)] = None,
    jobs: Annotated[
        int | None,
        typer.Option(help="Cells side by side on the CPU, the cores shared evenly [cores, at most 4].", min=1),
    ] = None,
    jobs_per_gpu: Annotated[
        int | None,
        typer.Option(help="Cells side by side on each GPU; a small network leaves most of one idle [1].", min=1),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto (all GPUs where there are any, else cpu), cpu, cuda (all GPUs) or cuda:N.")
    ] = "auto",
    metric: Annotated[
        Literal["si_sdr", "si_sdr_improvement"], typer.Option(help="What the table shows, in dB.")
    ] = "si_sdr",
    group: Annotated[
        str | None, typer.Option(help="Only test mixtures of this group, such as seen or unseen [all].")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the cells and how far each is, and train nothing.")
    ] = False,
    root: Root = None,
    noise_root: NoiseRoot = None,
    rirs_root: RirsRoot = None,
    as_json: Json = False,
) -> None:
    """Train and score every cell of a grid, and make the table: the paper's Table 1 and others like it.

    GRID is YAML: a recipe (config), keys for all cells (set), and lists of values for any keys (grid). Each cell is a
    run in DIR/runs, trained as by `sepclip train` in a process of its own and scored by SI-SDR on the test mixtures.
    The same command goes on after a kill or Ctrl-C, and tries again what failed; what is done is never done twice.
    Writes table.md, table.csv, table.svg and table.png (with matplotlib), cells.json and cells.csv.
    """
    from sepclip.sweep import folder

    opened = folder.Sweep.open(
        grid,
        data,
        out_folder,
        settings=settings or (),
        seeds=_numbers(seeds),
        steps=steps,
        device=device,
        group=group,
        moved={"root": root, "noise": noise_root, "rirs": rirs_root},
    )
    if dry_run:
        _list_cells(opened, as_json)
        return
    folder.run(opened, device, jobs=jobs, jobs_per_gpu=jobs_per_gpu, metric=metric)
    no_picture = opened.draw(metric)
    if no_picture:
        say(no_picture)
    _show(opened, metric, no_picture, as_json)
    failed = opened.failed()
    if failed:
        say_some(
            f"{counted(len(failed), 'cell')} failed; the same command tries again:",
            [f"{opened.grid.describe(one.cell)}: {one.reason} (log: {one.log})" for one in failed],
            most=50,
        )
        raise typer.Exit(EXIT_USER_ERROR)


def _list_cells(opened: "Sweep", as_json: bool) -> None:
    rows = [
        {"cell": opened.grid.describe(cell), "state": opened.state(cell), "run": str(opened.run_path(cell))}
        for cell in opened.grid.cells
    ]
    if as_json:
        print_json({"cells": rows})
        return
    for row in rows:
        out.print(f"{row['cell']}: {row['state']}  {row['run']}", markup=False, soft_wrap=True)
    out.print(f"{counted(len(rows), 'cell')}, {len(opened.left())} to train", markup=False)


def _show(opened: "Sweep", metric: str, no_picture: str | None, as_json: bool) -> None:
    from sepclip.report.glance import sweep_lines
    from sepclip.sweep.cell_table import Table, run_rows
    from sepclip.sweep.folder import same_scores

    table, same = Table.of(opened.grid, opened.results, metric), same_scores(opened)
    for words in same:
        warn(words)
    if as_json:
        print_json(
            {
                "out": str(opened.out),
                "complete": table.complete(),
                "table": table.rows(),
                "cells": run_rows(opened.grid, opened.results),
                "same_scores": same,
                "picture": None if no_picture else str(opened.out / "table.svg"),
            }
        )
        return
    table.show()
    show_lines(sweep_lines({opened.grid.describe(cell): opened.run_path(cell) for cell in opened.grid.cells}))
    names = "table.csv, cells.csv, cells.json" + ("" if no_picture else ", table.svg, table.png")
    out.print(f"written: {opened.out / 'table.md'}, {names}", markup=False, soft_wrap=True)


def _numbers(seeds: str | None) -> list[int] | None:
    if seeds is None:
        return None
    try:
        return [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise typer.BadParameter(
            f"--seeds {seeds}: write whole numbers with commas between them, such as 0,1,2"
        ) from error
