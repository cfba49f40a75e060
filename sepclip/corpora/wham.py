"""WHAM! and WHAMR!: trees of mixtures made by their scripts, read in place."""

from pathlib import Path
from typing import Annotated

import typer

from sepclip.corpora import Card, Corpus
from sepclip.corpora.command import Check, Jobs, Json, Out, Task

ROOMS = ("anechoic", "reverb")
CARD = Card(
    name="wham",
    what="WHAM! and WHAMR!: the mixtures of wsj0-2mix with noise of bars, restaurants and streets, and with echo. Make "
    "the tree with their scripts; it is read in place.",
    layout="ROOT[/wav8k/min]/{tr,cv,tt}/{mix_clean,mix_both,mix_single,s1,s2,noise}; in WHAMR! with _anechoic or "
    "_reverb after all names but noise",
    size="20000, 5000 and 3000 mixtures; the new folder contains only recipes",
    licence="noise: CC BY-NC 4.0; speech: that of WSJ0 (LDC user agreement)",
    source="noise and scripts: wham.whisper.ai; WSJ0: catalog.ldc.upenn.edu/LDC93S6A",
)


def prepare(
    root: Annotated[Path, typer.Argument(help="Folder of the tree of mixtures.", show_default=False)],
    out: Out,
    task: Task = "sep_clean",
    room: Annotated[
        str | None,
        typer.Option(help="Use the mixtures of WHAMR!: anechoic or reverb [none: WHAM!].", show_default=False),
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
    """Write the recipes; the types of the arguments describe them."""
    from sepclip.corpora import existing_mixtures as trees
    from sepclip.corpora.command import carry_out
    from sepclip.corpora.preflight import require_folder, require_one_of
    from sepclip.errors import UserError

    if target and not room:
        raise UserError("--target goes with --room, and both are only for WHAMR!")
    echo, clean = target or ROOMS[0], task == "sep_clean"
    require_one_of("--room", room or ROOMS[0], ROOMS)
    require_one_of("--target", echo, ROOMS)
    require_folder(root, "the folder of WHAM!")
    mixture, targets = trees.task_folders(task, 2)
    extra = trees.ExtraFolders(None if clean else "noise")
    if room:
        if room != echo:
            extra = trees.ExtraFolders(extra.noise, tuple(f"{folder}_{room}" for folder in targets))
        mixture, targets = f"{mixture}_{room}", tuple(f"{folder}_{echo}" for folder in targets)
    settings = trees.TreeSettings(mixture, targets, rate, mode, additive=clean and (room or echo) == echo)
    tree = trees.find_tree(root, rate, mode)
    if tree is None:
        raise UserError(f"{root} contains no mixtures of {rate} Hz, {mode}. Expected: {CARD.layout}")
    is_whamr = any(name.endswith(ROOMS) for name in trees.mixture_folders(tree))
    trees.require_mixtures(tree, mixture, hint="; --room selects those of WHAMR!" if is_whamr else "")
    plan = trees.plan_tree(tree, out, settings, corpus=CARD.name, extra=extra, jobs=jobs)
    carry_out(plan, check=check, as_json=as_json)


CORPORA = (Corpus(CARD, prepare),)
