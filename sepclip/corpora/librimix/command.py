"""Libri2Mix and Libri3Mix, from LibriSpeech, WHAM!'s noise and the authors' tables, or from trees of mixtures."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from sepclip.corpora import Card, Corpus
from sepclip.corpora.command import Check, Jobs, Json, Modes, Out, Rates, Task

NAMES = {2: "librimix", 3: "libri3mix"}


def _card(speakers: int, size: str) -> Card:
    tree = f"Libri{speakers}Mix"
    return Card(
        name=NAMES[speakers],
        what=f"{tree}: mixtures of {speakers} speakers of LibriSpeech, clean or with the noise of WHAM!, made from "
        "the tables of gains of Cosentino et al. (2020) as their scripts do.",
        layout="ROOT[/LibriSpeech]/{train-clean-360,dev-clean,test-clean}/SPEAKER/CHAPTER/*.flac; for noise --noise "
        f"DIR with {{tr,cv,tt}}/*.wav; --metadata DIR with {tree.lower()}_{{train-clean-360,dev-clean,...}}.csv. "
        f"Or a tree of mixtures, read in place: [{tree}/wav8k/min/]{{train-360,dev,test}}/{{mix_clean,mix_both,...}}",
        size=size,
        licence="CC BY 4.0; with noise CC BY-NC 4.0",
        source="LibriSpeech: openslr.org/12; noise: wham.whisper.ai; tables: github.com/JorisCos/LibriMix",
    )


Root = Annotated[Path, typer.Argument(help="Folder of LibriSpeech, or a tree of mixtures.", show_default=False)]
Metadata = Annotated[
    Path | None, typer.Option(help="Folder of LibriMix's tables of mixtures [ROOT].", show_default=False)
]
Noise = Annotated[
    Path | None, typer.Option(help="Folder of WHAM!'s noise, for noisy tasks [ROOT/wham_noise].", show_default=False)
]
Train = Annotated[str, typer.Option(help="Training mixtures: train-100, train-360, or both with a comma.")]


def _prepare(speakers: int) -> Callable[..., None]:
    """Return the command for mixtures of ``speakers`` speakers."""

    def prepare(
        root: Root,
        out: Out,
        metadata: Metadata = None,
        noise: Noise = None,
        task: Task = "sep_clean",
        train: Train = "train-360",
        rate: Rates = "8000",
        mode: Modes = "min",
        check: Check = False,
        jobs: Jobs = None,
        as_json: Json = False,
    ) -> None:
        from sepclip.corpora import existing_mixtures as trees
        from sepclip.corpora.command import carry_out
        from sepclip.corpora.librimix.lists import naming_of, subsets_of
        from sepclip.corpora.librimix.plan import LibriSettings, plan_librimix
        from sepclip.corpora.preflight import set_folders

        corpus, sets, naming = NAMES[speakers], set_folders(out, rate, mode), naming_of(speakers, subsets_of(train))
        mixture, targets = trees.task_folders(task, speakers)
        options = {"--metadata": metadata, "--noise": noise}
        tree = trees.find_only_tree(root, sets, f"Libri{speakers}Mix", naming, options)
        if tree:
            trees.require_mixtures(tree, mixture, naming)
            noisy = task != "sep_clean"
            settings = trees.TreeSettings(mixture, targets, *sets[out], additive=not noisy)
            extra = trees.ExtraFolders("noise" if noisy else None)
            plan = trees.plan_tree(tree, out, settings, corpus=corpus, naming=naming, extra=extra, jobs=jobs)
        else:
            settings_of = {folder: LibriSettings(speakers, task, train, *sets[folder]) for folder in sets}
            plan = plan_librimix(root, out, settings_of, corpus=corpus, metadata=metadata, noise=noise, jobs=jobs)
        carry_out(plan, check=check, as_json=as_json)

    return prepare


CORPORA = (
    Corpus(_card(2, "train-100: 13900, train-360: 50800, dev and test: 3000 mixtures each"), _prepare(2)),
    Corpus(_card(3, "train-100: 9300, train-360: 33900, dev and test: 3000 mixtures each"), _prepare(3)),
)
