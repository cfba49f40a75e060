"""``sepclip separate``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sepclip.commands.options import Device, Json, KMeans, MaskSource, Precision
from sepclip.errors import EXIT_USER_ERROR, counted
from sepclip.terminal import out, print_json, say, say_some

_LISTED_FILES = 10  # separated files that are listed one by one; the others are counted


def separate(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.", show_default=False)],
    files: Annotated[
        list[Path],
        typer.Argument(help="Sound files, folders of sound files, or - for one on stdin.", show_default=False),
    ],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("separated"),
    overwrite: Annotated[bool, typer.Option(help="Replace results that already exist.")] = False,
    name: Annotated[str, typer.Option(help="Pattern for the names of the results.")] = "{name}_{source}",
    format_name: Annotated[
        Literal["wav", "flac", "ogg"], typer.Option("--format", help="File format of the results.")
    ] = "wav",
    subtype: Annotated[
        str | None,
        typer.Option(help="Sample format, such as PCM_24 or FLOAT [that of the input file].", show_default=False),
    ] = None,
    overload: Annotated[
        Literal["rescale", "clamp", "float"] | None,
        typer.Option(
            help="If an estimate exceeds full scale: rescale all results of its file, clamp it, or write 32-bit float "
            "[float; rescale for flac and ogg].",
            show_default=False,
        ),
    ] = None,
    residual: Annotated[bool, typer.Option(help="Also write the residual: the mixture minus the sources.")] = False,
    channels: Annotated[
        Literal["mid", "each"],
        typer.Option(help="Compute the masks from the mean of the channels, or separate each channel independently."),
    ] = "mid",
    masks: MaskSource = None,
    kmeans: KMeans = None,
    misi: Annotated[int, typer.Option(help="Number of iterations of phase refinement (MISI).", min=0, max=100)] = 0,
    precision: Precision = "auto",
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Number of files, or batches of short files, processed at once [number of cores, at most 4].",
            min=1,
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Separate sound files of any format, length, rate and channel count.

    The results keep the rate, length, channels, level and sample format of their input file. Long files are separated
    in overlapping blocks, joined so that each voice stays in one result; memory use does not grow with length. Existing
    results are kept, so run the same command again to resume after an interruption. An input that cannot be separated
    is named and skipped, and the exit code is 1.
    """
    from sepclip.model.inference import InferenceOptions
    from sepclip.separation.separate_files import Options, separate_files
    from sepclip.training.hardware import resolve_device, resolve_precision
    from sepclip.training.run import Run

    torch_device = resolve_device(device)
    opened = Run.open(run)
    options = InferenceOptions(
        misi, channels, masks, resolve_precision(precision, torch_device, opened.config.model.network)
    )
    separator = opened.separator(torch_device, options, kmeans)
    result = separate_files(
        separator,
        files,
        out_folder,
        device=torch_device,
        weights_time=opened.trained_at(),
        provenance={"run": run.resolve(), "kmeans": kmeans, "masks": masks, "misi": misi, "channels": channels},
        options=Options(format_name, subtype, overload, residual, name, overwrite, jobs),
    )
    if as_json:
        print_json(
            {
                "written": {str(path): [str(target) for target in targets] for path, targets in result.written.items()},
                "kept": {str(path): [str(target) for target in targets] for path, targets in result.kept.items()},
                "failed": {str(path): reason for path, reason in result.failed.items()},
            }
        )
    else:
        written = list(result.written.values())
        for targets in written[:_LISTED_FILES]:
            out.print(" ".join(str(target) for target in targets), markup=False, soft_wrap=True)
        if len(written) > _LISTED_FILES:
            out.print(f"... and {len(written) - _LISTED_FILES} more files separated into {out_folder}", markup=False)
        if len(written) > 1:
            length = f"{result.seconds / 60:.1f} min of sound"
            say(f"{counted(len(written), 'file')} separated, {length}, {result.speed:.1f} times as fast as it plays")
        if result.kept:
            say(f"{counted(len(result.kept), 'file')} already separated in {out_folder}; --overwrite replaces them")
    if result.failed:
        say_some(
            f"{counted(len(result.failed), 'input')} could not be separated:",
            [f"{path}: {reason}" for path, reason in result.failed.items()],
            most=50,
        )
        raise typer.Exit(EXIT_USER_ERROR)
