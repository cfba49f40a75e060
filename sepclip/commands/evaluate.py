"""``sepclip eval``."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.commands.options import Json, KMeans, Root
from sepclip.errors import UserError
from sepclip.terminal import out, print_json, show_lines


def evaluate(
    run: Annotated[Path | None, typer.Argument(help="Folder of a trained run.", show_default=False)] = None,
    data: Annotated[Path | None, typer.Argument(help="Mixture set to separate and score.", show_default=False)] = None,
    estimates: Annotated[
        Path | None, typer.Option(help="Folder of separated files, instead of RUN.", show_default=False)
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="Folder of true sources, instead of DATA.", show_default=False)
    ] = None,
    mixtures: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the mixtures NAME.wav; else REFERENCES/mix, else the references' sum.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of DATA: tr, cv or tt [tt].", show_default=False)] = None,
    limit: Annotated[int | None, typer.Option(help="Score the first so many files only.", min=1)] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder of scores.json and scores.csv [RUN/eval/DATA-SPLIT, or ESTIMATES].",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes for museval [all cores].", min=1)] = None,
    device: Annotated[
        str | None, typer.Option(help="For RUN: auto, cpu, cuda or cuda:N [auto].", show_default=False)
    ] = None,
    kmeans: KMeans = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Score a run, or separated files, against the truth.

    A run is scored on a split of a mixture set, separated files against a folder of references.

    SDR, ISR, SIR and SAR by museval (BSSEval v4, windows of 1 s at the files' own rate, median over windows), SI-SDR,
    the improvement of SDR and SI-SDR over the mixture, and the ideal binary mask for scale. Sources are paired by the
    best mean SI-SDR first. Layout of the folders: s1/NAME.wav, s2/NAME.wav or NAME_s1.wav, NAME_s2.wav.
    """
    from sepclip import evaluation, scoring
    from sepclip.report.glance import score_lines

    if run is not None and data is not None and estimates is None and references is None:
        from sepclip.mixing.mixture import MixtureSet
        from sepclip.training.hardware import resolve_device
        from sepclip.training.run import Run

        if mixtures is not None:
            raise typer.BadParameter("--mixtures goes with --estimates and --references")
        where, split = resolve_device(device or "auto"), split or "tt"
        separator = Run.open(run).separator(where, kmeans)
        items, total = evaluation.set_items(separator, MixtureSet.open(data, root), split, device=where, limit=limit)
        stft = separator.stft
        first = f"-first{limit}" if limit else ""
        masks = f"-{kmeans.replace(' ', '')}" if kmeans else ""
        folder = out_folder or run / "eval" / f"{data.resolve().name}-{split}{masks}{first}"
        about = {"run": str(run), "data": str(data), "split": split, "limit": limit, "kmeans": separator.clusters_by()}
    elif estimates is not None and references is not None and run is None and data is None:
        if split or device or root or kmeans:
            raise typer.BadParameter("--split, --kmeans, --device and --root go with RUN and DATA")
        items, total = evaluation.folder_items(estimates, references, mixtures, limit)
        stft = None
        folder = out_folder or estimates
        about = {
            "estimates": str(estimates),
            "references": str(references),
            "mixtures": None if mixtures is None else str(mixtures),
            "limit": limit,
        }
    else:
        raise typer.BadParameter("give either RUN and DATA, or --estimates and --references")
    result = evaluation.document(scoring.score(items, total, stft=stft, jobs=jobs), about)
    evaluation.write_scores(folder, result)
    if as_json:
        print_json(result)
    else:
        evaluation.show(result)
        show_lines(score_lines(result))
        out.print(f"written: {folder / 'scores.json'} and scores.csv", markup=False, soft_wrap=True)
    if not any(row["status"] != "excluded" for row in result["rows"]):
        raise UserError(f"no file could be scored: {result['rows'][0]['reason']}")
