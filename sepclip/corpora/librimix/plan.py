"""Libri2Mix and Libri3Mix as their authors' scripts make them, from LibriSpeech, WHAM!'s noise and the tables of gains.

Every source is multiplied by its gain, resampled, and cut or filled up; mixtures are sums in 32-bit floats. All are
brought to 16 bits as libsndfile does it. See docs/METHOD.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepclip.audio import polyphase
from sepclip.audio.arrays import RealArray
from sepclip.audio.files import BadSound, read_sound
from sepclip.audio.layout import Layout
from sepclip.corpora import write_set
from sepclip.corpora.existing_mixtures import folders_of
from sepclip.corpora.librimix.lists import GROUPS, LibriMixRow, Tables, naming_of, read_tables, sexes_of, subsets_of
from sepclip.corpora.preflight import MODES, RATES_HZ, All, Plan, Preflight, require_folder, require_one_of
from sepclip.corpora.write_set import Prepared
from sepclip.corpora.wsj0.lists import samples_of
from sepclip.mixing.levels import LevelLaw
from sepclip.mixing.recipe import SPLITS, Recipe, Source
from sepclip.mixing.render import FULL_SCALE
from sepclip.mixing.rooms import FADE, prolong
from sepclip.parallel import in_threads

RATE_HZ = 16000  # of LibriSpeech and of WHAM!'s noise
_SPED = ("sp08.wav", "sp12.wav")  # noises that LibriMix's script makes of others


@dataclass(frozen=True)
class LibriSettings:
    """All that decides, with the corpora and the tables, what a set holds; the options of the command line."""

    speakers: int
    task: str = "sep_clean"
    train: str = "train-360"
    rate_hz: int = 8000
    mode: str = "min"

    def __post_init__(self) -> None:
        """Raise UserError for what is not allowed."""
        require_one_of("--rate", self.rate_hz, RATES_HZ)
        require_one_of("--mode", self.mode, MODES)
        folders_of(self.task, self.speakers)
        subsets_of(self.train)

    @property
    def noisy(self) -> bool:
        """Whether the mixtures hold noise."""
        return self.task != "sep_clean"

    @property
    def targets(self) -> int:
        """How many sources a mixture is to be separated into."""
        return len(folders_of(self.task, self.speakers)[1])


@dataclass(frozen=True)
class CorpusFolders:
    """Where the sounds lie, and how many samples each has, by its path in the tables."""

    speech: Path
    noise: Path
    lengths: Mapping[str, int]


class Sounds:
    """The sounds of one mixture with their gains, each read once and resampled once to each rate."""

    def __init__(self, row: LibriMixRow, places: CorpusFolders):
        self.row, self.places = row, places
        self.lengths = [places.lengths[path] for path in row.paths]
        self._read: dict[int, RealArray] = {}
        self._at_rate: dict[tuple[int, int], RealArray] = {}

    def at_rate(self, index: int, rate_hz: int) -> RealArray:
        """Return speaker ``index``, or the noise for -1, at a rate (T,)."""
        if index not in self._read:
            self._read[index] = self._noise() if index < 0 else self._speech(index)
        key = index, rate_hz
        if key not in self._at_rate:
            wave = self._read[index]
            self._at_rate[key] = wave if rate_hz == RATE_HZ else polyphase.resample(wave, RATE_HZ, rate_hz)
        return self._at_rate[key]

    def _speech(self, index: int) -> RealArray:
        wave = _read(self.places.speech / self.row.paths[index], self.lengths[index])
        return wave * self.row.gains[index]

    def _noise(self) -> RealArray:
        # of the longest speaker's length whatever the mode, as the authors do, since resampling looks ahead
        name, most = self.row.noise, max(self.lengths)
        noise = _read(self.places.noise / name, self.places.lengths[name], most)
        return prolong(noise, most) * self.row.noise_gain


def render(sounds: Sounds, settings: LibriSettings) -> NDArray[np.int16]:
    """Render the mixture and the targets of a task (1 + S, T); what the task does not need is not read."""
    samples = mixture_samples(sounds.lengths, settings)
    used = 1 if settings.task == "enh_single" else settings.speakers
    waves = [_fit(sounds.at_rate(index, settings.rate_hz), samples) for index in range(used)]
    speech = _sum(waves)
    mixture = _sum([*waves, _fit(sounds.at_rate(-1, settings.rate_hz), samples)]) if settings.noisy else speech
    targets = [speech] if settings.task == "enh_both" else waves
    return floor_to_int16(np.stack([mixture, *targets]))


def mixture_samples(lengths: Sequence[int], settings: LibriSettings) -> int:
    """Return the samples of a mixture of utterances of these lengths."""
    longest = (min if settings.mode == "min" else max)(lengths)
    return -(-longest * settings.rate_hz // RATE_HZ)


def floor_to_int16(waves: RealArray) -> NDArray[np.int16]:
    """Bring floats to 16 bits as libsndfile does where it clips, as soundfile has it: rounded to 32 bits, then cut."""
    steps = waves * np.float64(2**31)
    np.rint(steps, out=steps)  # in place, for memory that was never touched costs more than the arithmetic
    steps *= 2**-16
    np.floor(steps, out=steps)
    np.clip(steps, -FULL_SCALE, FULL_SCALE - 1, out=steps)
    cut: NDArray[np.int16] = steps.astype(np.int16)
    return cut


def _sum(waves: Sequence[RealArray]) -> RealArray:
    total = waves[0].copy()
    for wave in waves[1:]:
        total += wave  # one after the other, in the type of the first: as the authors do
    return total


def _read(path: Path, length: int, most: int = -1) -> NDArray[np.float32]:
    """Read a sound of ``length`` samples, its first channel, ``most`` samples of it at most."""
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
) -> Plan[All]:
    """Look at LibriSpeech, at or below ``root``, the tables and the noise; what is left is to write the sets.

    ``sets`` tell the folder of each set, at or below ``out``; they differ in rate and mode alone. Raises UserError
    where there is no root, or one of the folders holds anything else.
    """
    require_folder(root, "the folder of LibriSpeech")
    speech = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    some = next(iter(sets.values()))
    preflight = Preflight(out)
    subsets = subsets_of(some.train)
    tables = read_tables(metadata or root, some.speakers, subsets, preflight, noise=some.noisy)
    noises = noise or root / "wham_noise"
    source = {
        "corpus": corpus,
        "root": str(speech.resolve()),
        "noise": str(noises.resolve()) if some.noisy else None,
        "metadata": tables.digest,
    }
    recorded = {place: {**source, **asdict(settings)} for place, settings in sets.items()}
    done, missing = write_set.sort_out(recorded)
    already = [Prepared(one, already=True) for one in done]
    if not missing:
        return Plan(preflight, lambda: All(already), already=True)
    places = CorpusFolders(speech, noises, _lengths(tables, speech, noises, some, preflight, jobs))
    planned = [_planned(out, tables, places, sets[out], recorded[out]) for out in missing]
    preflight.needed_bytes = sum(write_set.bytes_to_write(one.out, one.recipes, 1 + some.targets) for one in planned)
    rows = {row.name: row for split in SPLITS for row in tables.rows[split]}
    official = naming_of(some.speakers, subsets).official
    preflight.facts.extend(
        f"{split}: {len(tables.rows[split])} mixtures (official {official[split]}), {len(found)} of them with all files"
        for split, found in planned[0].recipes.items()
    )

    def render_all(mixture: Sequence[tuple[int, Recipe]]) -> Iterator[NDArray[np.int16]]:
        sounds = Sounds(rows[mixture[0][1].name], places)
        return (render(sounds, sets[planned[number].out]) for number, _ in mixture)

    def make() -> All:
        polyphase.load()
        made = write_set.write_sets(planned, render_all, jobs)
        return All([*already, *(Prepared(one, already=False) for one in made)])

    return Plan(preflight, make)


def _planned(
    out: Path, tables: Tables, places: CorpusFolders, settings: LibriSettings, recorded: dict[str, Any]
) -> write_set.Planned:
    levels = LevelLaw("recipe", to_db=0.0, apart_db=0.0).document()
    report = {"additive": not settings.noisy, "task": settings.task, "levels": levels, "by_scripts": True}
    if settings.noisy:
        report["noise_root"] = str(places.noise.resolve())
    layout = Layout(settings.rate_hz, settings.targets)
    return write_set.Planned(out, _recipes(tables, places, settings), places.speech, layout, recorded, report)


def _lengths(
    tables: Tables, speech: Path, noises: Path, settings: LibriSettings, preflight: Preflight, jobs: int | None
) -> dict[str, int]:
    """Return the samples of every file of the tables that is there; what is wrong goes into ``preflight``."""
    rows = [row for split in SPLITS for row in tables.rows[split]]
    wanted = {path: speech for row in rows for path in row.paths}
    wanted |= {row.noise: noises for row in rows if settings.noisy}
    for root, folder in sorted({(root, path.split("/")[0]) for path, root in wanted.items()}):
        if not (root / folder).is_dir():
            todo = f"unpack it there, from {'wham.whisper.ai' if root == noises else 'openslr.org/12'}"
            preflight.wrong("folder missing", todo, str(root), folder)
            wanted = {path: where for path, where in wanted.items() if (where, path.split("/")[0]) != (root, folder)}

    def look(path: str) -> int | str:
        root = wanted[path]
        found = samples_of(root / path, (1, 2) if root == noises else (1,)) if (root / path).is_file() else ""
        return "less than half a second" if root == noises and isinstance(found, int) and found < FADE else found

    lengths = {}
    for path, found in zip(wanted, in_threads(look, list(wanted), "looking at files", jobs), strict=True):
        folder, _, name = path.partition("/")
        if isinstance(found, int):
            lengths[path] = found
        elif found:
            preflight.wrong(f"file with {found}", "unpack it anew", str(wanted[path] / folder), name)
        elif path.endswith(_SPED) and wanted[path] == noises:
            todo = "make it of the others with scripts/augment_train_noise.py of github.com/JorisCos/LibriMix"
            preflight.wrong("noise of another speed missing", todo, str(noises / folder), name)
        else:
            preflight.wrong("file missing", "unpack the archive again", str(wanted[path] / folder), name)
    return lengths


def _recipes(tables: Tables, places: CorpusFolders, settings: LibriSettings) -> dict[str, list[Recipe]]:
    """Return the recipes of the mixtures whose files are all there."""
    sexes = sexes_of(places.speech)

    def source(path: str, gain: float) -> Source:
        voice = path.rsplit("/", 1)[1].split("-")[0]
        # the tables hold gains and no levels
        return Source(path, voice, sexes.get(voice), 0, places.lengths[path], RATE_HZ, 0.0, gain)

    recipes: dict[str, list[Recipe]] = {split: [] for split in SPLITS}
    for split, found in tables.rows.items():
        for row in found:
            if all(path in places.lengths for path in (*row.paths, row.noise) if path):
                sources = tuple(map(source, row.paths, row.gains))
                lengths = [one.length for one in sources]
                length = mixture_samples(lengths, settings)
                noise = Source(row.noise, "noise", None, 0, max(lengths), RATE_HZ, 0.0, row.noise_gain)
                if settings.task == "enh_both":  # one target, the sum of all
                    paths, voices = "+".join(row.paths), "+".join(one.voice for one in sources)
                    sources = (Source(paths, voices, None, 0, length, settings.rate_hz, 0.0, 1.0),)
                noisy = noise if settings.noisy else None
                recipes[split].append(Recipe(row.name, GROUPS[split], length, sources[: settings.targets], noise=noisy))
    return recipes
