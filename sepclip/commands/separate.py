"""``sepclip separate``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sepclip.commands.options import Device, Json, KMeans, MaskSource, Precision
from sepclip.errors import EXIT_USER_ERROR, UserError, counted
from sepclip.pretrained.model_cards import CONFIG, DEFAULT, find_run, is_model, model_names, read_card
from sepclip.terminal import out, print_json, say, say_some

_LISTED_FILES = 10  # separated files that are listed one by one; the others are counted


def separate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RUN] FILE...",
            help="Sound files, folders of sound files, or - for one on stdin; before them, a run can be given.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help=f"Model that ships with sepclip (`sepclip models` lists them) [{DEFAULT}].",
            show_default=False,
            autocompletion=model_names,
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder of a trained run, instead of a model.", show_default=False)
    ] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("separated"),
    overwrite: Annotated[bool, typer.Option(help="Replace results that already exist.")] = False,
    name: Annotated[str, typer.Option(help="Pattern for the names of the results.")] = "{name}_{source}",
    format_name: Annotated[
        Literal["wav", "flac", "ogg", "opus", "mp3", "m4a"],
        typer.Option("--format", help="File format of the results; m4a needs ffmpeg."),
    ] = "wav",
    subtype: Annotated[
        str | None,
        typer.Option(help="Sample format, such as PCM_24 or FLOAT [that of the input file].", show_default=False),
    ] = None,
    overload: Annotated[
        Literal["rescale", "clamp", "float"] | None,
        typer.Option(
            help="If an estimate exceeds full scale: rescale all results of its file, clamp it, or write 32-bit float "
            "[float for wav; else rescale].",
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
    """Separate sound files of any format, length, rate and channel count, with a pretrained model or your own run.

    The results keep the rate, length, channels, level and sample format of their input file. Long files are separated
    in overlapping blocks, joined so that each voice stays in one result; memory use does not grow with length. Existing
    results are kept, so run the same command again to resume after an interruption. An input that cannot be separated
    is named and skipped, and the exit code is 1.
    """
    from sepclip.model.inference import InferenceOptions
    from sepclip.separation.separate_files import Options, separate_files
    from sepclip.training.hardware import resolve_device, resolve_precision
    from sepclip.training.run import Run

    chosen, files = _choose_run(files, model, run)
    opened = Run.open(Path(chosen))
    if is_model(chosen):
        say(f"{chosen}: {read_card(str(chosen)).limits}")
    torch_device = resolve_device(device)
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
        provenance={"run": opened.path.resolve(), "kmeans": kmeans, "masks": masks, "misi": misi, "channels": channels},
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
            always=True,
        )
        raise typer.Exit(EXIT_USER_ERROR)


def _choose_run(files: list[Path], model: str | None, run: Path | None) -> tuple[str | Path, list[Path]]:
    """Return the model or run to use, and the files: the first of them can be the run. Raises BadParameter if unclear.

    Without any of the three, the default model is used.
    """
    from sepclip.audio.files import find_sounds

    if model is not None and run is not None:
        raise typer.BadParameter("give either --model or --run")
    first, *others = files
    names_run = (first / CONFIG).is_file() or (not first.exists() and is_model(first))
    if model is None and run is None and not names_run:
        # neither sound nor a run: not silently another model for the files after it
        if not first.exists() and not first.suffix and str(first) != "-":
            find_run(first)
        if others and first.is_dir() and not find_sounds(first)[0]:
            raise UserError(
                f"{first} is not a run ({CONFIG} is missing) and contains no sound files: give a run or sounds"
            )
        return DEFAULT, files
    if names_run:
        if model is not None or run is not None:
            raise typer.BadParameter(
                f"{first} is a run, and {'--model' if model else '--run'} is given too: leave one out"
            )
        if not others:
            raise typer.BadParameter(f"give the files to separate after {first}")
        return first, others
    if model is not None:
        read_card(model)  # the error for a wrong name lists the right ones
        return model, files
    assert run is not None
    return run, files
