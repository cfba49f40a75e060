"""``sepclip separate``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sepclip.commands.options import Device, Json, KMeans, MaskSource, Precision
from sepclip.errors import EXIT_USER_ERROR, counted
from sepclip.terminal import out, print_json, say, say_some

_SHOWN = 10  # separated files that are listed one by one


def separate(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.", show_default=False)],
    files: Annotated[
        list[Path], typer.Argument(help="Sound files, folders of them, or - for one on stdin.", show_default=False)
    ],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("separated"),
    overwrite: Annotated[bool, typer.Option(help="Make anew, and replace, what is already there.")] = False,
    name: Annotated[str, typer.Option(help="Name of a result.")] = "{name}_{source}",
    format_name: Annotated[Literal["wav", "flac", "ogg"], typer.Option("--format", help="Of the results.")] = "wav",
    subtype: Annotated[
        str | None, typer.Option(help="Sample format, such as PCM_24 or FLOAT [that of the file].", show_default=False)
    ] = None,
    overload: Annotated[
        Literal["rescale", "clamp", "float"] | None,
        typer.Option(
            help="Where an estimate exceeds full scale: rescale all of its file, clamp it, or write 32-bit float "
            "[float; rescale for flac and ogg].",
            show_default=False,
        ),
    ] = None,
    residual: Annotated[bool, typer.Option(help="Write what the sources lack of the mixture, too.")] = False,
    channels: Annotated[
        Literal["mid", "each"], typer.Option(help="Masks from the mean of the channels, or each channel by itself.")
    ] = "mid",
    masks: MaskSource = None,
    kmeans: KMeans = None,
    misi: Annotated[int, typer.Option(help="Iterations of phase refinement (MISI).", min=0, max=100)] = 0,
    precision: Precision = "auto",
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Files, or batches of short ones, at once [as many as cores, at most 4].", min=1, show_default=False
        ),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Separate sound files of any format, length, rate and channel count.

    The results keep the rate, length, channels, level and sample format of their file. Long files are separated in
    blocks that are put together so that each voice stays in its own result; memory does not grow with length. Results
    that are already there are left, and what was interrupted goes on with the same command. A file that cannot be used
    is named and the others go on; the exit code is 1 then.
    """
    from sepclip.model.inference import InferenceOptions
    from sepclip.separation.separate_files import Options, separate_files
    from sepclip.training.hardware import resolve_device, resolve_precision
    from sepclip.training.run import Run

    where = resolve_device(device)
    opened = Run.open(run)
    options = InferenceOptions(misi, channels, masks, resolve_precision(precision, where))
    separator = opened.separator(where, options, kmeans)
    result = separate_files(
        separator,
        files,
        out_folder,
        device=where,
        made_after=opened.trained_at(),
        how={"run": run.resolve(), "kmeans": kmeans, "masks": masks, "misi": misi, "channels": channels},
        options=Options(format_name, subtype, overload, residual, name, overwrite, jobs),
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
        if len(written) > 1:
            length = f"{result.seconds / 60:.1f} min of sound"
            say(f"{counted(len(written), 'file')} separated, {length}, {result.speed:.1f} times as fast as it plays")
        if result.kept:
            say(f"{counted(len(result.kept), 'file')} already separated in {out_folder}; --overwrite makes them anew")
    if result.failed:
        say_some(
            f"{counted(len(result.failed), 'input')} could not be separated:",
            [f"{path}: {reason}" for path, reason in result.failed.items()],
            most=50,
        )
        raise typer.Exit(EXIT_USER_ERROR)
