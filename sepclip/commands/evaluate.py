"""``sepclip eval``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sepclip.commands.options import Json, KMeans, MaskSource, NoiseRoot, RirsRoot, Root
from sepclip.scoring.table import DEFAULT, METRICS, ORACLES, RULE, chosen
from sepclip.terminal import out, print_json, show_lines

if TYPE_CHECKING:
    from sepclip.scoring.items import ScoringPlan

DEFINITIONS = "\n\n".join(
    [
        "Scores, per source of a file:",
        *(f"{name}: {metric.definition}." for name, metric in METRICS.items()),
        "Ideal masks: " + "; ".join(f"{name}: {definition}" for name, (_, definition) in ORACLES.items()) + ".",
        "What known errors give: a perfect estimate is infinite in all, counted, and in no mean. Swapped sources are "
        "paired first, and lose nothing. Half the level is infinite in SI-SDR and v3, 6 dB in SNR and SDR, 0 dB in "
        "SD-SDR. Negated is infinite in SI-SDR and v3, -6 dB in SNR, SDR and SD-SDR. One sample late is low in SI-SDR, "
        "SNR and SDR, and infinite in v3, whose filters undo it. Noise at -20 dB is 20 dB in SI-SDR, SNR and SDR, and "
        "more in v3 and SAR, whose filters explain some of it; another source at -20 dB is 20 dB of SIR.",
        f"Memory: {RULE}. What museval cannot score within --memory, the fast engine scores in blocks, and the row "
        "says so; what that cannot, is refused in words. What becomes of silence, NaN, missing files and all else that "
        "cannot be scored: docs/SCORES.md.",
    ]
)


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
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="CSV with the columns name,source,estimate,reference and maybe mixture, instead of folders.",
            show_default=False,
        ),
    ] = None,
    estimate_pattern: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Where name and source stand in the path of an estimate, without extension: '{name}/{source}', "
            "'*/{name}-{source}' [{source}/{name}, else {name}_{source}, with sources s1, s2, ...].",
            show_default=False,
        ),
    ] = None,
    reference_pattern: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="The same of a reference.", show_default=False)
    ] = None,
    fixed_order: Annotated[
        bool,
        typer.Option("--fixed-order", help="Pair sources by their names and not by the best SI-SDR, as for stems."),
    ] = False,
    split: Annotated[str | None, typer.Option(help="Split of DATA: tr, cv or tt [tt].", show_default=False)] = None,
    limit: Annotated[int | None, typer.Option(help="Score the first so many files only.", min=1)] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder of scores.json, scores.csv and scores.md [RUN/eval/DATA-SPLIT, ESTIMATES, or beside the CSV].",
            show_default=False,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help=f"Scores, with commas between, or all: {', '.join(METRICS)} [all but pesq and estoi].",
            show_default=False,
        ),
    ] = None,
    oracles: Annotated[
        str | None,
        typer.Option(help=f"Ideal masks for scale: {', '.join(ORACLES)}, or none [all].", show_default=False),
    ] = None,
    improvements: Annotated[
        bool, typer.Option("--improvements/--no-improvements", help="Score the mixture too, for what each score gains.")
    ] = True,
    engine: Annotated[
        Literal["museval", "fast"],
        typer.Option(
            help="What computes BSSEval: museval, or our own, equal to 1e-6 dB in a third to a tenth of the time."
        ),
    ] = "museval",
    museval_json: Annotated[
        bool, typer.Option("--museval-json", help="Also write OUT/museval/test/NAME.json, as museval does.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(help="Processes that score [all cores].", min=1)] = None,
    memory: Annotated[
        float | None,
        typer.Option(metavar="GIB", help="Memory for all processes together [80 % of what is free].", min=0.25),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="For RUN: auto, cpu, cuda or cuda:N [auto].", show_default=False)
    ] = None,
    masks: MaskSource = None,
    kmeans: KMeans = None,
    root: Root = None,
    noise_root: NoiseRoot = None,
    rirs_root: RirsRoot = None,
    as_json: Json = False,
) -> None:
    """Score a run, or separated files of any system, against the truth.

    A run is scored on a split of a mixture set; separated files against a folder of references, or as a CSV pairs them.
    Layout of the folders: s1/NAME.wav, s2/NAME.wav or NAME_s1.wav, NAME_s2.wav, or what patterns say.

    Sources are paired by the best mean SI-SDR over all of a file first, once for all scores. The same command goes on
    after a kill. What cannot be scored is counted with its reason; an infinite score is in no mean. An "i" stands for
    the improvement, the score minus that of the mixture.
    """
    from sepclip.scoring.items import ScoringPlan

    wanted = chosen(metrics, tuple(METRICS), DEFAULT, "metrics")
    plan = ScoringPlan(
        wanted, chosen(oracles, tuple(ORACLES), tuple(ORACLES), "oracles"), engine, improvements=improvements
    )
    moved = {"root": root, "noise": noise_root, "rirs": rirs_root}
    how: dict[str, Any] = {"jobs": jobs, "memory_gib": memory, "museval_json": museval_json}
    if run is not None and data is not None and not (estimates or references or pairs):
        if mixtures or estimate_pattern or reference_pattern or fixed_order:
            raise typer.BadParameter(
                "--mixtures, --estimate-pattern, --reference-pattern and --fixed-order go with --estimates and "
                "--references, or with --pairs"
            )
        folder, result = _of_run(run, data, split or "tt", limit, out_folder, device, masks, kmeans, moved, plan, how)
    elif run is None and data is None and (pairs is not None) != (estimates is not None and references is not None):
        from sepclip.evaluation.evaluating import evaluate as score
        from sepclip.evaluation.folders import folder_items, pair_items

        if split or device or masks or kmeans or any(moved.values()):
            raise typer.BadParameter(
                "--split, --masks, --kmeans, --device, --root, --noise-root and --rirs-root go with RUN and DATA"
            )
        if pairs is not None:
            if estimates or references or mixtures or estimate_pattern or reference_pattern:
                raise typer.BadParameter("--pairs names all files itself: leave out folders and patterns")
            items = pair_items(pairs, limit, fixed_order=fixed_order)
            folder = out_folder or pairs.parent
            about = {"pairs": str(pairs), "limit": limit}
        else:
            assert estimates is not None
            assert references is not None
            items = folder_items(
                estimates, references, mixtures, limit, fixed_order=fixed_order,
                estimate_pattern=estimate_pattern, reference_pattern=reference_pattern,
            )  # fmt: skip
            folder = out_folder or estimates
            about = {
                "estimates": str(estimates),
                "references": str(references),
                "mixtures": None if mixtures is None else str(mixtures),
                "estimate_pattern": estimate_pattern,
                "reference_pattern": reference_pattern,
                "limit": limit,
            }
        result = score(items, folder, about, plan, **how)
    else:
        raise typer.BadParameter("give either RUN and DATA, or --estimates and --references, or --pairs")
    if as_json:
        print_json(result)
        return
    from sepclip.evaluation.shown import show
    from sepclip.report.glance import score_lines

    show(result)
    show_lines(score_lines(result))
    out.print(f"written: {folder / 'scores.json'}, scores.csv and scores.md", markup=False, soft_wrap=True)


def _of_run(
    run: Path,
    data: Path,
    split: str,
    limit: int | None,
    out_folder: Path | None,
    device: str | None,
    masks: MaskSource,
    kmeans: str | None,
    moved: dict[str, Path | None],
    plan: "ScoringPlan",
    how: dict[str, Any],
) -> tuple[Path, dict[str, Any]]:
    from sepclip.evaluation.sets import evaluate_set
    from sepclip.mixing.mixture_set import MixtureSet
    from sepclip.model.inference import InferenceOptions
    from sepclip.training.hardware import resolve_device
    from sepclip.training.run import Run

    where = resolve_device(device or "auto")
    separator = Run.open(run).separator(where, InferenceOptions(masks=masks), kmeans)
    first = f"-first{limit}" if limit else ""
    other = [*([f"masks={masks}"] if masks else []), *([kmeans.replace(" ", "")] if kmeans else [])]
    by = f"-{','.join(other)}" if other else ""
    folder = out_folder or run / "eval" / f"{data.resolve().name}-{split}{by}{first}"
    about = {"run": str(run), "limit": limit, "masks": separator.masks_from, "kmeans": separator.clusters_by()}
    mixtures = MixtureSet.open(data, **moved)
    return folder, evaluate_set(separator, mixtures, split, folder, about, device=where, plan=plan, limit=limit, **how)
