"""wsj0-2mix and wsj0-3mix as their authors' scripts make them, from WSJ0 and the official lists.

Every utterance is resampled, brought to unit active level, which is measured at 8 kHz whatever the rate of the set,
and multiplied by the level in the list; then the mixture and its sources get one gain. See docs/METHOD.md.
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
from sepclip.corpora.preflight import MODES, RATES_HZ, Preflight, count_samples, require_folder, require_one_of
from sepclip.corpora.write_set import Plan, PlannedSet, begin, find_finished, write_sets
from sepclip.corpora.wsj0.lists import (
    GROUPS,
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
)
from sepclip.mixing.levels import PEAK, LevelLaw
from sepclip.mixing.mixture_set import MixtureSet, SetReport
from sepclip.mixing.recipe import SPLITS, Recipe, Source
from sepclip.mixing.render import to_int16
from sepclip.parallel import in_processes, in_threads
from sepclip.terminal import say

LEVEL_RATE_HZ = 8000  # at which the active levels are measured
LEVELS_FILE = "levels.txt"
_SAVE_SECONDS = 10  # between two writes of the levels measured so far
_LONGEST_SECONDS = 600  # no sentence of WSJ0 comes near; a header that says more is wrong


@dataclass(frozen=True)
class Wsj0Settings:
    """All that decides, with WSJ0 and the lists, what is in a set; the options of the command line."""

    sources: int
    rate_hz: int = 8000
    mode: str = "min"

    def __post_init__(self) -> None:
        """Raise UserError if a setting is not allowed."""
        require_one_of("--rate", self.rate_hz, RATES_HZ)
        require_one_of("--mode", self.mode, MODES)


Speech = Callable[[Path, int], NDArray[np.float64]]  # path and rate in Hz to samples (T,)


def speech_reader() -> Speech:
    """Return a function that reads an utterance of WSJ0 and resamples it, each file once and once to each rate.

    It resamples as the authors' scripts do (polyphase, Kaiser window of 5).
    """

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
    """Return the active level of every wanted utterance, by its name; the file ``cache`` keeps those measured."""
    from sepclip.audio.active_level import active_level

    measured = parse_table(cache.read_text(encoding="utf-8"), cache) if cache.is_file() else {}
    missing = sorted(set(wanted) - set(measured) - set(known))

    def save() -> None:
        write_text(cache, "".join(f"{name} {measured[name]!r}\n" for name in sorted(measured)))

    def measure(name: str) -> float:
        return active_level(speech_reader()(wanted[name], LEVEL_RATE_HZ), LEVEL_RATE_HZ)

    if not missing:
        return {**measured, **known}
    saved = time.monotonic()
    try:
        for name, level in zip(missing, in_processes(measure, missing, "measuring levels", jobs), strict=True):
            if level == 0:
                raise BadSound(wanted[name], "is silent, so it has no active level: copy it again from the discs")
            measured[name] = level
            if time.monotonic() - saved > _SAVE_SECONDS:
                save()
                saved = time.monotonic()
    finally:
        save()
    return {**measured, **known}


def render(recipe: Recipe, root: Path, rate_hz: int, speech: Speech) -> NDArray[np.int16]:
    """Render a mixture and its sources (1 + S, T), each rounded to 16 bits separately, as the authors' scripts do."""
    waves = np.zeros((1 + len(recipe.sources), recipe.length))
    for row, source in zip(waves[1:], recipe.sources, strict=True):
        wave = speech(root / source.path, rate_hz)
        if len(wave) != _resampled(source.length, rate_hz):
            raise BadSound(root / source.path, "is not as long as its header says, or has changed")
        np.multiply(source.gain, wave[: recipe.length], out=row[: len(wave)])
    waves[1:].sum(0, out=waves[0])
    return to_int16(waves, (recipe.peak or 1.0) / max(1.0, waves.max(), -waves.min()))


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
) -> Plan:
    """Check WSJ0 below ``root`` and the ``lists``, and plan to measure the levels and write the sets.

    ``sets`` has the settings of each set by its folder; the levels are kept in ``out``. Raise UserError if there is no
    root, or one of the folders contains anything else.
    """
    require_folder(root, "the folder of WSJ0")
    (sources,) = {settings.sources for settings in sets.values()}
    preflight = Preflight(out)
    mixtures = read_lists(lists or root, sources, preflight)
    table, table_digest = read_table(active_levels)
    origin = {"corpus": corpus, "root": str(root.resolve()), "lists": mixtures.digest, "active_levels": table_digest}
    recorded = {folder: {**origin, **asdict(settings)} for folder, settings in sets.items()}
    finished, missing = find_finished(recorded)
    if not missing:
        return Plan(preflight, finished)
    utterances = find_utterances(root)
    files = utterances.files
    lengths = _check_files(mixtures, utterances, root, preflight, jobs)
    preflight.facts.extend(_counts(split, lines, files, sources) for split, lines in mixtures.lines.items())

    def plan_set(folder: Path, levels: Mapping[str, float] | None = None) -> PlannedSet:
        recipes = _recipes(mixtures, files, lengths, levels, root, sets[folder])
        law, layout = LevelLaw("recipe", to_db=0.0, peak=PEAK), Layout(sets[folder].rate_hz, sources)
        report: SetReport = {"levels": law.document(), "by_scripts": True}
        return PlannedSet(folder, recipes, root, layout, recorded[folder], report)

    preflight.needed_bytes = sum(plan_set(folder).missing_bytes for folder in missing)

    def write() -> list[MixtureSet]:
        polyphase.load()
        for fact in preflight.facts:
            say(fact)
        for folder in missing:
            begin(folder, recorded[folder])
        wanted = {utterance.rsplit("/", 1)[1]: files[utterance] for utterance in mixtures.places}
        levels = measure_levels(wanted, table, out / LEVELS_FILE, jobs)
        planned = [plan_set(folder, levels) for folder in missing]

        def render_all(mixture: Sequence[tuple[int, Recipe]]) -> Iterator[NDArray[np.int16]]:
            speech = speech_reader()
            return (render(recipe, root, planned[number].layout.rate_hz, speech) for number, recipe in mixture)

        return write_sets(planned, render_all, jobs)

    return Plan(preflight, finished, write)


def _check_files(
    lists: Lists, utterances: Utterances, root: Path, preflight: Preflight, jobs: int | None
) -> dict[str, int]:
    """Return the samples of every utterance in the lists that is there and right; add the problems of the others."""
    files, present = utterances.files, []
    todo = f"copy it from the discs of WSJ0 (LDC93S6A, LDC93S6B) to anywhere below {root}"
    for utterance, place in lists.places.items():
        folder, _, name = place.rpartition("/")
        if utterance in files:
            present.append(utterance)
            for path in utterances.differing(utterance):
                what, leave = "file of the same name as another, with other bytes", "leave one of them below ROOT"
                preflight.add_problem(what, leave, name_below(path.parent, root), path.name)
        elif utterance in utterances.far:
            preflight.add_problem("only the file of the far microphone (.wv2, not .wv1)", todo, folder, name)
        else:
            preflight.add_problem("file missing (as .wav, .flac, .sph or .wv1)", todo, folder, name)

    def check(utterance: str) -> int | str:
        return count_samples(files[utterance], RATE_HZ, longest_seconds=_LONGEST_SECONDS, compressed=True)

    no_ffmpeg = shutil.which("ffmpeg") is None
    lengths = {}
    for utterance, samples in zip(present, in_threads(check, present, "checking files", jobs), strict=True):
        path = files[utterance]
        folder = name_below(path.parent, root)
        if isinstance(samples, str):
            preflight.add_problem(f"file with {samples}", "copy it again from the discs", folder, path.name)
            continue
        lengths[utterance] = samples
        if no_ffmpeg and path.suffix.lower() not in (".wav", ".flac") and shorten_header(path):
            preflight.add_problem("file compressed by shorten", CONVERT, folder, path.name)
    return lengths


def _counts(split: str, lines: Sequence[Line], files: Mapping[str, Path], sources: int) -> str:
    """Return the numbers of mixtures and utterances of a split, with the official ones."""
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
    """Return the recipes of all mixtures whose utterances are there; without ``levels`` their gains are 1."""
    choose_length = min if settings.mode == "min" else max
    paths = {utterance: name_below(files[utterance], root) for utterance in lengths}

    def source(utterance: str, level_db: float) -> Source:
        name = utterance.rsplit("/", 1)[1]
        gain = 10 ** (level_db / 20) / math.sqrt(levels[name]) if levels else 1.0
        return Source(paths[utterance], name[:3], None, 0, lengths[utterance], RATE_HZ, level_db, gain)

    recipes: dict[str, list[Recipe]] = {split: [] for split in SPLITS}
    for split, lines in lists.lines.items():
        for line in lines:
            if all(utterance in lengths for utterance in line.utterances):
                length = _resampled(choose_length(lengths[name] for name in line.utterances), settings.rate_hz)
                sources = tuple(map(source, line.utterances, line.levels_db))
                recipes[split].append(Recipe(line.name, GROUPS[split], length, sources, peak=PEAK))
    return recipes
