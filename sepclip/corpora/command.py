"""What the commands of all corpora share: the types of their options, and carrying a plan out."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.corpora.preflight import M, Plan
from sepclip.errors import EXIT_USER_ERROR
from sepclip.terminal import out as stdout
from sepclip.terminal import print_json

Out = Annotated[Path, typer.Argument(help="New folder for the mixture set.", show_default=False)]
Check = Annotated[
    bool,
    typer.Option("--check", help="Only list what is missing or wrong and the disk space needed; write nothing."),
]
Jobs = Annotated[
    int | None,
    typer.Option(help="Files worked on at once; the result is the same for any number [cores].", min=1),
]
Task = Annotated[
    str,
    typer.Option(
        help="sep_clean: mix_clean into s1, s2, ... sep_noisy: mix_both into s1, s2, ... enh_single: mix_single into "
        "s1. enh_both: mix_both into mix_clean."
    ),
]
Rates = Annotated[str, typer.Option(help="Sampling rate of the mixtures in Hz: 8000, 16000, or both with a comma.")]
Modes = Annotated[
    str,
    typer.Option(
        help="min: cut to the shortest source. max: fill up with silence. Or both with a comma. Several sets are made "
        "in one pass and lie in OUT/wav8k/min and so on."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of text.")]


def carry_out(plan: Plan[M], *, check: bool, as_json: bool) -> None:
    """Do what a plan has in mind, or with ``check`` only show its findings; the exit code is 1 where it cannot begin.

    Raises UserError with everything that is missing or wrong.
    """
    preflight = plan.preflight
    if check and not plan.already:
        if as_json:
            print_json(preflight.document())
        else:
            disk = f"disk: {preflight.needed_bytes / 1e9:.2f} GB needed, {preflight.free_bytes / 1e9:.2f} GB free"
            problems = preflight.lines()
            for line in [*preflight.facts, disk, *problems, *(() if problems else ("nothing stands in the way",))]:
                stdout.print(line, markup=False, soft_wrap=True)
        if not preflight.fine:
            raise typer.Exit(EXIT_USER_ERROR)
        return
    if not plan.already:
        preflight.require()
    made = plan.make()
    if as_json:
        print_json(made.document())
    else:
        stdout.print(made.told(), markup=False, soft_wrap=True)
