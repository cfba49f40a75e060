"""WHAM! and WHAMR!: made trees, read in place."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.corpora import Card, Corpus
from sepclip.corpora.command import Check, Jobs, Json, Out, Task

ROOMS = ("anechoic", "reverb")
CARD = Card(
    name="wham",
    what="WHAM! and WHAMR!: the mixtures of wsj0-2mix with noise of bars, restaurants and streets, and with echo; made "
    "by their scripts, read in place.",
    layout="ROOT[/wav8k/min]/{tr,cv,tt}/{mix_clean,mix_both,mix_single,s1,s2,noise}; in WHAMR! with _anechoic or "
    "_reverb behind all but noise",
    size="20000, 5000 and 3000 mixtures; a new folder holds the recipes alone",
    licence="noise: CC BY-NC 4.0; speech: that of WSJ0 (LDC user agreement)",
    source="noise and scripts: wham.whisper.ai; WSJ0: catalog.ldc.upenn.edu/LDC93S6A",
)


def prepare(
    root: Annotated[Path, typer.Argument(help="Folder of the made tree.", show_default=False)],
    out: Out,
    task: Task = "sep_clean",
    room: Annotated[
        str | None,
        typer.Option(help="Mixtures of WHAMR!: anechoic or reverb [none: WHAM!].", show_default=False),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Targets of WHAMR!: anechoic or reverb [anechoic].", show_default=False)
    ] = None,
    rate: Annotated[int, typer.Option(help="Sampling rate of the tree in Hz: 8000 or 16000.")] = 8000,
    mode: Annotated[str, typer.Option(help="Which tree: min (cut to the shortest source) or max.")] = "min",
    check: Check = False,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Write the recipes; the help of the command line tells the arguments."""
    from sepclip.corpora.command import carry_out
    from sepclip.corpora.existing_mixtures import (
        Hidden,
        MadeSettings,
        find_tree,
        folders_of,
        mixture_folders,
        plan_made,
        require_mixtures,
    )
    from sepclip.corpora.preflight import require_folder, require_one_of
    from sepclip.errors import UserError

    if target and not room:
        raise UserError("--target goes with --room, for WHAMR! alone")
    for option, given in (("--room", room), ("--target", target)):
        if given:
            require_one_of(option, given, ROOMS)
    require_folder(root, "the folder of WHAM!")
    mixture, targets = folders_of(task, 2)
    echo = target or ROOMS[0]
    hidden = Hidden("noise" if task != "sep_clean" else None)
    if room:
        if room != echo:
            hidden = Hidden(hidden.noise, tuple(f"{folder}_{room}" for folder in targets))
        mixture, targets = f"{mixture}_{room}", tuple(f"{folder}_{echo}" for folder in targets)
    settings = MadeSettings(mixture, targets, rate, mode, additive=task == "sep_clean" and (not room or room == echo))
    tree = find_tree(root, rate, mode)
    if tree is None:
        raise UserError(f"{root} holds no mixtures of {rate} Hz, {mode}. Expected: {CARD.layout}")
    hint = "; --room says which of WHAMR!" if any(name.endswith(ROOMS) for name in mixture_folders(tree)) else ""
    require_mixtures(tree, mixture, hint=hint)
    carry_out(plan_made(tree, out, settings, corpus=CARD.name, hidden=hidden, jobs=jobs), check=check, as_json=as_json)


CORPORA = (Corpus(CARD, prepare),)
