"""Libri2Mix and Libri3Mix as their authors' scripts make them, from LibriSpeech, WHAM!'s noise and the tables of gains.

Every source is multiplied by its gain, resampled, and cut or filled up; mixtures are sums in 32-bit floats. All are
brought to 16 bits as libsndfile does it. See docs/METHOD.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepclip.audio.files import BadSound, read_sound
from sepclip.audio.layout import Layout
from sepclip.mixing import writing
from sepclip.mixing.librimix_lists import GROUPS, Row, Tables, naming_of, read_tables, sexes_of, subsets_of
from sepclip.mixing.made import folders_of
from sepclip.mixing.mixture import FULL_SCALE, SPLITS, Recipe, Source
from sepclip.mixing.preflight import MODES, RATES_HZ, Plan, Preflight, require_folder, require_one_of
from sepclip.mixing.preparation import Prepared
from sepclip.mixing.survey import in_threads
from sepclip.mixing.wsj0_lists import samples_of

RATE_HZ = 16000  # of LibriSpeech and of WHAM!'s noise
FADE = RATE_HZ // 2 + 1  # samples over which a noise that is too short is joined to itself
_SPED = ("sp08.wav", "sp12.wav")  # noises that LibriMix's script makes of others

Floats = NDArray[np.floating[Any]]


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
class Places:
    """Where the sounds lie, and how many samples each has, by its path in the tables."""

    speech: Path
    noise: Path
    lengths: Mapping[str, int]


def render(row: Row, settings: LibriSettings, places: Places) -> NDArray[np.int16]:
    """Render the mixture and the targets of a task (1 + S, T); what the task does not need is not read."""
    lengths = [places.lengths[path] for path in row.paths]
    samples = mixture_samples(lengths, settings)
    used = 1 if settings.task == "enh_single" else settings.speakers
    waves = [
        _fit(_read(places.speech / path, length) * gain, settings.rate_hz, samples)
        for path, gain, length in zip(row.paths[:used], row.gains[:used], lengths[:used], strict=True)
    ]
    speech = _sum(waves)
    targets = [speech] if settings.task == "enh_both" else waves
    mixture = speech
    if settings.noisy:
        # as the authors do, of the longest speaker's length for `min` too, since resampling looks ahead
        noise = prolong(_read(places.noise / row.noise, places.lengths[row.noise], max(lengths)), max(lengths))
        mixture = _sum([*waves, _fit(noise * row.noise_gain, settings.rate_hz, samples)])
    return floor_to_int16(np.stack([mixture, *targets]))


def mixture_samples(lengths: Sequence[int], settings: LibriSettings) -> int:
    """Return the samples of a mixture of utterances of these lengths."""
    longest = (min if settings.mode == "min" else max)(lengths)
    return -(-longest * settings.rate_hz // RATE_HZ)


def prolong(noise: Floats, samples: int) -> Floats:
    """Return ``samples`` of a noise (T,), joined to itself as often as it takes, crossfaded over half a second."""
    fade_in = np.hanning(RATE_HZ + 1)[:FADE]
    long = noise
    while len(long) < samples:
        seam = long[-FADE:] * fade_in[::-1] + noise[:FADE] * fade_in
        long = np.concatenate([long[:-FADE], seam, noise[FADE:]])
    return long[:samples]


def floor_to_int16(waves: Floats) -> NDArray[np.int16]:
    """Bring floats to 16 bits as libsndfile does where it clips, as soundfile has it: rounded to 32 bits, then cut."""
    whole = np.floor(np.rint(waves * np.float64(2**31)) / 2**16).clip(-FULL_SCALE, FULL_SCALE - 1)
    cut: NDArray[np.int16] = whole.astype(np.int16)
    return cut


def _sum(waves: Sequence[Floats]) -> Floats:
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


def _fit(wave: Floats, rate_hz: int, samples: int) -> Floats:
    from scipy.signal import resample_poly

    resampled: Floats = wave if rate_hz == RATE_HZ else resample_poly(wave, rate_hz, RATE_HZ)
    return np.pad(resampled[:samples], (0, max(0, samples - len(resampled))))


def plan_librimix(
    root: Path,
    out: Path,
    settings: LibriSettings,
    *,
    corpus: str,
    metadata: Path | None = None,
    noise: Path | None = None,
    jobs: int | None = None,
) -> Plan[Prepared]:
    """Look at LibriSpeech, at or below ``root``, the tables and the noise; what is left is to write the set ``out``.

    Raises UserError where there is no root or ``out`` holds anything else.
    """
    require_folder(root, "the folder of LibriSpeech")
    speech = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    preflight = Preflight(out)
    tables = read_tables(
        metadata or root, settings.speakers, subsets_of(settings.train), preflight, noise=settings.noisy
    )
    noises = noise or root / "wham_noise"
    recorded = {
        "corpus": corpus,
        "root": str(speech.resolve()),
        "noise": str(noises.resolve()) if settings.noisy else None,
        "metadata": tables.digest,
        **asdict(settings),
    }
    done = writing.finished(out, recorded)
    if done:
        return Plan(preflight, lambda: Prepared(done, already=True), already=True)
    places = Places(speech, noises, _lengths(tables, speech, noises, settings, preflight, jobs))
    rows, recipes = _recipes(tables, places, settings)
    official = naming_of(settings.speakers, subsets_of(settings.train)).official
    preflight.facts.extend(
        f"{split}: {len(found)} mixtures (official {official[split]}), {len(recipes[split])} of them with all files"
        for split, found in tables.rows.items()
    )
    preflight.needed_bytes = writing.bytes_to_write(out, recipes, 1 + settings.targets)

    def make() -> Prepared:
        made = writing.write_set(
            out,
            recipes,
            root=speech,
            layout=Layout(settings.rate_hz, settings.targets),
            render=lambda recipe: render(rows[recipe.name], settings, places),
            settings=recorded,
            report={"additive": not settings.noisy, "task": settings.task},
            jobs=jobs,
        )
        return Prepared(made, already=False)

    return Plan(preflight, make)


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


def _recipes(tables: Tables, places: Places, settings: LibriSettings) -> tuple[dict[str, Row], dict[str, list[Recipe]]]:
    """Return the rows by name, and the recipes, of the mixtures whose files are all there."""
    sexes = sexes_of(places.speech)

    def source(path: str, gain: float) -> Source:
        voice = path.rsplit("/", 1)[1].split("-")[0]
        # the tables hold gains and no levels
        return Source(path, voice, sexes.get(voice), 0, places.lengths[path], RATE_HZ, 0.0, gain)

    rows: dict[str, Row] = {}
    recipes: dict[str, list[Recipe]] = {split: [] for split in SPLITS}
    for split, found in tables.rows.items():
        for row in found:
            if all(path in places.lengths for path in (*row.paths, row.noise) if path):
                rows[row.name] = row
                sources = tuple(map(source, row.paths, row.gains))
                length = mixture_samples([one.length for one in sources], settings)
                if settings.task == "enh_both":  # one target, the sum of all
                    paths, voices = "+".join(row.paths), "+".join(one.voice for one in sources)
                    sources = (Source(paths, voices, None, 0, length, settings.rate_hz, 0.0, 1.0),)
                recipes[split].append(Recipe(row.name, GROUPS[split], length, sources[: settings.targets]))
    return rows, recipes
