"""``sepclip eval``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sepclip.commands.options import Json, KMeans, MaskSource, NoiseRoot, RirsRoot, Root
from sepclip.scoring.table import DEFAULT_METRICS, MEMORY_RULE, METRICS, ORACLES, select_names
from sepclip.terminal import out, print_json, show_lines

if TYPE_CHECKING:
    from sepclip.evaluation.document import ScoreDocument
    from sepclip.evaluation.evaluate_items import EvaluationOptions
    from sepclip.scoring.items import ScoringPlan

DEFINITIONS = "\n\n".join(
    [
        "Scores, for each source of a file:",
        *(f"{name}: {metric.definition}." for name, metric in METRICS.items()),
        "Ideal masks: " + "; ".join(f"{name}: {definition}" for name, (_, definition) in ORACLES.items()) + ".",
        "Scores of known errors: A perfect estimate is infinite in all scores; it is counted, and excluded from means. "
        "Swapped sources lose nothing, because sources are paired first. Half the level is infinite in SI-SDR and v3, "
        "6 dB in SNR and SDR, 0 dB in SD-SDR. Negated is infinite in SI-SDR and v3, -6 dB in SNR, SDR and SD-SDR. One "
        "sample late is low in SI-SDR, SNR and SDR, and infinite in v3, whose filters compensate for it. Noise at "
        "-20 dB is 20 dB in SI-SDR, SNR and SDR, and more in v3 and SAR, whose filters explain some of it; another "
        "source at -20 dB is 20 dB of SIR.",
        f"Memory: {MEMORY_RULE}. A file that museval cannot score within --memory is scored by the fast engine in "
        "blocks, and its rows say so; a file that is too long even for that is excluded, with the reason. "
        "docs/SCORES.md says what happens to silence, NaN, missing files and everything else that cannot be scored.",
    ]
)


_Refusals = dict[tuple[str, ...], str]  # parameters: the message if one of them is given


@dataclass(frozen=True)
class _Mode:
    """One way to use the command.

    ``needs``: the parameters that select it. ``without``: groups of parameters; if all of a group are given, the mode
    is not selected. ``refuses``: parameters that belong to other modes.
    """

    needs: tuple[str, ...]
    without: tuple[tuple[str, ...], ...]
    refuses: _Refusals


_SET_ONLY: _Refusals = {
    ("split", "device", "masks", "kmeans", "root", "noise_root", "rirs_root"): (
        "--split, --masks, --kmeans, --device, --root, --noise-root and --rirs-root go with RUN and DATA"
    )
}
_FILES_ONLY: _Refusals = {
    ("mixtures", "estimate_pattern", "reference_pattern", "fixed_order", "trim"): (
        "--mixtures, --estimate-pattern, --reference-pattern, --fixed-order and --trim go with --estimates and "
        "--references, or with --pairs"
    )
}
_FOLDERS_ONLY: _Refusals = {
    ("estimates", "references", "mixtures", "estimate_pattern", "reference_pattern"): (
        "--pairs names all files itself: leave out folders and patterns"
    )
}
_MODES = {
    "set": _Mode(("run", "data"), (("estimates",), ("references",), ("pairs",)), _FILES_ONLY),
    "folders": _Mode(("estimates", "references"), (("run",), ("data",), ("pairs",)), _SET_ONLY),
    "pairs": _Mode(("pairs",), (("run",), ("data",), ("estimates", "references")), {**_SET_ONLY, **_FOLDERS_ONLY}),
}


def evaluate(
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a trained run, or the name of a model.", show_default=False)
    ] = None,
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
            help="Folder of the mixtures: NAME.wav, mix/NAME.wav, or mixture instead of a source [those beside "
            "the references, else the sum of the references].",
            show_default=False,
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="CSV with the columns name,source,estimate,reference and optionally mixture, instead of folders.",
            show_default=False,
        ),
    ] = None,
    estimate_pattern: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Position of name and source in the path of an estimate, without extension: '{name}/{source}', "
            "'*/{name}-{source}' [{source}/{name}, else {name}_{source}, with sources s1, s2, ...].",
            show_default=False,
        ),
    ] = None,
    reference_pattern: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="The same for references.", show_default=False)
    ] = None,
    fixed_order: Annotated[
        bool,
        typer.Option("--fixed-order", help="Pair sources by name instead of by the best SI-SDR, as for stems."),
    ] = False,
    trim: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Cut files that differ in length by up to so much to the shorter [a hop of about 8 ms].",
            min=0,
            max=1,
            show_default=False,
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of DATA: tr, cv or tt [tt].", show_default=False)] = None,
    limit: Annotated[int | None, typer.Option(help="Score only the first so many files.", min=1)] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for scores.json, scores.csv and scores.md [RUN/eval/DATA-SPLIT, ESTIMATES, or the folder of "
            "the CSV].",
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
        typer.Option(help=f"Ideal masks to compare with: {', '.join(ORACLES)}, or none [all].", show_default=False),
    ] = None,
    improvements: Annotated[
        bool,
        typer.Option("--improvements/--no-improvements", help="Score the mixture too, to report improvements over it."),
    ] = True,
    engine: Annotated[
        Literal["museval", "fast"],
        typer.Option(
            help="Implementation of BSSEval: museval, or our own, which agrees to 1e-6 dB and takes a third to a tenth "
            "of the time."
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
        str | None, typer.Option(help="Device for RUN: auto, cpu, cuda or cuda:N [auto].", show_default=False)
    ] = None,
    masks: MaskSource = None,
    kmeans: KMeans = None,
    root: Root = None,
    noise_root: NoiseRoot = None,
    rirs_root: RirsRoot = None,
    as_json: Json = False,
) -> None:
    """Score a run, or separated files of any system, against the true sources.

    A run is scored on a split of a mixture set; separated files against a folder of references, or as a CSV pairs them.
    Folders contain s1/NAME.wav, s2/NAME.wav or NAME_s1.wav, NAME_s2.wav, or what the patterns say.

    Before scoring, the sources of each file are paired once by the best mean SI-SDR over all of the file. Run the same
    command again to resume after a kill. Files that cannot be scored are counted with the reason; infinite scores are
    excluded from means. A trailing "i" means improvement: the score minus that of the mixture.
    """
    parameters = locals().copy()  # by name, for the table of modes
    from sepclip.scoring.items import ScoringPlan

    plan = ScoringPlan(
        select_names(metrics, tuple(METRICS), DEFAULT_METRICS, "metrics"),
        select_names(oracles, tuple(ORACLES), tuple(ORACLES), "oracles"),
        engine,
        improvements=improvements,
    )
    mode = _select_mode(parameters)
    options: EvaluationOptions = {"jobs": jobs, "memory_gib": memory, "museval_json": museval_json}
    request = _Request(plan, limit, out_folder, options)
    if mode == "set":
        assert run is not None
        assert data is not None
        roots = {"root": root, "noise": noise_root, "rirs": rirs_root}
        folder, document = _evaluate_run(request, run, data, split or "tt", device or "auto", masks, kmeans, roots)
    elif mode == "folders":
        assert estimates is not None
        assert references is not None
        patterns = {"estimate_pattern": estimate_pattern, "reference_pattern": reference_pattern}
        folder, document = _evaluate_folders(request, estimates, references, mixtures, patterns, fixed_order, trim)
    else:
        assert pairs is not None
        folder, document = _evaluate_pairs(request, pairs, fixed_order, trim)
    if as_json:
        print_json(dict(document))
    else:
        _print(folder, document)


def _select_mode(parameters: Mapping[str, object]) -> str:
    """Return the mode that the parameters select; raises BadParameter for none, or for options of another mode."""
    given = {name for name, value in parameters.items() if value}
    for name, mode in _MODES.items():
        if given.issuperset(mode.needs) and not any(given.issuperset(group) for group in mode.without):
            for options, message in mode.refuses.items():
                if given.intersection(options):
                    raise typer.BadParameter(message)
            return name
    raise typer.BadParameter("give either RUN and DATA, or --estimates and --references, or --pairs")


@dataclass(frozen=True)
class _Request:
    """The parameters that all modes share."""

    plan: "ScoringPlan"
    limit: int | None
    out_folder: Path | None
    options: "EvaluationOptions"


def _evaluate_run(
    request: _Request,
    run: Path,
    data: Path,
    split: str,
    device_name: str,
    masks: MaskSource,
    kmeans: str | None,
    roots: Mapping[str, Path | None],
) -> tuple[Path, "ScoreDocument"]:
    """Score a run on a split of a mixture set; returns the folder of the scores, and the scores."""
    from sepclip.evaluation.leakage import find_leakage
    from sepclip.evaluation.sets import evaluate_set
    from sepclip.mixing.mixture_set import MixtureSet
    from sepclip.model.inference import InferenceOptions
    from sepclip.training.hardware import resolve_device
    from sepclip.training.run import Run

    device = resolve_device(device_name)
    trained_run = Run.open(run)
    separator = trained_run.separator(device, InferenceOptions(masks=masks), kmeans)
    mixtures = MixtureSet.open(data, **roots)
    # settings other than the run's are in the name, so that they do not overwrite its own scores
    settings = [*([f"masks={masks}"] if masks else []), *([kmeans.replace(" ", "")] if kmeans else [])]
    suffix = (f"-{','.join(settings)}" if settings else "") + (f"-first{request.limit}" if request.limit else "")
    folder = request.out_folder or run / "eval" / f"{data.resolve().name}-{split}{suffix}"
    leakage = find_leakage(mixtures, split, trained_run.training_sets, request.limit)
    options: EvaluationOptions = {**request.options, "leakage": leakage}
    document = evaluate_set(
        separator,
        mixtures,
        split,
        folder,
        {
            "run": str(run),
            "limit": request.limit,
            "masks": separator.masks_from,
            "kmeans": separator.kmeans_settings(),
        },
        device=device,
        plan=request.plan,
        limit=request.limit,
        **options,
    )
    return folder, document


def _evaluate_folders(
    request: _Request,
    estimates: Path,
    references: Path,
    mixtures: Path | None,
    patterns: Mapping[str, str | None],
    fixed_order: bool,
    trim: float | None,
) -> tuple[Path, "ScoreDocument"]:
    """Score a folder of estimates; returns the folder of the scores, and the scores."""
    from sepclip.evaluation.folders import evaluate_folders

    folder = request.out_folder or estimates
    document = evaluate_folders(
        estimates,
        references,
        folder,
        request.plan,
        mixtures=mixtures,
        limit=request.limit,
        estimate_pattern=patterns["estimate_pattern"],
        reference_pattern=patterns["reference_pattern"],
        fixed_order=fixed_order,
        trim_seconds=trim,
        **request.options,
    )
    return folder, document


def _evaluate_pairs(
    request: _Request, table: Path, fixed_order: bool, trim: float | None
) -> tuple[Path, "ScoreDocument"]:
    """Score the files that a CSV lists; returns the folder of the scores, and the scores."""
    from sepclip.evaluation.pair_table import evaluate_pairs

    folder = request.out_folder or table.parent
    document = evaluate_pairs(
        table,
        folder,
        request.plan,
        limit=request.limit,
        fixed_order=fixed_order,
        trim_seconds=trim,
        **request.options,
    )
    return folder, document


def _print(folder: Path, document: "ScoreDocument") -> None:
    """Print the scores as tables, and where they were written."""
    from sepclip.evaluation.terminal_tables import print_scores
    from sepclip.report.sparklines import score_lines

    print_scores(document)
    show_lines(score_lines(document))
    out.print(f"written: {folder / 'scores.json'}, scores.csv and scores.md", markup=False, soft_wrap=True)
