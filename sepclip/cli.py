"""The command line: what all commands share, their order in the help, and the exit codes."""

import inspect
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import sepclip
from sepclip import startup
from sepclip.commands.compare import compare
from sepclip.commands.demo import demo
from sepclip.commands.dynamics import dynamics
from sepclip.commands.evaluate import DEFINITIONS, evaluate
from sepclip.commands.info import info
from sepclip.commands.models import models
from sepclip.commands.options import with_volume
from sepclip.commands.prepare import prepare_app
from sepclip.commands.report import report
from sepclip.commands.separate import separate
from sepclip.commands.sweep import sweep
from sepclip.commands.train import train
from sepclip.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USER_ERROR, Stopped, UserError, is_out_of_memory
from sepclip.terminal import print_error, say

OUT_OF_MEMORY = (
    "out of memory: close other programs or raise the limit, or need less with fewer --jobs (prepare, separate, eval), "
    "a lower data.batch_size or data.memory_gib (train, sweep), or --max-seconds (prepare)"
)


class _InOrderOfUse(TyperGroup):
    """Lists the commands in the order in which they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        order = ["demo", "prepare", "train", "separate", "models", "eval"]
        order += ["compare", "sweep", "dynamics", "report", "info"]
        return sorted(self.commands, key=order.index)


app = typer.Typer(
    name="sepclip",
    cls=_InOrderOfUse,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From a folder of voices to a trained, scored, listenable source separator, with AutoClip.\n\n"
    "The usual order: prepare mixtures, train on them, separate files, eval the result. "
    "`sepclip demo` does all of this with the voices in the repository.",
    epilog="Exit codes: 0 success, 1 wrong data or settings, 2 wrong usage, 130 interrupted, 143 terminated.",
)
app.add_typer(prepare_app, name="prepare")


def _add(command: Callable[..., None], name: str | None = None, epilog: str | None = None) -> None:
    """Add a command. The list of commands shows the first paragraph of its help in full, however long it is."""
    summary = (inspect.getdoc(command) or "").split("\n\n")[0].replace("\n", " ")
    app.command(name, epilog=epilog, short_help=summary)(command)


_add(with_volume(train))
_add(with_volume(separate))
_add(models)
_add(with_volume(evaluate), "eval", DEFINITIONS)
_add(compare)
_add(with_volume(sweep))
_add(dynamics)
_add(report)
_add(with_volume(demo))
_add(info)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"sepclip {sepclip.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with one of the documented exit codes."""
    # SIGTERM unwinds a command as Ctrl-C does, so that it cleans up; training installs its own handlers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    startup.spin_briefly()
    if {"demo", "prepare"} & set((arguments or sys.argv[1:])[:1]):  # for training, the configuration decides
        startup.keep_memory()
    sys.exit(_exit_code(lambda: app(arguments, standalone_mode=True)))


def _exit_code(run: Callable[[], object]) -> int:
    """Call ``run``, print the error of a user or of the system on stderr, and return the exit code."""
    try:
        run()
    except UserError as error:
        print_error(error)
        return EXIT_USER_ERROR
    except Stopped as stop:
        say(str(stop))
        return stop.exit_code
    except SystemExit as request:
        if request.code == EXIT_INTERRUPTED:  # typer turns Ctrl-C into this
            say("interrupted: no file is half-written; run the same command again to continue")
        raise
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads stdout any more, so do not print an error either
        return EXIT_USER_ERROR
    except (MemoryError, RuntimeError, ImportError) as error:
        if str(error).startswith("Symlink loop"):  # pathlib before Python 3.13 has no class for it
            print_error(UserError(f"{str(error).removeprefix('Symlink loop from ')}: a loop of symbolic links"))
            return EXIT_USER_ERROR
        if not is_out_of_memory(error):
            raise
        print_error(UserError(OUT_OF_MEMORY))
        return EXIT_USER_ERROR
    except OSError as error:  # such as a folder without permission to enter
        print_error(UserError(OUT_OF_MEMORY) if is_out_of_memory(error) else error)
        return EXIT_USER_ERROR
    return 0
