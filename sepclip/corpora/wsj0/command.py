"""wsj0-2mix and wsj0-3mix, from WSJ0 and the official lists."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from sepclip.corpora import Card, Corpus
from sepclip.corpora.command import Check, Jobs, Json, Modes, Out, Rates


def _card(speakers: int, size: str) -> Card:
    return Card(
        name=f"wsj0-{speakers}mix",
        what=f"The official mixtures of {speakers} speakers reading the Wall Street Journal, made from WSJ0 and the "
        "lists as the scripts of Hershey et al. (2016) do.",
        layout="ROOT/**/{si_tr_s,si_dt_05,si_et_05}/SPEAKER/UTTERANCE.{wv1,wav,flac}, as on the discs or converted, in "
        f"lower or upper case; --lists DIR with mix_{speakers}_spk_{{tr,cv,tt}}.txt "
        f"(or WHAM!'s mix_{speakers}_spk_filenames_{{tr,cv,tt}}.csv). "
        f"Or a tree of mixtures, read in place: [{speakers}speakers/wav8k/min/]{{tr,cv,tt}}/{{mix,s1,s2,...}}",
        size=f"20000, 5000 and 3000 mixtures; {size}; --check prints the disk space needed",
        licence="LDC user agreement, for a fee or to members",
        source="WSJ0: catalog.ldc.upenn.edu/LDC93S6A (or LDC93S6B); "
        "lists: www.merl.com/demos/deep-clustering/create-speaker-mixtures.zip",
    )


Root = Annotated[Path, typer.Argument(help="Folder of WSJ0, or a tree of mixtures.", show_default=False)]
Lists = Annotated[
    Path | None,
    typer.Option(help="Folder of the official text lists, or of WHAM!'s CSV lists [ROOT].", show_default=False),
]
Levels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File of active levels, UTTERANCE POWER a line, or a folder of such files. Levels not in it are measured.",
        show_default=False,
    ),
]


def _prepare(speakers: int) -> Callable[..., None]:
    """Return the command for mixtures of ``speakers`` speakers."""

    def prepare(
        root: Root,
        out: Out,
        lists: Lists = None,
        rate: Rates = "8000",
        mode: Modes = "min",
        active_levels: Levels = None,
        check: Check = False,
        jobs: Jobs = None,
        as_json: Json = False,
    ) -> None:
        from sepclip.audio.layout import part_names
        from sepclip.corpora.command import carry_out
        from sepclip.corpora.existing_mixtures import WSJ0, TreeSettings, find_only_tree, plan_tree
        from sepclip.corpora.preflight import set_folders
        from sepclip.corpora.wsj0.plan import Wsj0Settings, plan_wsj0

        corpus, sets = f"wsj0-{speakers}mix", set_folders(out, rate, mode)
        options = {"--lists": lists, "--active-levels": active_levels}
        tree = find_only_tree(root, sets, f"{speakers}speakers", WSJ0, options)
        if tree:
            settings = TreeSettings("mix", tuple(part_names(speakers)), *sets[out])
            plan = plan_tree(tree, out, settings, corpus=corpus, jobs=jobs)
        else:
            settings_of = {folder: Wsj0Settings(speakers, *sets[folder]) for folder in sets}
            plan = plan_wsj0(root, out, settings_of, corpus=corpus, lists=lists, active_levels=active_levels, jobs=jobs)
        carry_out(plan, check=check, as_json=as_json)

    return prepare


CORPORA = (
    Corpus(_card(2, "10539 utterances of 119 speakers"), _prepare(2)),
    Corpus(_card(3, "of 119 speakers"), _prepare(3)),
)
