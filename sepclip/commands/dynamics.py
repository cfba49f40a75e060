"""``sepclip dynamics``."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.commands.options import Json
from sepclip.terminal import out, print_json


def dynamics(
    run: Annotated[Path, typer.Argument(help="Run trained with --dynamics.", show_default=False)],
    other: Annotated[
        Path | None, typer.Argument(metavar="[RUN2]", help="Another, to be drawn beside it.", show_default=False)
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for dynamics.svg and dynamics.png [RUN].", show_default=False)
    ] = None,
    animate: Annotated[bool, typer.Option(help="Make dynamics.gif too.")] = False,
    as_json: Json = False,
) -> None:
    """Draw how a run trained: the AutoClip paper's Figure 1, of one run or two.

    Step size, training loss, gradient norm with the clipping threshold, and gradient norm against local smoothness;
    prints the correlation r of the logarithms of the last two. The animation shows them as training went on, the
    threshold moving.
    """
    from sepclip.report.dynamics_figure import animate_dynamics, draw_dynamics, require_matplotlib
    from sepclip.training.dynamics import Records, summary_table

    require_matplotlib()
    runs = [Records.read(path) for path in (run, other) if path is not None]
    folder = out_folder or run
    made = draw_dynamics(runs, folder)
    if animate:
        made.append(animate_dynamics(runs, folder))
    if as_json:
        print_json({"runs": [records.summary() for records in runs], "pictures": [str(path) for path in made]})
        return
    out.print(summary_table(runs))
    out.print(f"drawn: {' '.join(map(str, made))}", markup=False, soft_wrap=True)
