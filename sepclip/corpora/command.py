"""What the commands of all corpora share: the types of their options, and carrying out a plan."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepclip.errors import EXIT_USER_ERROR
from sepclip.terminal import out as stdout
from sepclip.terminal import print_json, warn

if TYPE_CHECKING:
    from sepclip.corpora.write_set import Plan

Out = Annotated[Path, typer.Argument(help="New folder for the mixture set.", show_default=False)]
Check = Annotated[
    bool,
    typer.Option("--check", help="Only list what is missing or wrong and the disk space needed; write nothing."),
]
Jobs = Annotated[
    int | None,
    typer.Option(help="Process this many files at once; the result does not depend on the number [cores].", min=1),
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
        help="min: cut to the shortest source. max: fill with silence. Or both with a comma. Several sets are made in "
        "one pass and go to OUT/wav8k/min and so on."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of text.")]


def carry_out(plan: "Plan", *, check: bool, as_json: bool) -> None:
    """Prepare the sets of a plan, or with ``check`` only print its findings; exit with 1 if it cannot begin.

    Raise UserError with everything that is missing or wrong.
    """
    if check and plan.write:
        preflight = plan.preflight
        if as_json:
            print_json(preflight.document())
        else:
            disk = f"disk: {preflight.needed_bytes / 1e9:.2f} GB needed, {preflight.free_bytes / 1e9:.2f} GB free"
            for line in [*preflight.facts, *preflight.warnings, disk, *(preflight.lines() or ["no problems found"])]:
                stdout.print(line, markup=False, soft_wrap=True)
        if not preflight.is_ready:
            raise typer.Exit(EXIT_USER_ERROR)
        return
    for warning in plan.preflight.warnings:
        warn(warning)
    prepared = plan.prepare()
    if as_json:
        documents = [item.document() for item in prepared]
        print_json(documents[0] if len(documents) == 1 else {"sets": documents})
        return
    for item in prepared:
        stdout.print(item.summary(), markup=False, soft_wrap=True)
