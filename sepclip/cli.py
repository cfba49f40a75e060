"""The command line: every command a thin layer over a function of the same meaning.

Heavy imports stay inside the commands, so that ``--help`` is instant.
"""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import sepclip
from sepclip import startup
from sepclip.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USER_ERROR, Stopped, UserError, counted
from sepclip.mixing.corpora import corpora
from sepclip.terminal import notes, out, print_json, say, say_some


class _InOrderOfUse(TyperGroup):
    """Lists the commands as they are used one after the other."""

    def list_commands(self, ctx: Any) -> list[str]:
        order = ["demo", "prepare", "train", "separate", "eval", "info"]
        return sorted(self.commands, key=order.index)


app = typer.Typer(
    name="sepclip",
    cls=_InOrderOfUse,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From a folder of voices to a trained, scored, listenable source separator, with AutoClip.\n\n"
    "The usual way: prepare mixtures, train on them, separate files, eval the result. "
    "`sepclip demo` does all of it on the voices of the repository.",
    epilog="Exit codes: 0 fine, 1 the data or settings are wrong, 2 wrong usage, 130 interrupted, 143 terminated.",
)
prepare_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make mixtures for training and testing from a corpus.\n\n"
    "Writes recipes (tr.jsonl, cv.jsonl, tt.jsonl) and the audio in the layout of wsj0-2mix. An interrupted "
    "preparation goes on with the same command.",
)
app.add_typer(prepare_app, name="prepare")
for _name, _corpus in corpora().items():
    prepare_app.command(_name, help=_corpus.CARD.text())(_corpus.prepare)

_SHOWN = 10  # separated files that are listed one by one
Device = Annotated[str, typer.Option(help="auto (cuda where there is one), cpu, cuda or cuda:N.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of text.")]
Root = Annotated[
    Path | None, typer.Option(help="Where the corpus of DATA lies now, if it has moved.", show_default=False)
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sepclip {sepclip.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Mixture set made by `sepclip prepare`.", show_default=False)],
    run: Annotated[Path, typer.Option(help="Folder of the run: made, or resumed.", show_default=False)],
    config: Annotated[
        str | None,
        typer.Option(help="A YAML file, or one that comes with sepclip: paper-mi, paper-dc, small, demo."),
    ] = None,
    loss: Annotated[str | None, typer.Option(help="mi (mask inference) or dc (deep clustering).")] = None,
    clip: Annotated[
        str | None,
        typer.Option(help="none, norm:V, or auto:P: the P-th percentile of all gradient norms so far."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto (cuda where there is one), cpu, cuda or cuda:N.")] = None,
    steps: Annotated[int | None, typer.Option(help="All steps of the run; overrides epochs.", min=1)] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training mixtures.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Excerpts of a step.", min=1)] = None,
    dynamic: Annotated[
        bool | None,
        typer.Option("--dynamic/--no-dynamic", help="Mix anew at every step from the recipes' sources."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, crops and dynamic mixtures.", min=0)] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of configs/base.yaml, such as model.layers=2."),
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Train a separator. The same command resumes it; Ctrl-C saves first.

    Writes RUN/metrics.jsonl (loss, validation SI-SDR improvement, gradient norm, threshold, share of clipped steps)
    and RUN/checkpoints/{last,best}.
    """
    from sepclip.config import load_config
    from sepclip.mixing.mixture import MixtureSet
    from sepclip.training.loop import train as train_run
    from sepclip.training.run import Run

    flags = {
        "loss.name": loss,
        "clip": clip,
        "device": device,
        "train.steps": steps,
        "train.epochs": epochs,
        "data.batch_size": batch_size,
        "data.dynamic": dynamic,
        "seed": seed,
    }
    if steps is not None and epochs is not None:
        raise typer.BadParameter("give --steps or --epochs, not both")
    # the steps of a recipe would override the epochs asked for
    own = ["train.steps=null"] if epochs is not None else []
    resolved = load_config(config, [*(settings or ()), *own], flags)
    mixtures = MixtureSet.open(data, root)
    opened = Run.start_or_resume(run, resolved, mixtures)
    summary = train_run(opened, mixtures)
    if as_json:
        print_json({"run": str(run), **summary})
        return
    best = summary["best_valid_si_sdr_improvement"]
    told = "no validation score" if best is None else f"{best:.2f} dB SI-SDR improvement"
    out.print(
        f"{run} {'was already' if summary['already'] else 'is'} trained: {summary['steps']} steps in "
        f"{summary['seconds']:.0f} s, best at step {summary['best_step']} ({told} on the validation excerpts), "
        f"--clip {summary['clip']} clipped {summary['clipped_share']:.0%} of the steps",
        markup=False,
        soft_wrap=True,
    )


@app.command()
def separate(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.", show_default=False)],
    files: Annotated[list[Path], typer.Argument(help="Sound files, or folders of them.", show_default=False)],
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder for NAME_s1.wav, NAME_s2.wav, ...", show_default=False)
    ],
    overwrite: Annotated[bool, typer.Option(help="Make anew what is already there.")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Separate sound files of any format, rate and channel count.

    The results keep the rate, length, channels and level of their file. A file that cannot be used is named and the
    others go on; the exit code is 1 then.
    """
    from sepclip.separation import separate_files
    from sepclip.training.run import Run, resolve_device

    where = resolve_device(device)
    opened = Run.open(run)
    result = separate_files(
        opened.separator(where), files, out_folder, device=where, made_after=opened.trained_at(), overwrite=overwrite
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


@app.command(name="eval")
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

    if run is not None and data is not None and estimates is None and references is None:
        from sepclip.mixing.mixture import MixtureSet
        from sepclip.training.run import Run, resolve_device

        if mixtures is not None:
            raise typer.BadParameter("--mixtures goes with --estimates and --references")
        where, split = resolve_device(device or "auto"), split or "tt"
        separator = Run.open(run).separator(where)
        items, total = evaluation.set_items(separator, MixtureSet.open(data, root), split, device=where, limit=limit)
        stft = separator.stft
        first = f"-first{limit}" if limit else ""
        folder = out_folder or run / "eval" / f"{data.resolve().name}-{split}{first}"
        about = {"run": str(run), "data": str(data), "split": split, "limit": limit}
    elif estimates is not None and references is not None and run is None and data is None:
        if split or device or root:
            raise typer.BadParameter("--split, --device and --root go with RUN and DATA")
        items, total = evaluation.folder_items(estimates, references, mixtures, limit)
        stft = None
        folder = out_folder or estimates
        about = {"estimates": str(estimates), "references": str(references), "limit": limit}
    else:
        raise typer.BadParameter("give either RUN and DATA, or --estimates and --references")
    result = evaluation.document(scoring.score(items, total, stft=stft, jobs=jobs), about)
    evaluation.write_scores(folder, result)
    if as_json:
        print_json(result)
    else:
        evaluation.show(result)
        out.print(f"written: {folder / 'scores.json'} and scores.csv", markup=False, soft_wrap=True)
    if not any(row["status"] != "excluded" for row in result["rows"]):
        raise UserError(f"no file could be scored: {result['rows'][0]['reason']}")


@app.command()
def demo(
    data: Annotated[Path, typer.Option(help="Folder of the demo voices.")] = Path("data/speech"),
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for all that the demo makes.")] = Path("demo"),
    as_json: Json = False,
) -> None:
    """Do all of it on the repository's voices, on a CPU, in minutes.

    Mixes six voices, trains a small network with --clip auto:10, separates test mixtures, scores them and says what
    to listen to. Goes on where it was interrupted.
    """
    from sepclip.demo import demo as run_demo
    from sepclip.evaluation import show

    done = run_demo(data, out_folder)
    if as_json:
        print_json({"seconds": done.seconds, "listen": [str(path) for path in done.listen], **done.result})
        return
    show(done.result)
    for line in done.words():
        out.print(line, markup=False, soft_wrap=True)


@app.command()
def info(as_json: Json = False) -> None:
    """Show versions, devices and what works here."""
    from sepclip.information import gather, lines

    facts = gather()
    if as_json:
        print_json(facts)
        return
    for line in lines(facts):
        out.print(line, markup=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every way out is an exit code."""
    # a terminated command leaves by the same ways as an interrupted one; training has handlers of its own
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    startup.spin_briefly()
    if {"train", "demo"} & set((arguments or sys.argv[1:])[:1]):
        startup.keep_memory()
    sys.exit(_guarded(lambda: app(arguments, standalone_mode=True)))


def _guarded(run: Callable[[], object]) -> int:
    try:
        run()
    except UserError as error:
        return _fail(str(error))
    except Stopped as stop:
        say(str(stop))
        return stop.exit_code
    except SystemExit as leaving:
        if leaving.code == EXIT_INTERRUPTED:  # the command line library turns Ctrl-C into this
            say("interrupted: nothing is half-written, the same command can be given again")
        raise
    except BrokenPipeError:
        sys.stderr.close()  # the reader of stdout has left: nothing to tell anyone
        return EXIT_USER_ERROR
    except OSError as error:  # such as a folder that may not be entered
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}")
    return 0


def _fail(message: str) -> int:
    notes.print(f"error: {message}", markup=False, soft_wrap=True, style="red")
    return EXIT_USER_ERROR
