"""``sepclip train``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sepclip.commands.options import Json, NoiseRoot, RirsRoot, Root, table_keys
from sepclip.terminal import out, print_json, show_lines


def train(
    data: Annotated[Path, typer.Argument(help="Mixture set made by `sepclip prepare`.", show_default=False)],
    run: Annotated[Path, typer.Option(help="Folder of the run: made, or resumed.", show_default=False)],
    config: Annotated[
        str | None,
        typer.Option(
            help="A YAML file, or one that comes with sepclip: paper/mi, small, demo, ... (sepclip info) [base]."
        ),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help=f"What to minimise: {', '.join(table_keys('model/losses.py', 'LOSSES'))}.")
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            help="auto:P (the P-th percentile of all gradient norms so far; with ,window=N the last N; with ,per=layer "
            "or ,per=tensor a history each), norm:V, value:V, agc:V, zclip:Z, pascanu:M, logsigma:K or none."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto (cuda where there is one), cpu, cuda or cuda:N.")] = None,
    steps: Annotated[int | None, typer.Option(help="All steps of the run; overrides epochs.", min=1)] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training mixtures.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Excerpts of a step.", min=1)] = None,
    dynamic: Annotated[
        bool | None,
        typer.Option("--dynamic/--no-dynamic", help="Mix anew at every step from the recipes' sources."),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(help="A run whose best weights a new run begins with (fine-tuning).", show_default=False),
    ] = None,
    save_every: Annotated[
        str | None,
        typer.Option(metavar="N|Nmin|Ns", help="Steps or time between checkpoints, besides those at validations."),
    ] = None,
    keep: Annotated[int | None, typer.Option(help="Checkpoints to keep, besides the best.", min=1)] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="End after so many minutes of training in all.", show_default=False)
    ] = None,
    deterministic: Annotated[
        bool | None,
        typer.Option("--deterministic/--no-deterministic", help="The same bits each time on a GPU too; slower there."),
    ] = None,
    on_nonfinite: Annotated[
        str | None,
        typer.Option(metavar="skip|stop", help="What to do with a step whose loss or gradient is not finite."),
    ] = None,
    dynamics: Annotated[
        str | None,
        typer.Option(
            metavar="every=N", help="Record every N-th step for `sepclip dynamics`; the training stays the same."
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Tell where the time of a few steps goes, and write RUN/trace.json.gz.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, crops and dynamic mixtures.", min=0)] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of configs/base.yaml, such as model.layers=2."),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write scalars for TensorBoard into RUN/tensorboard.")
    ] = False,
    report: Annotated[bool, typer.Option(help="Write RUN/report.html at the end.")] = True,
    root: Root = None,
    noise_root: NoiseRoot = None,
    rirs_root: RirsRoot = None,
    as_json: Json = False,
) -> None:
    """Train a separator. The same command resumes it; Ctrl-C saves first, SIGUSR1 saves and goes on.

    Several GPUs: `torchrun --nproc-per-node N -m sepclip -- train ...`, with the same result.

    Writes RUN/metrics.jsonl (loss, validation SI-SDR improvement, gradient norm, threshold, share of clipped steps)
    and RUN/checkpoints/{last,best}; with --dynamics RUN/dynamics.jsonl; at the end RUN/report.html (`sepclip report`).
    """
    from sepclip.config.load import load_config
    from sepclip.mixing.mixture_set import MixtureSet
    from sepclip.training.distributed import joined
    from sepclip.training.dynamics import parse_dynamics
    from sepclip.training.loop import train as train_run
    from sepclip.training.run import Run
    from sepclip.training.tensorboard import FOLDER, require_tensorboard

    flags = {
        "loss.name": loss,
        "clip": clip,
        "device": device,
        "train.steps": steps,
        "train.epochs": epochs,
        "data.batch_size": batch_size,
        "data.dynamic": dynamic,
        "init_from": None if init_from is None else str(init_from),
        "train.save_every": save_every,
        "train.keep": keep,
        "train.max_minutes": max_minutes,
        "deterministic": deterministic,
        "train.on_nonfinite": on_nonfinite,
        "dynamics.every": None if dynamics is None else parse_dynamics(dynamics),
        "seed": seed,
    }
    if steps is not None and epochs is not None:
        raise typer.BadParameter("give --steps or --epochs, not both")
    # the steps of a recipe would override the epochs asked for
    own = ["train.steps=null"] if epochs is not None else []
    with joined() as ranks:
        resolved = load_config(config, [*(settings or ()), *own], flags)
        if tensorboard:
            require_tensorboard()
        mixtures = MixtureSet.open(data, root, noise=noise_root, rirs=rirs_root)
        opened = ranks.led(lambda: Run.start_or_resume(run, resolved, mixtures), lambda: Run.open(run))
        if tensorboard and ranks.first:
            (run / FOLDER).mkdir(exist_ok=True)  # what tells this training, and those that resume it, to write them
        summary = train_run(opened, mixtures, ranks, profile=profile)
    if ranks.first:
        _tell(run, summary, _report(run, wanted=report, already=summary["already"]), as_json)


def _tell(run: Path, summary: dict[str, Any], page: Path | None, as_json: bool) -> None:
    from sepclip.report.glance import training_lines

    if as_json:
        print_json({"run": str(run), "report": page and str(page), **summary})
        return
    best = summary["best_valid_si_sdr_improvement"]
    told = "no validation score" if best is None else f"{best:.2f} dB SI-SDR improvement"
    out.print(
        f"{run} {'was already' if summary['already'] else 'is'} trained: {summary['steps']} steps in "
        f"{summary['seconds']:.0f} s, best at step {summary['best_step']} ({told} on the validation excerpts), "
        f"{_clipping(summary)}",
        markup=False,
        soft_wrap=True,
    )
    show_lines(training_lines(run))
    if page:
        out.print(f"to look at and listen to: {page}", markup=False, soft_wrap=True)


def _report(run: Path, *, wanted: bool, already: bool) -> Path | None:
    """Write the page of a training that has just ended, or return the one that is there."""
    from sepclip.report.write_report import NAME, report_at_end

    if already and (run / NAME).is_file():
        return run / NAME
    return report_at_end(run) if wanted else None


def _clipping(summary: dict[str, Any]) -> str:
    """Say what the clip rule did over a whole training."""
    norm, threshold = summary["grad_norm"], summary["threshold"]
    told = f"--clip {summary['clip']} clipped {summary['clipped_share']:.0%} of the steps"
    if summary["skipped_steps"]:
        told += f" and skipped {summary['skipped_steps']}"
    if norm is not None:
        told += f" (norm {norm:.2g} at the end" + (f", threshold {threshold:.2g})" if threshold is not None else ")")
    if summary["clipped_share_of"]:
        parts = list(summary["clipped_share_of"].items())
        told += ": " + ", ".join(f"{part} {share:.0%}" for part, share in parts[:6]) + ", ..." * (len(parts) > 6)
    return told
