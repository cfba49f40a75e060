"""Corpora that come as mixtures: wsj0-2mix, WHAM! and WHAMR! trees, whose waves are read where they are."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import soundfile

from sepclip.audio.layout import Layout, part_names
from sepclip.corpora import write_set
from sepclip.corpora.preflight import MODES, RATES_HZ, Plan, Preflight, require_one_of
from sepclip.corpora.write_set import Prepared
from sepclip.corpora.wsj0.lists import MIXTURES
from sepclip.errors import UserError, counted
from sepclip.mixing.levels import PEAK, LevelLaw
from sepclip.mixing.recipe import SPLITS, Recipe, Source
from sepclip.parallel import in_threads

TASKS = ("sep_clean", "sep_noisy", "enh_single", "enh_both")  # of WHAM! and LibriMix
GROUPS = {"tr": "seen", "cv": "seen", "tt": "unseen"}  # the speakers of cv are those of tr
_MISSING = "make the tree anew with the scripts of the corpus, or copy it again"
_PAIR = re.compile(r"([A-Za-z0-9-]{4,40})_(-?[0-9.e-]+)(?:_|$)")


@dataclass(frozen=True)
class MadeSettings:
    """Which files of a tree are the mixtures and the sources, and of which rate they have to be."""

    mixture: str  # folder, such as "mix" or "mix_both"
    targets: tuple[str, ...]  # folders, such as "s1", "s2"
    rate_hz: int = 8000
    mode: str = "min"
    additive: bool = True  # the mixture is the sum of the targets

    def __post_init__(self) -> None:
        """Raise UserError for what is not allowed."""
        require_one_of("--rate", self.rate_hz, RATES_HZ)
        require_one_of("--mode", self.mode, MODES)


def folders_of(task: str, speakers: int) -> tuple[str, tuple[str, ...]]:
    """Return the folders of the mixtures and of the targets of a task of WHAM! and LibriMix; UserError for another."""
    require_one_of("--task", task, TASKS)
    everyone = tuple(part_names(speakers))
    return {
        "sep_clean": ("mix_clean", everyone),
        "sep_noisy": ("mix_both", everyone),
        "enh_single": ("mix_single", everyone[:1]),
        "enh_both": ("mix_both", ("mix_clean",)),
    }[task]


def voices_of(stem: str) -> Sequence[tuple[str, float]]:
    """Return the speakers and levels in a name such as ``40na010x_1.9857_01xo031a_-1.9857``; none in another."""
    pairs = _PAIR.findall(stem)
    if "_".join(f"{utterance}_{level}" for utterance, level in pairs) != stem:
        return []
    try:
        return [(utterance[:3], float(level)) for utterance, level in pairs]
    except ValueError:
        return []


@dataclass(frozen=True)
class Naming:
    """How a corpus names the folders of each split, and what its file names tell of the speakers."""

    folders: Mapping[str, tuple[str, ...]]  # of each split
    official: Mapping[str, int]  # mixtures in each
    groups: Mapping[str, str]
    voices: Callable[[str], Sequence[tuple[str, float]]]  # of a file's name: voice and level in dB


@dataclass(frozen=True)
class Hidden:
    """The folders of what mixtures hold beside the targets: noise, and voices with an echo that these are without."""

    noise: str | None = None
    heard: tuple[str, ...] = ()  # one for each target, or none

    @property
    def folders(self) -> tuple[str, ...]:
        """All of them."""
        return (*((self.noise,) if self.noise else ()), *self.heard)

    def in_tree(self, tree: Path, naming: "Naming") -> "Hidden":
        """Return those that a tree has below the folders of all its splits; of the heard ones all or none."""
        places = [tree / folder for folders in naming.folders.values() for folder in folders]

        def is_there(name: str) -> bool:
            return all((place / name).is_dir() for place in places)

        noise = self.noise if self.noise and is_there(self.noise) else None
        return Hidden(noise, self.heard if all(map(is_there, self.heard)) else ())


NOTHING = Hidden()
WSJ0 = Naming({split: (split,) for split in SPLITS}, MIXTURES, GROUPS, voices_of)


def find_tree(root: Path, rate_hz: int, mode: str, above: str = "", naming: Naming = WSJ0) -> Path | None:
    """Return the folder of tr, cv and tt at or below ``root``; None where there are no mixtures.

    Looked for are ``root``, ``MODE``, ``wav8k/MODE`` and, with ``above``, ``ABOVE/wav8k/MODE``.
    """
    rate = f"wav{rate_hz // 1000}k"
    for place in (root, root / mode, root / rate / mode, root / above / rate / mode):
        if mixture_folders(place, naming):
            return place
    return None


def mixture_folders(tree: Path, naming: Naming = WSJ0) -> list[str]:
    """Return the folders of mixtures below those of the splits: mix, mix_clean, ..."""
    places = [tree / folder for folders in naming.folders.values() for folder in folders]
    return sorted({path.name for place in places for path in place.glob("mix*") if path.is_dir()})


def require_mixtures(tree: Path, mixture: str, naming: Naming = WSJ0, *, hint: str = "") -> None:
    """Raise UserError where a tree was made without the mixtures that a task needs."""
    there = mixture_folders(tree, naming)
    if mixture not in there:
        raise UserError(f"{tree} has no {mixture}, only {', '.join(there)}: choose another --task{hint}")


def plan_made(
    tree: Path,
    out: Path,
    settings: MadeSettings,
    *,
    corpus: str,
    naming: Naming = WSJ0,
    hidden: Hidden = NOTHING,
    jobs: int | None = None,
) -> Plan[Prepared]:
    """Look at every file of a tree of mixtures; what is left is to write the recipes that name them.

    What is ``hidden`` in the mixtures is named where the tree has the folders for it. Raises UserError where ``out``
    holds anything else.
    """
    if out.resolve() == tree.resolve():
        raise UserError(f"{out} is the tree itself, which is left as it is: choose another folder for the recipes")
    preflight = Preflight(out)
    recorded = {
        "corpus": corpus,
        "root": str(tree.resolve()),
        **asdict(settings),
        "targets": list(settings.targets),
        "folders": {split: list(folders) for split, folders in naming.folders.items()},
    }
    done = write_set.finished(out, recorded)
    if done:
        return Plan(preflight, lambda: Prepared(done, already=True), already=True)
    recipes: dict[str, list[Recipe]] = {split: [] for split in SPLITS}
    there = hidden.in_tree(tree, naming)
    for split, folders in naming.folders.items():
        for folder in folders:
            found = _look(tree, folder, settings, there.folders, preflight, jobs)
            recipes[split] += [_recipe(split, folder, *one, settings, naming, there) for one in found.items()]
    preflight.facts.extend(
        f"{split}: {counted(len(found), 'mixture')} (official {naming.official[split]})"
        for split, found in recipes.items()
    )

    # of WSJ0 the levels stand in the names, of active speech as always there; LibriMix's are nowhere but in the waves,
    # and so is what noise and echo are measured against
    law = LevelLaw("p56", 0.0, peak=PEAK)
    if naming is not WSJ0 or hidden.folders:
        law = LevelLaw("recipe", 0.0, **({} if naming is WSJ0 else {"apart_db": 0.0}))
    report: dict[str, Any] = {"in_place": True, "additive": settings.additive, "levels": law.document()}
    if there.noise:
        report["noise_root"] = "."  # from the root on
    if missing := [name for name in hidden.folders if name not in there.folders]:
        report["unnamed"] = f"what would be in {' and '.join(missing)}"
        preflight.facts.append(f"{' and '.join(missing)} not there: --dynamic cannot mix anew, all else works")

    def make() -> Prepared:
        made = write_set.write_set(
            out,
            recipes,
            root=tree,
            layout=Layout(settings.rate_hz, len(settings.targets)),
            render=None,
            settings=recorded,
            report=report,
        )
        return Prepared(made, already=False)

    return Plan(preflight, make)


def _look(
    tree: Path, split: str, settings: MadeSettings, more: Sequence[str], preflight: Preflight, jobs: int | None
) -> dict[str, int]:
    """Return the samples of each mixture whose files are all there and right; the others go into ``preflight``.

    ``more`` are the folders of what else the mixtures hold.
    """
    folders = (settings.mixture, *settings.targets, *more)
    found = {}
    for folder in folders:
        place = tree / split / folder
        found[folder] = {path.name for path in place.glob("[!.]*.wav")}
        if not place.is_dir():
            preflight.wrong("folder missing", _MISSING, str(tree), f"{split}/{folder}")
        elif not any(found.values()):
            preflight.wrong("folder without .wav files", _MISSING, str(tree), f"{split}/{folder}")
    there = {folder: names for folder, names in found.items() if (tree / split / folder).is_dir()}
    every = sorted(set().union(*there.values()))
    for folder, names in there.items():
        for name in set(every) - names:
            preflight.wrong("file missing", _MISSING, f"{split}/{folder}", name)
    whole = [name for name in every if all(name in names for names in found.values())]

    def look(name: str) -> list[int | str]:
        return [_samples(tree / split / folder / name, settings.rate_hz) for folder in folders]

    right = {}
    for name, lengths in zip(whole, in_threads(look, whole, f"looking at {split}", jobs), strict=True):
        wrong = False
        for folder, length in zip(folders, lengths, strict=True):
            if isinstance(length, int) and length != lengths[0] and isinstance(lengths[0], int):
                length = "another length than its mixture"
            if isinstance(length, str):
                preflight.wrong(f"file with {length}", _MISSING, f"{split}/{folder}", name)
                wrong = True
        if not wrong and isinstance(lengths[0], int):
            right[name] = lengths[0]
    return right


def _samples(path: Path, rate_hz: int) -> int | str:
    """Return the samples of a file, by its header, or what is wrong with it."""
    try:
        info = soundfile.info(path)
    except soundfile.SoundFileError:
        return "no readable sound"
    if (info.samplerate, info.channels) != (rate_hz, 1):
        return f"{counted(info.channels, 'channel')} at {info.samplerate} Hz, not 1 at {rate_hz} Hz"
    return int(info.frames) or "no samples"


def _recipe(
    split: str, folder: str, name: str, length: int, settings: MadeSettings, naming: Naming, hidden: Hidden
) -> Recipe:
    stem = name.removesuffix(".wav")
    speakers = naming.voices(stem)
    sources = []
    for index, target in enumerate(settings.targets):
        if re.match(r"s\d", target) and index < len(speakers):
            voice, level_db = speakers[index]
        else:  # a mixture of all as the target, or names of another kind
            voice, level_db = "+".join(voice for voice, _ in speakers) or f"{stem} {target}", 0.0
        path = f"{folder}/{target}/{name}"
        heard = f"{folder}/{hidden.heard[index]}/{name}" if hidden.heard else None
        sources.append(Source(path, voice, None, 0, length, settings.rate_hz, level_db, 1.0, heard=heard))
    noise = None
    if hidden.noise:
        noise = Source(f"{folder}/{hidden.noise}/{name}", "noise", None, 0, length, settings.rate_hz, 0.0, 1.0)
    mix = f"{folder}/{settings.mixture}/{name}"
    return Recipe(stem, naming.groups[split], length, tuple(sources), mix=mix, noise=noise)
