"""``sepclip dynamics``."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.commands.options import Json
from sepclip.terminal import out, print_json


def dynamics(
    run: Annotated[Path, typer.Argument(help="Run trained with --dynamics.", show_default=False)],
    other: Annotated[
        Path | None, typer.Argument(metavar="[RUN2]", help="A second run to draw beside it.", show_default=False)
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for dynamics.svg and dynamics.png [RUN].", show_default=False)
    ] = None,
    animate: Annotated[bool, typer.Option(help="Also write the animation dynamics.gif.")] = False,
    as_json: Json = False,
) -> None:
    """Draw the training dynamics of one run or two, as in Figure 1 of the AutoClip paper.

    The panels are the step size, the training loss, the gradient norm with the clipping threshold, and the gradient
    norm against the local smoothness; the correlation r of the logarithms of the last two is printed. The animation
    shows the last panel during training, with the moving threshold.
    """
    from sepclip.report.dynamics_figure import animate_dynamics, draw_dynamics, require_matplotlib
    from sepclip.training.dynamics import Records, summary_table

    require_matplotlib()
    runs = [Records.read(path) for path in (run, other) if path is not None]
    folder = out_folder or run
    pictures = draw_dynamics(runs, folder)
    if animate:
        pictures.append(animate_dynamics(runs, folder))
    if as_json:
        print_json({"runs": [records.summary() for records in runs], "pictures": [str(path) for path in pictures]})
        return
    out.print(summary_table(runs))
    out.print(f"drawn: {' '.join(map(str, pictures))}", markup=False, soft_wrap=True)
