"""``sepclip separate``."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.commands.options import Device, Json, KMeans
from sepclip.errors import EXIT_USER_ERROR, counted
from sepclip.terminal import out, print_json, say, say_some

_SHOWN = 10  # separated files that are listed one by one


def separate(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.", show_default=False)],
    files: Annotated[list[Path], typer.Argument(help="Sound files, or folders of them.", show_default=False)],
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder for NAME_s1.wav, NAME_s2.wav, ...", show_default=False)
    ],
    overwrite: Annotated[bool, typer.Option(help="Make anew what is already there.")] = False,
    kmeans: KMeans = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Separate sound files of any format, rate and channel count.

    The results keep the rate, length, channels and level of their file; those already there are left, unless --kmeans
    asks for other masks. A file that cannot be used is named and the
    others go on; the exit code is 1 then.
    """
    from sepclip.separation import separate_files
    from sepclip.training.hardware import resolve_device
    from sepclip.training.run import Run

    where = resolve_device(device)
    opened = Run.open(run)
    result = separate_files(
        opened.separator(where, kmeans),
        files,
        out_folder,
        device=where,
        made_after=opened.trained_at(),
        overwrite=overwrite or kmeans is not None,  # what is there may come from other masks
    )
    if as_json:
        print_json(
            {
                "written": {str(path): [str(target) for target in made] for path, made in result.written.items()},
                "kept": {str(path): [str(target) for target in made] for path, made in result.kept.items()},
                "failed": {str(path): reason for path, reason in result.failed.items()},
            }
        )
    else:
        written = list(result.written.values())
        for made in written[:_SHOWN]:
            out.print(" ".join(str(target) for target in made), markup=False, soft_wrap=True)
        if len(written) > _SHOWN:
            out.print(f"... and {len(written) - _SHOWN} more files separated into {out_folder}", markup=False)
        if result.kept:
            say(f"{counted(len(result.kept), 'file')} already separated in {out_folder}; --overwrite makes them anew")
    if result.failed:
        say_some(
            f"{counted(len(result.failed), 'input')} could not be separated:",
            [f"{path}: {reason}" for path, reason in result.failed.items()],
            most=50,
        )
        raise typer.Exit(EXIT_USER_ERROR)
