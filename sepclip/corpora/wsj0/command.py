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
        "lists as by the scripts of Hershey et al. (2016).",
        layout="ROOT/**/{si_tr_s,si_dt_05,si_et_05}/SPEAKER/UTTERANCE.{wv1,wav,flac}, as on the discs or converted, in "
        f"small letters or capitals; --lists DIR with mix_{speakers}_spk_{{tr,cv,tt}}.txt "
        f"(or WHAM!'s mix_{speakers}_spk_filenames_{{tr,cv,tt}}.csv). "
        f"Or a made tree, read in place: [{speakers}speakers/wav8k/min/]{{tr,cv,tt}}/{{mix,s1,s2,...}}",
        size=f"20000, 5000 and 3000 mixtures; {size}; --check says the disk space needed",
        licence="LDC user agreement, for a fee or to members",
        source="WSJ0: catalog.ldc.upenn.edu/LDC93S6A (or LDC93S6B); "
        "lists: www.merl.com/demos/deep-clustering/create-speaker-mixtures.zip",
    )


Root = Annotated[Path, typer.Argument(help="Folder that holds WSJ0, or a made tree of mixtures.", show_default=False)]
Lists = Annotated[
    Path | None,
    typer.Option(help="Folder of the official text lists, or of WHAM!'s CSV ones [ROOT].", show_default=False),
]
Levels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Active levels, UTTERANCE POWER a line, or a folder of such files. Others are measured.",
        show_default=False,
    ),
]


def _prepare(speakers: int) -> Callable[..., None]:
    """Return the command for mixtures of so many speakers."""

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
        from sepclip.corpora.command import carry_out
        from sepclip.corpora.existing_mixtures import MadeSettings, find_tree, plan_made
        from sepclip.corpora.preflight import places_of
        from sepclip.corpora.wsj0.plan import Wsj0Settings, plan_wsj0
        from sepclip.errors import UserError

        places = places_of(out, rate, mode)
        rate_hz, one = next(iter(places.values()))
        tree = find_tree(root, rate_hz, one, f"{speakers}speakers")
        if tree is not None:
            if len(places) > 1:
                raise UserError(f"{tree} holds made mixtures, which are read for one --rate and --mode at a time")
            if lists or active_levels:
                raise UserError(
                    f"{tree} holds made mixtures, which need no --lists and no --active-levels: leave them out"
                )
            targets = tuple(f"s{index + 1}" for index in range(speakers))
            made = plan_made(
                tree, out, MadeSettings("mix", targets, rate_hz, one), corpus=f"wsj0-{speakers}mix", jobs=jobs
            )
            carry_out(made, check=check, as_json=as_json)
            return
        plan = plan_wsj0(
            root,
            out,
            {place: Wsj0Settings(speakers, *which) for place, which in places.items()},
            corpus=f"wsj0-{speakers}mix",
            lists=lists,
            active_levels=active_levels,
            jobs=jobs,
        )
        carry_out(plan, check=check, as_json=as_json)

    return prepare


CORPORA = (
    Corpus(_card(2, "10539 utterances of 119 speakers"), _prepare(2)),
    Corpus(_card(3, "of 119 speakers"), _prepare(3)),
)
