"""wsj0-2mix and wsj0-3mix as their authors' scripts make them, from WSJ0 and the official lists.

Every utterance is resampled, brought to unit active level, measured at 8 kHz whatever the rate of the set, and weighed
by the level in the list; then one gain for the mixture and its sources. See docs/METHOD.md.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sepclip.audio import polyphase
from sepclip.audio.files import BadSound, name_below, write_text
from sepclip.audio.layout import Layout
from sepclip.audio.sphere import CONVERT, read_speech, shorten_header
from sepclip.corpora import write_set
from sepclip.corpora.existing_mixtures import GROUPS
from sepclip.corpora.preflight import MODES, RATES_HZ, All, Plan, Preflight, require_folder, require_one_of
from sepclip.corpora.write_set import Prepared
from sepclip.corpora.wsj0.lists import (
    MIXTURES,
    RATE_HZ,
    UTTERANCES,
    Line,
    Lists,
    Utterances,
    find_utterances,
    parse_table,
    read_lists,
    read_table,
    samples_of,
)
from sepclip.mixing.levels import PEAK, LevelLaw
from sepclip.mixing.recipe import SPLITS, Recipe, Source
from sepclip.mixing.render import to_int16
from sepclip.parallel import in_processes, in_threads
from sepclip.terminal import say

LEVEL_RATE_HZ = 8000  # at which the active levels are measured
LEVELS_FILE = "levels.txt"
_SAVE_SECONDS = 10  # between two savings of the levels measured so far


@dataclass(frozen=True)
class Wsj0Settings:
    """All that decides, with WSJ0 and the lists, what a set holds; the options of the command line."""

    sources: int
    rate_hz: int = 8000
    mode: str = "min"

    def __post_init__(self) -> None:
        """Raise UserError for what is not allowed."""
        require_one_of("--rate", self.rate_hz, RATES_HZ)
        require_one_of("--mode", self.mode, MODES)


Speech = Callable[[Path, int], NDArray[np.float64]]  # path and rate in Hz to samples (T,)


def speech(path: Path, rate_hz: int) -> NDArray[np.float64]:
    """Read an utterance of WSJ0 (T,) and resample it as the authors' scripts do (polyphase, Kaiser window of 5)."""
    return speech_once()(path, rate_hz)


def speech_once() -> Speech:
    """Return ``speech`` with a memory, so that every file is read once, and resampled once to each rate."""

    @cache
    def read(path: Path) -> NDArray[np.float64]:
        wave: NDArray[np.float64] = read_speech(path).samples[0].astype(np.float64)
        return wave

    @cache
    def at_rate(path: Path, rate_hz: int) -> NDArray[np.float64]:
        return polyphase.resample(read(path), RATE_HZ, rate_hz)

    return at_rate


def measure_levels(
    wanted: Mapping[str, Path], known: Mapping[str, float], cache: Path, jobs: int | None
) -> dict[str, float]:
    """Return the active level of every wanted utterance, by its name; those measured are kept in ``cache``."""
    from sepclip.audio.active_level import active_level

    measured = parse_table(cache.read_text(encoding="utf-8"), cache) if cache.is_file() else {}
    missing = sorted(set(wanted) - set(measured) - set(known))

    def save() -> None:
        write_text(cache, "".join(f"{name} {measured[name]!r}\n" for name in sorted(measured)))

    def measure(name: str) -> float:
        return active_level(speech(wanted[name], LEVEL_RATE_HZ), LEVEL_RATE_HZ)

    if not missing:
        return {**measured, **known}
    saved = time.monotonic()
    try:
        for name, level in zip(missing, in_processes(measure, missing, "measuring levels", jobs), strict=True):
            if level == 0:
                raise BadSound(wanted[name], "is silent, so it has no active level: get the file anew")
            measured[name] = level
            if time.monotonic() - saved > _SAVE_SECONDS:
                save()
                saved = time.monotonic()
    finally:
        save()
    return {**measured, **known}


def render(recipe: Recipe, root: Path, rate_hz: int, speech: Speech) -> NDArray[np.int16]:
    """Render a mixture and its sources (1 + S, T), each rounded to 16 bits by itself, as the authors' scripts do."""
    together = np.zeros((1 + len(recipe.sources), recipe.length))
    for row, source in zip(together[1:], recipe.sources, strict=True):
        wave = speech(root / source.path, rate_hz)
        if len(wave) != _resampled(source.length, rate_hz):
            raise BadSound(root / source.path, "is not as long as its header says, or has changed")
        np.multiply(source.gain, wave[: recipe.length], out=row[: len(wave)])
    together[1:].sum(0, out=together[0])
    return to_int16(together, (recipe.peak or 1.0) / max(1.0, together.max(), -together.min()))


def _resampled(samples: int, rate_hz: int) -> int:
    return -(-samples * rate_hz // RATE_HZ)


def plan_wsj0(
    root: Path,
    out: Path,
    sets: Mapping[Path, Wsj0Settings],
    *,
    corpus: str,
    lists: Path | None = None,
    active_levels: Path | None = None,
    jobs: int | None = None,
) -> Plan[All]:
    """Look at WSJ0 below ``root`` and the ``lists``; what is left is to measure the levels and write the sets.

    ``sets`` tell the folder of each set, of which the levels are kept in ``out``. Raises UserError where there is no
    root, or one of the folders holds anything else.
    """
    require_folder(root, "the folder of WSJ0")
    (sources,) = {settings.sources for settings in sets.values()}
    preflight = Preflight(out)
    found = read_lists(lists or root, sources, preflight)
    table, table_digest = read_table(active_levels)
    source = {"corpus": corpus, "root": str(root.resolve()), "lists": found.digest, "active_levels": table_digest}
    recorded = {place: {**source, **asdict(settings)} for place, settings in sets.items()}
    done, missing = write_set.sort_out(recorded)
    already = [Prepared(one, already=True) for one in done]
    if not missing:
        return Plan(preflight, lambda: All(already), already=True)
    utterances = find_utterances(root)
    files = utterances.files
    lengths = _lengths(found, utterances, root, preflight, jobs)
    preflight.facts.extend(_counts(split, lines, files, sources) for split, lines in found.lines.items())
    for place in missing:
        recipes = _recipes(found, files, lengths, None, root, sets[place])
        preflight.needed_bytes += write_set.bytes_to_write(place, recipes, 1 + sources)

    def make() -> All:
        polyphase.load()
        for fact in preflight.facts:
            say(fact)
        for place in missing:
            write_set.begin(place, recorded[place])
        wanted = {utterance.rsplit("/", 1)[1]: files[utterance] for utterance in found.places}
        levels = measure_levels(wanted, table, out / LEVELS_FILE, jobs)
        planned = []
        for place in missing:
            recipes = _recipes(found, files, lengths, levels, root, sets[place])
            layout = Layout(sets[place].rate_hz, sources)
            report = {"levels": LevelLaw("recipe", to_db=0.0, peak=PEAK).document(), "by_scripts": True}
            planned.append(write_set.Planned(place, recipes, root, layout, recorded[place], report))

        def render_all(mixture: Sequence[tuple[int, Recipe]]) -> Iterator[NDArray[np.int16]]:
            once = speech_once()
            return (render(recipe, root, planned[number].layout.rate_hz, once) for number, recipe in mixture)

        return All(
            [*already, *(Prepared(one, already=False) for one in write_set.write_sets(planned, render_all, jobs))]
        )

    return Plan(preflight, make)


def _lengths(
    lists: Lists, utterances: Utterances, root: Path, preflight: Preflight, jobs: int | None
) -> dict[str, int]:
    """Return the samples of every utterance in the lists that is there; what is wrong goes into ``preflight``."""
    files, there = utterances.files, []
    todo = f"copy it from the discs of WSJ0 (LDC93S6A, LDC93S6B) to anywhere below {root}"
    for utterance, place in lists.places.items():
        folder, _, name = place.rpartition("/")
        if utterance in files:
            there.append(utterance)
            for other in utterances.differing(utterance):
                what, leave = "file of the same name as another, with other bytes", "leave one of them below ROOT"
                preflight.wrong(what, leave, name_below(other.parent, root), other.name)
        elif utterance in utterances.far:
            preflight.wrong("file of the far microphone alone (.wv2, not .wv1)", todo, folder, name)
        else:
            preflight.wrong("file missing (as .wav, .flac, .sph or .wv1)", todo, folder, name)
    no_ffmpeg = shutil.which("ffmpeg") is None
    lengths = {}
    for utterance, found in zip(
        there, in_threads(lambda one: samples_of(files[one]), there, "looking at files", jobs), strict=True
    ):
        path = files[utterance]
        folder = name_below(path.parent, root)
        if isinstance(found, str):
            preflight.wrong(f"file with {found}", "get it anew from the discs", folder, path.name)
            continue
        lengths[utterance] = found
        if no_ffmpeg and path.suffix.lower() not in (".wav", ".flac") and shorten_header(path):
            preflight.wrong("file compressed by shorten", CONVERT, folder, path.name)
    return lengths


def _counts(split: str, lines: Sequence[Line], files: Mapping[str, Path], sources: int) -> str:
    """Return how many mixtures and utterances a split has, against the official numbers."""
    utterances = {utterance for line in lines for utterance in line.utterances}
    official = f", official {UTTERANCES[split]}" if sources == 2 else ""
    return (
        f"{split}: {len(lines)} mixtures (official {MIXTURES[split]}) of {len(utterances)} utterances "
        f"({sum(utterance in files for utterance in utterances)} there{official})"
    )


def _recipes(
    lists: Lists,
    files: Mapping[str, Path],
    lengths: Mapping[str, int],
    levels: Mapping[str, float] | None,
    root: Path,
    settings: Wsj0Settings,
) -> dict[str, list[Recipe]]:
    """Return the recipes of all mixtures whose utterances are there; without ``levels`` their gains are open."""
    shortest_or_longest = min if settings.mode == "min" else max

    paths = {utterance: name_below(files[utterance], root) for utterance in lengths}

    def source(utterance: str, level_db: float) -> Source:
        name = utterance.rsplit("/", 1)[1]
        gain = 10 ** (level_db / 20) / math.sqrt(levels[name]) if levels else 1.0
        return Source(paths[utterance], name[:3], None, 0, lengths[utterance], RATE_HZ, level_db, gain)

    recipes: dict[str, list[Recipe]] = {split: [] for split in SPLITS}
    for split, lines in lists.lines.items():
        for line in lines:
            if all(utterance in lengths for utterance in line.utterances):
                length = _resampled(shortest_or_longest(lengths[one] for one in line.utterances), settings.rate_hz)
                sources = tuple(map(source, line.utterances, line.levels_db))
                recipes[split].append(Recipe(line.name, GROUPS[split], length, sources, peak=PEAK))
    return recipes
