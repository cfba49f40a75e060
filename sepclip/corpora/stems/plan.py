"""From tracks of music to a mixture set: stems as sources in a fixed order, read in place or converted."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from sepclip.audio.files import Sound, name_below, read_sound
from sepclip.audio.layout import Layout
from sepclip.corpora import write_set
from sepclip.corpora.preflight import Plan, Preflight
from sepclip.corpora.stems.tracks import Facts, Track, choose_stems, find_tracks, look, split_tracks
from sepclip.corpora.write_set import Prepared
from sepclip.errors import UserError, counted
from sepclip.mixing.mixture_set import SET_FILE
from sepclip.mixing.recipe import SPLITS, Recipe, Source
from sepclip.mixing.render import to_int16
from sepclip.parallel import in_threads
from sepclip.terminal import say_some

LISTEN_SECONDS = 5
NOT_THE_SUM_DB = -20.0  # of what is left of a mixture without its stems; a limiter leaves less
GROUPS = {"tr": "seen", "cv": "unseen", "tt": "unseen"}


@dataclass(frozen=True)
class StemSettings:
    """All that decides, with the corpus, what a set of stems holds; None is what the files have."""

    fractions: Mapping[str, float]  # of the tracks that go to a split without a folder of its own
    stems: tuple[str, ...] = ()  # () is all that every track has
    rate_hz: int | None = None
    channels: int | None = None
    validation: tuple[str, ...] = ()  # tracks of cv
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UserError for what is not allowed."""
        if len(set(self.stems)) != len(self.stems):
            raise UserError(f"--stems {','.join(self.stems)}: each once")


@dataclass(frozen=True)
class _Found:
    """The tracks of each split, what their files say, and what is made of them."""

    tracks: dict[str, list[Track]]
    facts: dict[Path, Facts]
    layout: Layout
    mixture: str | None

    @property
    def as_is(self) -> bool:
        """Whether all files are read in place."""
        wanted = (True, self.layout.rate_hz, self.layout.channels)
        return all((fact.as_is, fact.rate_hz, fact.channels) == wanted for fact in self.facts.values())


def plan_stems(
    root: Path,
    out: Path,
    settings: StemSettings,
    *,
    corpus: str,
    official: Mapping[str, int] | None = None,
    jobs: int | None = None,
) -> Plan[Prepared]:
    """Look at every stem below ``root``; what is left is to write the recipes, and the audio where it has to change.

    ``official``: how many tracks each split should have. Raises UserError where there are too few tracks, or ``out``
    holds anything else.
    """
    if root.resolve() in (out.resolve(), *out.resolve().parents):
        raise UserError(f"{out} lies inside {root}, where it would be taken for tracks: choose another place")
    preflight = Preflight(out, smaller=", or choose a lower --rate or fewer --channels")
    recorded = {"corpus": corpus, "root": str(root.resolve()), **asdict(settings)}
    recorded |= {"stems": list(settings.stems), "validation": list(settings.validation)}
    done = write_set.finished(out, recorded)
    if done:
        return Plan(preflight, lambda: Prepared(done, already=True), already=True)
    found = _look(root, settings, preflight, jobs)
    recipes = {split: _recipes(root, split, found) for split in SPLITS}
    for split in SPLITS:
        told = f" (official {official[split]})" if official else ""
        preflight.facts.append(f"{split}: {counted(len(found.tracks[split]), 'track')}{told}")
    if found.facts:
        preflight.facts.append(str(found.layout) + (", read in place" if found.as_is else f", converted into {out}"))
    if not found.as_is:
        preflight.needed_bytes = write_set.bytes_to_write(
            out, recipes, 1 + len(found.layout.names), found.layout.channels
        )
    every = {name for tracks in found.tracks.values() for track in tracks for name in track.files} - {found.mixture}
    additive = not found.mixture or every == set(found.layout.names)
    off = _not_sums(root, [recipe for split in SPLITS for recipe in recipes[split]], jobs) if additive else []
    if off:
        preflight.facts.append(f"{counted(len(off), 'mixture')} not the sum of its stems: {', '.join(off)}")

    def make() -> Prepared:
        made = write_set.write_set(
            out,
            recipes,
            root=root,
            layout=found.layout,
            render=None if found.as_is else _converter(root, found),
            settings=recorded,
            report={"in_place": found.as_is, "additive": additive, "not_the_sum": off},
            jobs=jobs,
        )
        if off:
            say_some(f"{counted(len(off), 'mixture')} not the sum of its stems, all named in {SET_FILE}:", off)
        return Prepared(made, already=False)

    return Plan(preflight, make)


def _not_sums(root: Path, recipes: Sequence[Recipe], jobs: int | None) -> list[str]:
    """Return the names of the tracks whose mixture is not the sum of its stems, by some seconds of its middle."""

    def is_off(recipe: Recipe) -> bool:
        paths = [root / path for path in (recipe.mix, *(source.path for source in recipe.sources)) if path]
        if recipe.mix is None or any(path.suffix == ".mp4" for path in paths):
            return False
        rate_hz = soundfile.info(paths[0]).samplerate
        frames = min(recipe.length, LISTEN_SECONDS * rate_hz)
        sounds = [read_sound(path, start=(recipe.length - frames) // 2, frames=frames).samples for path in paths]
        if len({sound.shape for sound in sounds}) > 1:
            return False  # other rates, channels or lengths are no matter of the sum
        mixture, *stems = (sound.astype(np.float64) for sound in sounds)
        error = np.square(mixture - sum(stems)).sum()
        return bool(error > 10 ** (NOT_THE_SUM_DB / 10) * np.square(mixture).sum())

    found = zip(recipes, in_threads(is_off, recipes, "adding up stems", jobs), strict=True)
    return [recipe.name for recipe, off in found if off]


def _look(root: Path, settings: StemSettings, preflight: Preflight, jobs: int | None) -> _Found:
    """Find the tracks and look at their files; what is wrong goes into ``preflight``."""
    found = find_tracks(root, preflight)
    tracks = split_tracks(found, validation=settings.validation, fractions=settings.fractions, seed=settings.seed)
    names = {track.name for split in tracks.values() for track in split}
    for name in set(settings.validation) - names:
        preflight.wrong("validation track missing", "copy the corpus again: it is not whole", str(root), name)
    everything = [track for split in SPLITS for track in tracks[split]]
    stems, mixture = choose_stems(everything, settings.stems, preflight)
    parts = (*stems, *((mixture,) if mixture else ()))
    files = list(dict.fromkeys(track.files[part] for track in everything for part in parts if part in track.files))
    facts: dict[Path, Facts] = {}
    for path, fact in zip(files, in_threads(look, files, "looking at stems", jobs), strict=True):
        if isinstance(fact, Facts):
            facts[path] = fact
        else:
            preflight.wrong(*fact, name_below(path.parent, root), path.name)
    rates = Counter(fact.rate_hz for fact in facts.values())
    if len(rates) > 1 and settings.rate_hz is None:
        there = ", ".join(f"{count} of {rate} Hz" for rate, count in rates.most_common())
        preflight.wrong(f"files of different rates ({there})", "choose one with --rate", str(root), "all")
    channels = settings.channels or max((fact.channels for fact in facts.values()), default=1)
    for path, fact in facts.items():
        if fact.channels not in (1, channels) and channels != 1:
            todo = "choose --channels 1, or remove the folder of its track"
            what = f"file of {counted(fact.channels, 'channel')}, which do not make {channels}"
            preflight.wrong(what, todo, name_below(path.parent, root), path.name)
    rate_hz = settings.rate_hz or (rates.most_common(1)[0][0] if rates else 1)
    return _Found(tracks, facts, Layout(rate_hz, len(stems), channels, stems, fixed_order=True), mixture)


def _recipes(root: Path, split: str, found: _Found) -> list[Recipe]:
    """Return the recipes of the tracks whose files are all right."""
    parts = (*found.layout.names, *((found.mixture,) if found.mixture else ()))
    recipes = []
    for track in found.tracks[split]:
        facts = {part: found.facts.get(track.files[part]) for part in parts if part in track.files}
        whole = {part: fact for part, fact in facts.items() if fact is not None}
        if len(whole) < len(parts):
            continue
        longest = max(parts, key=lambda part: whole[part].samples / whole[part].rate_hz)
        leading = whole[found.mixture or longest]
        sources = tuple(
            Source(
                name_below(track.files[stem], root), stem, None, 0, whole[stem].samples, whole[stem].rate_hz, 0.0, 1.0
            )
            for stem in found.layout.names
        )
        length = -(-leading.samples * found.layout.rate_hz // leading.rate_hz)
        mix = name_below(track.files[found.mixture], root) if found.mixture else None
        recipes.append(Recipe(track.name, GROUPS[split], length, sources, mix=mix))
    return recipes


def _converter(root: Path, found: _Found) -> Callable[[Recipe], NDArray[np.int16]]:
    """Return what makes the mixture and sources (1 + S, C, T) of a recipe, at the rate and channels of the layout."""
    first = found.layout.names[0]
    tracks = {name_below(track.files[first], root): track for split in SPLITS for track in found.tracks[split]}

    def convert(recipe: Recipe) -> NDArray[np.int16]:
        track = tracks[recipe.sources[0].path]
        parts = (*((found.mixture,) if found.mixture else ()), *found.layout.names)
        waves = np.stack([_fit(track.read(part), found.layout, recipe.length) for part in parts])  # (*, C, T)
        if not found.mixture:
            waves = np.concatenate([waves.sum(0, keepdims=True), waves])  # (1 + S, C, T)
        peak = float(np.abs(waves).max(initial=0))
        return to_int16(waves / np.float32(max(1.0, peak)))  # one gain for all where full scale is exceeded

    return convert


def _fit(sound: Sound, layout: Layout, length: int) -> NDArray[np.float32]:
    """Return a sound as the layout says, ``length`` samples (C, T) long; a shorter one ends in silence."""
    samples = sound.samples.mean(0, keepdims=True) if layout.channels == 1 else sound.samples
    if sound.rate_hz != layout.rate_hz:
        import torch  # a second of start-up that stems of the right rate do not need

        from sepclip.audio.resample import resample

        samples = resample(torch.from_numpy(samples), sound.rate_hz, layout.rate_hz).numpy()
    samples = np.broadcast_to(samples[:, :length], (layout.channels, min(length, samples.shape[1])))
    return np.pad(samples, [(0, 0), (0, length - samples.shape[1])])
