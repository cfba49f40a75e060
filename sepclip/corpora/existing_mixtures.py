"""Corpora that come as mixtures: trees of wsj0-2mix, WHAM!, WHAMR! and LibriMix, whose waves are read in place."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sepclip.audio.layout import Layout, part_names
from sepclip.corpora.preflight import MODES, RATES_HZ, Preflight, count_samples, require_one_of
from sepclip.corpora.write_set import Plan, PlannedSet, find_finished, write_sets
from sepclip.corpora.wsj0.lists import GROUPS, MIXTURES
from sepclip.errors import UserError, counted
from sepclip.mixing.levels import PEAK, LevelLaw
from sepclip.mixing.mixture_set import SetReport
from sepclip.mixing.recipe import SPLITS, Recipe, Source
from sepclip.parallel import in_threads

TASKS = ("sep_clean", "sep_noisy", "enh_single", "enh_both")  # of WHAM! and LibriMix
_REPAIR = "make the tree again with the scripts of the corpus, or copy it again"
_UTTERANCE_AND_LEVEL = re.compile(r"([A-Za-z0-9-]{4,40})_(-?[0-9.e-]+)(?:_|$)")


@dataclass(frozen=True)
class TreeSettings:
    """The folders of a tree with the mixtures and the sources, and the rate and mode of its files."""

    mixture: str  # folder, such as "mix" or "mix_both"
    targets: tuple[str, ...]  # folders, such as "s1", "s2"
    rate_hz: int = 8000
    mode: str = "min"
    additive: bool = True  # the mixture is the sum of the targets

    def __post_init__(self) -> None:
        """Raise UserError if a setting is not allowed."""
        require_one_of("--rate", self.rate_hz, RATES_HZ)
        require_one_of("--mode", self.mode, MODES)


def task_folders(task: str, speakers: int) -> tuple[str, tuple[str, ...]]:
    """Return the folders of mixtures and targets of a task of WHAM! and LibriMix. Raise UserError if it is unknown."""
    require_one_of("--task", task, TASKS)
    names = tuple(part_names(speakers))
    return {
        "sep_clean": ("mix_clean", names),
        "sep_noisy": ("mix_both", names),
        "enh_single": ("mix_single", names[:1]),
        "enh_both": ("mix_both", ("mix_clean",)),
    }[task]


def parse_name(stem: str) -> Sequence[tuple[str, float]]:
    """Return speakers and levels from a name such as ``40na010x_1.9857_01xo031a_-1.9857``; nothing from another."""
    pairs = _UTTERANCE_AND_LEVEL.findall(stem)
    if "_".join(f"{utterance}_{level}" for utterance, level in pairs) != stem:
        return []
    try:
        return [(utterance[:3], float(level)) for utterance, level in pairs]
    except ValueError:
        return []


@dataclass(frozen=True)
class Naming:
    """How a corpus names the folders of each split, and what its file names say about the speakers."""

    folders: Mapping[str, tuple[str, ...]]  # of each split
    official: Mapping[str, int]  # mixtures in each
    groups: Mapping[str, str]
    parse: Callable[[str], Sequence[tuple[str, float]]]  # from the stem of a file name to voices and levels in dB

    def paths(self, tree: Path) -> list[Path]:
        """Return the folders of all splits of a tree."""
        return [tree / folder for folders in self.folders.values() for folder in folders]


WSJ0 = Naming({split: (split,) for split in SPLITS}, MIXTURES, GROUPS, parse_name)


@dataclass(frozen=True)
class ExtraFolders:
    """Folders of what mixtures contain beside the targets: noise, and the voices with their echo if targets lack it."""

    noise: str | None = None
    heard: tuple[str, ...] = ()  # one for each target, or none

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*((self.noise,) if self.noise else ()), *self.heard)

    def in_tree(self, tree: Path, naming: Naming) -> "ExtraFolders":
        """Return those that a tree has below the folders of all its splits; the heard ones only if it has them all."""

        def is_there(name: str) -> bool:
            return all((path / name).is_dir() for path in naming.paths(tree))

        noise = self.noise if self.noise and is_there(self.noise) else None
        return ExtraFolders(noise, self.heard if all(map(is_there, self.heard)) else ())


def find_tree(root: Path, rate_hz: int, mode: str, above: str = "", naming: Naming = WSJ0) -> Path | None:
    """Return the folder of tr, cv and tt at or below ``root``, or None if there are no mixtures.

    Tried are ``root``, ``MODE``, ``wav8k/MODE`` and, with ``above``, ``ABOVE/wav8k/MODE``.
    """
    rate = f"wav{rate_hz // 1000}k"
    places = (root, root / mode, root / rate / mode, root / above / rate / mode)
    return next((place for place in places if mixture_folders(place, naming)), None)


def find_only_tree(
    root: Path, sets: Mapping[Path, tuple[int, str]], above: str, naming: Naming, options: Mapping[str, object]
) -> Path | None:
    """Return the tree of mixtures at or below ``root``, or None if mixtures have to be made from recordings.

    ``sets`` are the rate and mode of each set. Raise UserError if there is a tree and several sets are wanted, or one
    of the ``options`` is given, which only making mixtures needs.
    """
    tree = find_tree(root, *next(iter(sets.values())), above, naming)
    if tree and len(sets) > 1:
        raise UserError(f"{tree} contains mixtures, which are read for one --rate and --mode at a time")
    if tree and any(options.values()):
        raise UserError(f"{tree} contains mixtures, which need no {' and no '.join(options)}: leave them out")
    return tree


def mixture_folders(tree: Path, naming: Naming = WSJ0) -> list[str]:
    """Return the folders of mixtures below those of the splits: mix, mix_clean, ..."""
    return sorted({path.name for place in naming.paths(tree) for path in place.glob("mix*") if path.is_dir()})


def require_mixtures(tree: Path, mixture: str, naming: Naming = WSJ0, *, hint: str = "") -> None:
    """Raise UserError if a tree was made without the mixtures that a task needs."""
    folders = mixture_folders(tree, naming)
    if mixture not in folders:
        raise UserError(f"{tree} has no {mixture}, only {', '.join(folders)}: choose another --task{hint}")


def plan_tree(
    tree: Path,
    out: Path,
    settings: TreeSettings,
    *,
    corpus: str,
    naming: Naming = WSJ0,
    extra: ExtraFolders = ExtraFolders(),
    jobs: int | None = None,
) -> Plan:
    """Check every file of a tree of mixtures, and plan to write the recipes that name them.

    The ``extra`` folders are named if the tree has them. Raise UserError if ``out`` contains anything else.
    """
    if out.resolve() == tree.resolve():
        raise UserError(f"{out} is the tree itself, which is not changed: choose another folder for the recipes")
    preflight = Preflight(out)
    recorded = {
        "corpus": corpus,
        "root": str(tree.resolve()),
        **asdict(settings),
        "targets": list(settings.targets),
        "folders": {split: list(folders) for split, folders in naming.folders.items()},
    }
    finished, missing = find_finished({out: recorded})
    if not missing:
        return Plan(preflight, finished)
    # check the files; a recipe is made of every mixture without a problem
    recipes: dict[str, list[Recipe]] = {split: [] for split in SPLITS}
    present = extra.in_tree(tree, naming)
    for split, folders in naming.folders.items():
        for folder in folders:
            for name, length in _check_files(tree, folder, settings, present, preflight, jobs).items():
                recipes[split].append(_recipe(split, folder, name, length, settings, naming, present))
        mixtures = counted(len(recipes[split]), "mixture")
        preflight.facts.append(f"{split}: {mixtures} (official {naming.official[split]})")

    # the names of WSJ0 mixtures contain the levels, of active speech as always there; the levels of LibriMix are only
    # in the waves, and so is what noise and echo are measured against
    law = LevelLaw("p56", 0.0, peak=PEAK)
    if naming is not WSJ0 or extra.names:
        law = LevelLaw("recipe", 0.0, **({} if naming is WSJ0 else {"apart_db": 0.0}))
    report: SetReport = {"in_place": True, "additive": settings.additive, "levels": law.document()}
    if present.noise:
        report["noise_root"] = "."  # relative to the root
    if unnamed := " and ".join(name for name in extra.names if name not in present.names):
        report["unnamed"] = f"what would be in {unnamed}"
        preflight.facts.append(f"{unnamed} not there: no --dynamic mixing with this set, all else works")
    layout = Layout(settings.rate_hz, len(settings.targets))
    planned = PlannedSet(out, recipes, tree, layout, recorded, report)
    return Plan(preflight, write=lambda: write_sets([planned], None))


def _check_files(
    tree: Path, split: str, settings: TreeSettings, extra: ExtraFolders, preflight: Preflight, jobs: int | None
) -> dict[str, int]:
    """Return the samples of each mixture whose files are all there and right; add the problems of the others."""
    folders = (settings.mixture, *settings.targets, *extra.names)
    names: dict[str, set[str]] = {}
    for folder in folders:
        names[folder] = {path.name for path in (tree / split / folder).glob("[!.]*.wav")}
        if not (tree / split / folder).is_dir():
            preflight.add_problem("folder missing", _REPAIR, str(tree), f"{split}/{folder}")
        elif not any(names.values()):
            preflight.add_problem("folder without .wav files", _REPAIR, str(tree), f"{split}/{folder}")
    every = sorted(set().union(*names.values()))
    for folder in folders:
        for name in set(every) - names[folder] if (tree / split / folder).is_dir() else ():
            preflight.add_problem("file missing", _REPAIR, f"{split}/{folder}", name)

    def check(name: str) -> list[int | str]:
        mixture, *others = (count_samples(tree / split / folder / name, settings.rate_hz) for folder in folders)
        differ = {length for length in others if isinstance(length, int) and isinstance(mixture, int)} - {mixture}
        return [mixture, *("another length than its mixture" if length in differ else length for length in others)]

    samples = {}
    complete = [name for name in every if all(name in there for there in names.values())]
    for name, lengths in zip(complete, in_threads(check, complete, f"checking {split}", jobs), strict=True):
        for folder, length in zip(folders, lengths, strict=True):
            if isinstance(length, str):
                preflight.add_problem(f"file with {length}", _REPAIR, f"{split}/{folder}", name)
        if isinstance(lengths[0], int) and set(lengths) == {lengths[0]}:
            samples[name] = lengths[0]
    return samples


def _recipe(
    split: str, folder: str, name: str, length: int, settings: TreeSettings, naming: Naming, extra: ExtraFolders
) -> Recipe:
    stem = name.removesuffix(".wav")
    speakers = naming.parse(stem)
    sources = []
    for index, target in enumerate(settings.targets):
        if re.match(r"s\d", target) and index < len(speakers):
            voice, level_db = speakers[index]
        else:  # the target is a mixture of all, or the name says nothing
            voice, level_db = "+".join(voice for voice, _ in speakers) or f"{stem} {target}", 0.0
        path = f"{folder}/{target}/{name}"
        heard = f"{folder}/{extra.heard[index]}/{name}" if extra.heard else None
        sources.append(Source(path, voice, None, 0, length, settings.rate_hz, level_db, 1.0, heard=heard))
    noise = None
    if extra.noise:
        noise = Source(f"{folder}/{extra.noise}/{name}", "noise", None, 0, length, settings.rate_hz, 0.0, 1.0)
    mix = f"{folder}/{settings.mixture}/{name}"
    return Recipe(stem, naming.groups[split], length, tuple(sources), mix=mix, noise=noise)
