"""``sepclip train``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sepclip.commands.options import Json, NoiseRoot, RirsRoot, Root, class_texts, table_keys
from sepclip.terminal import out, print_json, show_lines

# The flags that set one key of the configuration, by the name of their parameter. Help, configuration and error
# messages all take the key from here.
FLAG_KEYS = {
    "loss": "loss.name",
    "clip": "clip",
    "device": "device",
    "steps": "train.steps",
    "epochs": "train.epochs",
    "batch_size": "data.batch_size",
    "dynamic": "data.dynamic",
    "init_from": "init_from",
    "save_every": "train.save_every",
    "keep": "train.keep",
    "max_minutes": "train.max_minutes",
    "deterministic": "deterministic",
    "on_nonfinite": "train.on_nonfinite",
    "dynamics": "dynamics.every",
    "seed": "seed",
}


def _help(flag: str, text: str) -> str:
    """Return the help of a flag: ``text`` and the key that the flag sets."""
    return f"{text} Key: {FLAG_KEYS[flag]}."


def train(
    run_folder: Annotated[
        Path, typer.Option("--run", help="Folder of the run. Created, or resumed if it exists.", show_default=False)
    ],
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Mixture set written by `sepclip prepare`. Without it, RUN resumes on its own data and, unless you "
            "give --config, with its own configuration.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="A YAML file, or the name of a configuration that comes with sepclip: paper/mi, small, demo, ... "
            "(`sepclip info` lists them) [base]."
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(help=_help("loss", f"Loss to minimise: {', '.join(table_keys('model/losses.py', 'LOSSES'))}.")),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            help=_help(
                "clip",
                f"Clipping rule: {'; '.join(class_texts('clip.py', 'grammar'))}. The threshold of auto:P is the P-th "
                "percentile of all gradient norms so far; with window=N of the last N only; with per=layer or "
                "per=tensor, each has a history of its own.",
            )
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help=_help("device", "auto (cuda if available, otherwise cpu), cpu, cuda or cuda:N."))
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help=_help(
                "steps", "Total number of steps of the run; overrides epochs. More lengthen a run, fewer end it."
            ),
            min=1,
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help=_help("epochs", "Number of passes over the training mixtures."), min=1)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help=_help("batch_size", "Number of excerpts per step."), min=1)
    ] = None,
    dynamic: Annotated[
        bool | None,
        typer.Option(
            "--dynamic/--no-dynamic",
            help=_help("dynamic", "Create new mixtures at every step from the sources of the recipes."),
        ),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            help=_help("init_from", "Run or model whose best weights initialise a new run (fine-tuning)."),
            show_default=False,
        ),
    ] = None,
    save_every: Annotated[
        str | None,
        typer.Option(
            metavar="N|Nmin|Ns",
            help=_help("save_every", "Steps or time between checkpoints, in addition to those at validations."),
        ),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(help=_help("keep", "Number of checkpoints to keep, in addition to the best."), min=1)
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            help=_help("max_minutes", "Stop after this many minutes of training, counted over the whole run."),
            show_default=False,
        ),
    ] = None,
    deterministic: Annotated[
        bool | None,
        typer.Option(
            "--deterministic/--no-deterministic",
            help=_help("deterministic", "Use only operations with bit-identical results (slower on a GPU)."),
        ),
    ] = None,
    on_nonfinite: Annotated[
        str | None,
        typer.Option(
            metavar="skip|stop",
            help=_help("on_nonfinite", "What to do if the loss or the gradient of a step is not finite."),
        ),
    ] = None,
    dynamics: Annotated[
        str | None,
        typer.Option(
            metavar="every=N",
            help=_help("dynamics", "Record every N-th step for `sepclip dynamics`; the training result is the same."),
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show how the time of a few steps is spent, and write RUN/trace.json.gz.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help=_help("seed", "Seed of weights, crops and dynamic mixtures."), min=0)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set any key of configs/base.yaml, such as model.layers=2."),
    ] = None,
    fresh_clip: Annotated[
        bool,
        typer.Option(
            "--fresh-clip", help="Resume with an empty history of the clipping rule, which may be another one."
        ),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write scalars for TensorBoard to RUN/tensorboard.")
    ] = False,
    report: Annotated[bool, typer.Option(help="Write RUN/report.html at the end of the training.")] = True,
    root: Root = None,
    noise_root: NoiseRoot = None,
    rirs_root: RirsRoot = None,
    as_json: Json = False,
) -> None:
    """Train a separator. The same command, or --run RUN alone, resumes it; Ctrl-C saves and stops, SIGUSR1 saves.

    With more steps or epochs a run is lengthened: it continues as if it had been longer from the start, except with the
    schedule `cosine`.

    Several GPUs: `torchrun --nproc-per-node N -m sepclip -- train ...` gives the same result.

    Writes RUN/metrics.jsonl (loss, validation SI-SDR improvement, gradient norm, threshold, share of clipped steps)
    and RUN/checkpoints/{last,best}; with --dynamics also RUN/dynamics.jsonl; at the end RUN/report.html, as by
    `sepclip report`.
    """
    arguments = dict(locals())  # first of all, so that these are the parameters and nothing else

    from sepclip.config.load import load_config
    from sepclip.mixing.mixture_set import MixtureSet
    from sepclip.training.distributed import joined
    from sepclip.training.loop import train as train_run
    from sepclip.training.run import Run
    from sepclip.training.tensorboard import FOLDER, require_tensorboard

    if steps is not None and epochs is not None:
        raise typer.BadParameter("give --steps or --epochs, not both")
    flags = {key: _config_value(flag, arguments[flag]) for flag, key in FLAG_KEYS.items()}
    flag_names = {key: f"--{flag.replace('_', '-')}" for flag, key in FLAG_KEYS.items()}
    with joined() as ranks:
        before = None if data else Run.open(run_folder)
        changes = [(str(run_folder), before.config.model_dump())] if before and config is None else []
        resolved = load_config(config, settings or (), flags, changes=changes, flag_names=flag_names)
        if tensorboard:
            require_tensorboard()
        places = {"root": root, "noise": noise_root, "rirs": rirs_root}
        mixtures = MixtureSet.open(data, **places) if data else Run.open(run_folder).open_data(**places)
        run = ranks.first_then_others(
            lambda: Run.start_or_resume(run_folder, resolved, mixtures, fresh_clip=fresh_clip),
            lambda: Run.open(run_folder),
        )
        if tensorboard and ranks.first:
            (run_folder / FOLDER).mkdir(exist_ok=True)  # this training writes the scalars if the folder exists
        summary = train_run(run, mixtures, ranks, profile=profile, fresh_clip=fresh_clip)
    if ranks.first:
        page = _write_report(run_folder, wanted=report, already_trained=summary["already"])
        _print_summary(run_folder, summary, page, as_json)


def _config_value(flag: str, value: Any) -> Any:
    """Convert a flag's value to the type of its configuration key; None if the flag was not given.

    Raises UserError if ``--dynamics`` is not written as every=N.
    """
    from sepclip.training.dynamics import parse_dynamics

    if value is not None and flag == "dynamics":
        return parse_dynamics(value)
    return str(value) if isinstance(value, Path) else value


def _print_summary(run_folder: Path, summary: Mapping[str, Any], page: Path | None, as_json: bool) -> None:
    """Print the result of a training: a line, bars of the curves on a terminal, and where the report is."""
    from sepclip.report.sparklines import training_lines

    if as_json:
        print_json({"run": str(run_folder), "report": page and str(page), **summary})
        return
    best = summary["best_valid_si_sdr_improvement"]
    score = "no validation score" if best is None else f"{best:.2f} dB SI-SDR improvement"
    out.print(
        f"{run_folder} {'was already' if summary['already'] else 'is'} trained: {summary['steps']} steps "
        f"in {summary['seconds']:.0f} s{_end(summary['ended'])}, best at step {summary['best_step']} "
        f"({score} on the validation excerpts), {_clipping(summary)}",
        markup=False,
        soft_wrap=True,
    )
    show_lines(training_lines(run_folder))
    if page:
        out.print(f"report (figures, audio): {page}", markup=False, soft_wrap=True)


def _end(reason: str) -> str:
    """Return why a training ended before its last step; an empty text if it did not."""
    texts = {
        "early stopping": ", ended by early stopping (train.early_stopping validations without an improvement)",
        "time": ", ended by train.max_minutes",
    }
    return texts.get(reason, "")


def _write_report(run_folder: Path, *, wanted: bool, already_trained: bool) -> Path | None:
    """Write the page of a training that has just ended, or return that of a run that had already finished."""
    from sepclip.report.write_report import NAME, report_at_end

    if already_trained and (run_folder / NAME).is_file():
        return run_folder / NAME
    return report_at_end(run_folder) if wanted else None


def _clipping(summary: Mapping[str, Any]) -> str:
    """Describe what the clip rule did over a whole training."""
    norm, threshold = summary["grad_norm"], summary["threshold"]
    text = f"--clip {summary['clip']} clipped {summary['clipped_share']:.0%} of the steps"
    if summary["skipped_steps"]:
        text += f" and skipped {summary['skipped_steps']}"
    if norm is not None:
        text += f" (norm {norm:.2g} at the end" + (f", threshold {threshold:.2g})" if threshold is not None else ")")
    if summary["clipped_share_of"]:
        parts = list(summary["clipped_share_of"].items())
        text += ": " + ", ".join(f"{part} {share:.0%}" for part, share in parts[:6]) + ", ..." * (len(parts) > 6)
    return text
