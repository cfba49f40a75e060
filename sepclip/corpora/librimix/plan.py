"""Libri2Mix and Libri3Mix as their authors' scripts make them, from LibriSpeech, WHAM!'s noise and the tables of gains.

Every source is multiplied by its gain, resampled, and cut or filled with silence; mixtures are sums in 32-bit floats.
All are converted to 16 bits as libsndfile does it. See docs/METHOD.md.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepclip.audio import polyphase
from sepclip.audio.arrays import RealArray
from sepclip.audio.files import BadSound, read_sound
from sepclip.audio.layout import Layout
from sepclip.corpora.existing_mixtures import task_folders
from sepclip.corpora.librimix.lists import GROUPS, LibriMixRow, Tables, naming_of, read_tables, subsets_of
from sepclip.corpora.preflight import MODES, RATES_HZ, Preflight, count_samples, require_folder, require_one_of
from sepclip.corpora.speakers.presets import LIBRISPEECH_SEXES
from sepclip.corpora.write_set import Plan, PlannedSet, find_finished, write_sets
from sepclip.mixing.levels import LevelLaw
from sepclip.mixing.mixture_set import MixtureSet, SetReport
from sepclip.mixing.recipe import SPLITS, Recipe, Source
from sepclip.mixing.render import FULL_SCALE
from sepclip.mixing.rooms import FADE, prolong
from sepclip.parallel import in_threads

RATE_HZ = 16000  # of LibriSpeech and of WHAM!'s noise
_LONGEST_SECONDS = 600  # no file of either comes near; a header that says more is wrong
_SPED_UP = ("sp08.wav", "sp12.wav")  # noises that LibriMix's script makes from others


@dataclass(frozen=True)
class LibriSettings:
    """All that decides, with the corpora and the tables, what is in a set; the options of the command line."""

    speakers: int
    task: str = "sep_clean"
    train: str = "train-360"
    rate_hz: int = 8000
    mode: str = "min"

    def __post_init__(self) -> None:
        """Raise UserError if a setting is not allowed."""
        require_one_of("--rate", self.rate_hz, RATES_HZ)
        require_one_of("--mode", self.mode, MODES)
        task_folders(self.task, self.speakers)
        subsets_of(self.train)

    @property
    def noisy(self) -> bool:
        """Whether the mixtures contain noise."""
        return self.task != "sep_clean"


@dataclass(frozen=True)
class CorpusFolders:
    """The folders of the sounds, and the samples of each sound by its path in the tables."""

    speech: Path
    noise: Path
    lengths: Mapping[str, int]


Sounds = Callable[[int, int], RealArray]  # from the index of a speaker, or -1 for the noise, and a rate in Hz to (T,)


def sounds_of(row: LibriMixRow, folders: CorpusFolders) -> Sounds:
    """Return a reader of the sounds of one mixture with their gains; it reads and resamples each only once."""

    @cache
    def read(index: int) -> RealArray:
        if index >= 0:
            path = row.paths[index]
            return _read(folders.speech / path, folders.lengths[path]) * row.gains[index]
        # as long as the longest speaker whatever the mode, as the authors do: resampling looks ahead
        most = max(folders.lengths[path] for path in row.paths)
        noise = _read(folders.noise / row.noise, folders.lengths[row.noise], most)
        return prolong(noise, most) * row.noise_gain

    @cache
    def at_rate(index: int, rate_hz: int) -> RealArray:
        return read(index) if rate_hz == RATE_HZ else polyphase.resample(read(index), RATE_HZ, rate_hz)

    return at_rate


def render(sounds: Sounds, samples: int, settings: LibriSettings) -> NDArray[np.int16]:
    """Render the mixture and the targets of a task (1 + S, T); what the task does not need is not read."""
    used = 1 if settings.task == "enh_single" else settings.speakers
    waves = [_fit(sounds(index, settings.rate_hz), samples) for index in range(used)]
    speech = _sum(waves)
    mixture = _sum([*waves, _fit(sounds(-1, settings.rate_hz), samples)]) if settings.noisy else speech
    targets = [speech] if settings.task == "enh_both" else waves
    return floor_to_int16(np.stack([mixture, *targets]))


def mixture_samples(lengths: Sequence[int], settings: LibriSettings) -> int:
    """Return the samples of a mixture of utterances of these lengths."""
    length = (min if settings.mode == "min" else max)(lengths)
    return -(-length * settings.rate_hz // RATE_HZ)


def floor_to_int16(waves: RealArray) -> NDArray[np.int16]:
    """Convert floats to 16 bits as libsndfile does when it clips, as in soundfile: rounded to 32 bits, then cut."""
    steps = waves * np.float64(2**31)
    np.rint(steps, out=steps)  # in place: writing to new memory costs more than the arithmetic
    steps *= 2**-16
    np.floor(steps, out=steps)
    np.clip(steps, -FULL_SCALE, FULL_SCALE - 1, out=steps)
    cut: NDArray[np.int16] = steps.astype(np.int16)
    return cut


def _sum(waves: Sequence[RealArray]) -> RealArray:
    total = waves[0].copy()
    for wave in waves[1:]:
        total += wave  # one after the other, in the type of the first, as the authors do
    return total


def _read(path: Path, length: int, most: int = -1) -> NDArray[np.float32]:
    """Read the first channel of a sound of ``length`` samples, at most ``most`` samples of it."""
    wave: NDArray[np.float32] = read_sound(path, frames=most).samples[0]
    if len(wave) != (length if most < 0 else min(length, most)):
        raise BadSound(path, "is not as long as it was, or as its header says")
    return wave


def _fit(wave: RealArray, samples: int) -> RealArray:
    return wave[:samples] if len(wave) >= samples else np.pad(wave, (0, samples - len(wave)))


def plan_librimix(
    root: Path,
    out: Path,
    sets: Mapping[Path, LibriSettings],
    *,
    corpus: str,
    metadata: Path | None = None,
    noise: Path | None = None,
    jobs: int | None = None,
) -> Plan:
    """Check LibriSpeech, at or below ``root``, the tables and the noise, and plan to write the sets.

    ``sets`` has the settings of each set by its folder, at or below ``out``; they differ only in rate and mode. Raise
    UserError if there is no root, or one of the folders contains anything else.
    """
    require_folder(root, "the folder of LibriSpeech")
    speech = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    shared = next(iter(sets.values()))
    preflight = Preflight(out)
    subsets = subsets_of(shared.train)
    tables = read_tables(metadata or root, shared.speakers, subsets, preflight, noise=shared.noisy)
    noises = noise or root / "wham_noise"
    origin = {
        "corpus": corpus,
        "root": str(speech.resolve()),
        "noise": str(noises.resolve()) if shared.noisy else None,
        "metadata": tables.digest,
    }
    recorded = {folder: {**origin, **asdict(settings)} for folder, settings in sets.items()}
    finished, missing = find_finished(recorded)
    if not missing:
        return Plan(preflight, finished)
    folders = CorpusFolders(speech, noises, _check_files(tables, speech, noises, shared, preflight, jobs))
    planned = [_plan_set(folder, tables, folders, sets[folder], recorded[folder]) for folder in missing]
    preflight.needed_bytes = sum(plan.missing_bytes for plan in planned)
    rows = {row.name: row for split in SPLITS for row in tables.rows[split]}
    official = naming_of(shared.speakers, subsets).official
    preflight.facts.extend(
        f"{split}: {len(tables.rows[split])} mixtures (official {official[split]}), {len(recipes)} of them with all "
        f"files"
        for split, recipes in planned[0].recipes.items()
    )

    def render_all(mixture: Sequence[tuple[int, Recipe]]) -> Iterator[NDArray[np.int16]]:
        sounds = sounds_of(rows[mixture[0][1].name], folders)
        return (render(sounds, recipe.length, sets[planned[number].out]) for number, recipe in mixture)

    def write() -> list[MixtureSet]:
        polyphase.load()
        return write_sets(planned, render_all, jobs)

    return Plan(preflight, finished, write)


def _plan_set(
    out: Path, tables: Tables, folders: CorpusFolders, settings: LibriSettings, recorded: dict[str, Any]
) -> PlannedSet:
    levels = LevelLaw("recipe", to_db=0.0, apart_db=0.0).document()
    report: SetReport = {"additive": not settings.noisy, "task": settings.task, "levels": levels, "by_scripts": True}
    if settings.noisy:
        report["noise_root"] = str(folders.noise.resolve())
    _, targets = task_folders(settings.task, settings.speakers)
    layout = Layout(settings.rate_hz, len(targets))
    return PlannedSet(out, _recipes(tables, folders, settings), folders.speech, layout, recorded, report)


def _check_files(
    tables: Tables, speech: Path, noises: Path, settings: LibriSettings, preflight: Preflight, jobs: int | None
) -> dict[str, int]:
    """Return the samples of every file of the tables that is there and right; add the problems of the others."""
    rows = [row for split in SPLITS for row in tables.rows[split]]
    root_of = {path: speech for row in rows for path in row.paths}
    root_of |= {row.noise: noises for row in rows if settings.noisy}
    # a folder that is missing is one problem, not one for each of its files
    for root, folder in sorted({(root, path.split("/")[0]) for path, root in root_of.items()}):
        if not (root / folder).is_dir():
            todo = f"unpack it there, from {'wham.whisper.ai' if root == noises else 'openslr.org/12'}"
            preflight.add_problem("folder missing", todo, str(root), folder)
            root_of = {path: where for path, where in root_of.items() if (where, path.split("/")[0]) != (root, folder)}

    def check(path: str) -> int | str | None:
        root = root_of[path]
        if not (root / path).is_file():
            return None
        channels = (1, 2) if root == noises else (1,)
        samples = count_samples(root / path, RATE_HZ, channels=channels, longest_seconds=_LONGEST_SECONDS)
        return "less than half a second" if root == noises and isinstance(samples, int) and samples < FADE else samples

    lengths = {}
    for path, samples in zip(root_of, in_threads(check, list(root_of), "checking files", jobs), strict=True):
        folder, _, name = path.partition("/")
        if isinstance(samples, int):
            lengths[path] = samples
        elif samples:
            preflight.add_problem(f"file with {samples}", "unpack it again", str(root_of[path] / folder), name)
        elif path.endswith(_SPED_UP) and root_of[path] == noises:
            todo = "make it from the others with scripts/augment_train_noise.py of github.com/JorisCos/LibriMix"
            preflight.add_problem("noise of another speed missing", todo, str(noises / folder), name)
        else:
            preflight.add_problem("file missing", "unpack the archive again", str(root_of[path] / folder), name)
    return lengths


def _recipes(tables: Tables, folders: CorpusFolders, settings: LibriSettings) -> dict[str, list[Recipe]]:
    """Return the recipes of the mixtures whose files are all there."""
    sexes = LIBRISPEECH_SEXES.read(folders.speech) or {}

    def source(path: str, gain: float) -> Source:
        voice = path.rsplit("/", 1)[1].split("-")[0]
        # the tables contain gains and no levels
        return Source(path, voice, sexes.get(voice), 0, folders.lengths[path], RATE_HZ, 0.0, gain)

    recipes: dict[str, list[Recipe]] = {split: [] for split in SPLITS}
    for split, rows in tables.rows.items():
        for row in rows:
            if not all(path in folders.lengths for path in (*row.paths, row.noise) if path):
                continue
            sources = tuple(map(source, row.paths, row.gains))
            lengths = [speaker.length for speaker in sources]
            length = mixture_samples(lengths, settings)
            noise = Source(row.noise, "noise", None, 0, max(lengths), RATE_HZ, 0.0, row.noise_gain)
            if settings.task == "enh_both":  # one target, the sum of all
                paths, voices = "+".join(row.paths), "+".join(speaker.voice for speaker in sources)
                sources = (Source(paths, voices, None, 0, length, settings.rate_hz, 0.0, 1.0),)
            elif settings.task == "enh_single":
                sources = sources[:1]
            noisy = noise if settings.noisy else None
            recipes[split].append(Recipe(row.name, GROUPS[split], length, sources, noise=noisy))
    return recipes
