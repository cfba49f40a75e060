"""From tracks of music to a mixture set: stems as sources in a fixed order, read in place or converted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sepclip.audio.channels import ChannelMeter, one_channel
from sepclip.audio.files import Sound, name_below, read_header, read_sound
from sepclip.audio.layout import Layout
from sepclip.corpora.preflight import Preflight
from sepclip.corpora.stems.tracks import StemHeader, Track, choose_stems, find_tracks, read_stem_header, split_tracks
from sepclip.corpora.write_set import Plan, PlannedSet, Render, find_finished, for_one_set, write_sets
from sepclip.errors import UserError, counted
from sepclip.mixing.mixture_set import SET_FILE, MixtureSet, SetReport
from sepclip.mixing.recipe import SPLITS, Recipe, Source
from sepclip.mixing.render import to_int16
from sepclip.parallel import in_threads
from sepclip.terminal import say_some, warn

SUM_SECONDS = 5  # from the middle of a track, in which the stems are added up
NOT_THE_SUM_DB = -20.0  # of the mixture minus its stems; a limiter leaves less
GROUPS = {"tr": "seen", "cv": "unseen", "tt": "unseen"}


@dataclass(frozen=True)
class StemSettings:
    """All that decides, with the corpus, what is in a set of stems; None means as in the files."""

    fractions: Mapping[str, float]  # of the tracks that go to a split without a folder of its own
    stems: tuple[str, ...] = ()  # (): all that every track has
    rate_hz: int | None = None
    channels: int | None = None
    validation: tuple[str, ...] = ()  # tracks of cv
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UserError if a setting is not allowed."""
        if len(set(self.stems)) != len(self.stems):
            raise UserError(f"--stems {','.join(self.stems)}: name each once")


@dataclass(frozen=True)
class _Survey:
    """The tracks of each split, the headers of their files, and the layout of the set made from them."""

    tracks: dict[str, list[Track]]
    headers: dict[Path, StemHeader]
    layout: Layout
    mixture: str | None

    @property
    def as_is(self) -> bool:
        """Whether all files are read in place."""
        wanted = (True, self.layout.rate_hz, self.layout.channels)
        return all((header.as_is, header.rate_hz, header.channels) == wanted for header in self.headers.values())

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the files that a track must have: the mixture, if there is one, and the stems."""
        return (*((self.mixture,) if self.mixture else ()), *self.layout.names)


def plan_stems(
    root: Path,
    out: Path,
    settings: StemSettings,
    *,
    corpus: str,
    official: Mapping[str, int] | None = None,
    jobs: int | None = None,
) -> Plan:
    """Check every stem below ``root``, and plan to write the recipes, and the audio if it has to be converted.

    ``official`` is the number of tracks that each split should have. Raise UserError if there are too few tracks, or
    ``out`` contains anything else.
    """
    if root.resolve() in (out.resolve(), *out.resolve().parents):
        raise UserError(f"{out} is inside {root}, where it would be taken for tracks: choose another place")
    preflight = Preflight(out, smaller=", or choose a lower --rate or fewer --channels")
    recorded = {"corpus": corpus, "root": str(root.resolve()), **asdict(settings)}
    recorded |= {"stems": list(settings.stems), "validation": list(settings.validation)}
    finished, missing = find_finished({out: recorded})
    if not missing:
        return Plan(preflight, finished)
    survey = _survey(root, settings, preflight, jobs)
    recipes = {split: _recipes(root, split, survey) for split in SPLITS}
    for split in SPLITS:
        number = f" (official {official[split]})" if official else ""
        preflight.facts.append(f"{split}: {counted(len(survey.tracks[split]), 'track')}{number}")
    if survey.headers:
        how = "read in place" if survey.as_is else f"converted into {out}"
        preflight.facts.append(f"{survey.layout}, {how}")
    # the mixtures should be the sums of the stems only if all stems are separated
    stems = {name for tracks in survey.tracks.values() for track in tracks for name in track.files} - {survey.mixture}
    additive = not survey.mixture or stems == set(survey.layout.names)
    off = _not_sums(root, [recipe for split in SPLITS for recipe in recipes[split]], jobs) if additive else []
    if off:
        preflight.facts.append(f"{counted(len(off), 'mixture')} not the sum of its stems: {', '.join(off)}")
    report: SetReport = {"in_place": survey.as_is, "additive": additive, "not_the_sum": off}
    planned = PlannedSet(out, recipes, root, survey.layout, recorded, report)
    preflight.needed_bytes = 0 if survey.as_is else planned.missing_bytes

    def write() -> list[MixtureSet]:
        render = None if survey.as_is else for_one_set(_converter(root, survey))
        written = write_sets([planned], render, jobs)
        if off:
            say_some(
                f"{counted(len(off), 'mixture')} not the sum of its stems, all named in {SET_FILE}:", off, always=True
            )
        return written

    return Plan(preflight, write=write)


def _not_sums(root: Path, recipes: Sequence[Recipe], jobs: int | None) -> list[str]:
    """Return the names of the tracks whose mixture is not the sum of its stems, judged by a few seconds."""

    def is_off(recipe: Recipe) -> bool:
        paths = [root / path for path in (recipe.mix, *(source.path for source in recipe.sources)) if path]
        if recipe.mix is None or any(path.suffix == ".mp4" for path in paths):
            return False
        rate_hz = read_header(paths[0]).rate_hz
        frames = min(recipe.length, SUM_SECONDS * rate_hz)
        sounds = [read_sound(path, start=(recipe.length - frames) // 2, frames=frames).samples for path in paths]
        if len({sound.shape for sound in sounds}) > 1:
            return False  # files of different rates, channels or lengths cannot be added up
        mixture, *stems = (sound.astype(np.float64) for sound in sounds)
        error = np.square(mixture - sum(stems)).sum()
        return bool(error > 10 ** (NOT_THE_SUM_DB / 10) * np.square(mixture).sum())

    results = zip(recipes, in_threads(is_off, recipes, "adding up stems", jobs), strict=True)
    return [recipe.name for recipe, off in results if off]


def _survey(root: Path, settings: StemSettings, preflight: Preflight, jobs: int | None) -> _Survey:
    """Find the tracks and read the headers of their files; add what is wrong to ``preflight``."""
    tracks = split_tracks(
        find_tracks(root, preflight), validation=settings.validation, fractions=settings.fractions, seed=settings.seed
    )
    every = [track for split in SPLITS for track in tracks[split]]
    for name in set(settings.validation) - {track.name for track in every}:
        preflight.add_problem("validation track missing", "copy the corpus again: it is incomplete", str(root), name)
    stems, mixture = choose_stems(every, settings.stems, preflight)
    parts = (*stems, *((mixture,) if mixture else ()))
    files = list(dict.fromkeys(track.files[part] for track in every for part in parts if part in track.files))
    headers: dict[Path, StemHeader] = {}
    for path, header in zip(files, in_threads(read_stem_header, files, "checking stems", jobs), strict=True):
        if isinstance(header, StemHeader):
            headers[path] = header
        else:
            preflight.add_problem(*header, name_below(path.parent, root), path.name)
    # rate and channels: those asked for, or else those of the files, which must agree on the rate
    rates = Counter(header.rate_hz for header in headers.values())
    if len(rates) > 1 and settings.rate_hz is None:
        counts = ", ".join(f"{count} of {rate} Hz" for rate, count in rates.most_common())
        preflight.add_problem(f"files of different rates ({counts})", "choose one with --rate", str(root), "all")
    channels = settings.channels or max((header.channels for header in headers.values()), default=1)
    for path, header in headers.items():
        if header.channels not in (1, channels) and channels != 1:
            what = f"file of {counted(header.channels, 'channel')}, which cannot become {channels}"
            todo = "choose --channels 1, or remove the folder of its track"
            preflight.add_problem(what, todo, name_below(path.parent, root), path.name)
    rate_hz = settings.rate_hz or (rates.most_common(1)[0][0] if rates else 1)
    return _Survey(tracks, headers, Layout(rate_hz, len(stems), channels, stems, fixed_order=True), mixture)


def _recipes(root: Path, split: str, survey: _Survey) -> list[Recipe]:
    """Return the recipes of the tracks whose files are all right."""
    layout, recipes = survey.layout, []
    for track in survey.tracks[split]:
        headers = {part: survey.headers[path] for part, path in track.files.items() if path in survey.headers}
        if not set(survey.parts) <= set(headers):
            continue
        sources = tuple(
            Source(
                name_below(track.files[stem], root),
                stem,
                None,
                0,
                headers[stem].samples,
                headers[stem].rate_hz,
                0.0,
                1.0,
            )
            for stem in layout.names
        )
        # a mixture is as long as its file, or as its longest stem
        longest = max(layout.names, key=lambda stem: headers[stem].samples / headers[stem].rate_hz)
        leading = headers[survey.mixture or longest]
        length = -(-leading.samples * layout.rate_hz // leading.rate_hz)
        mix = name_below(track.files[survey.mixture], root) if survey.mixture else None
        recipes.append(Recipe(track.name, GROUPS[split], length, sources, mix=mix))
    return recipes


def _converter(root: Path, survey: _Survey) -> Render:
    """Return what renders the mixture and sources (1 + S, C, T) of a recipe at the rate and channels of the layout."""
    first = survey.layout.names[0]
    tracks = {name_below(track.files[first], root): track for split in SPLITS for track in survey.tracks[split]}

    def convert(recipe: Recipe) -> NDArray[np.int16]:
        track = tracks[recipe.sources[0].path]
        sounds = [track.read(part) for part in survey.parts]
        channel = _cancelling(sounds) if survey.layout.channels == 1 else None
        if channel is not None:
            warn(f"{track.place}: channels of its files cancel: channel {channel + 1} of all is used")
        waves = np.stack([_fit(sound, survey.layout, recipe.length, channel) for sound in sounds])  # (*, C, T)
        if not survey.mixture:
            waves = np.concatenate([waves.sum(0, keepdims=True), waves])  # (1 + S, C, T)
        peak = float(np.abs(waves).max(initial=0))
        return to_int16(waves / np.float32(max(1.0, peak)))  # one gain for all if full scale is exceeded

    return convert


def _cancelling(sounds: Sequence[Sound]) -> int | None:
    """Return the channel to take of all files of a track if the channels of one cancel, else None.

    It is the same for all, because the mixture has to stay the sum of its stems.
    """
    for sound in sounds:
        meter = ChannelMeter(len(sound.samples), sound.rate_hz)
        meter.add(sound.samples)
        if meter.channel is not None:
            return meter.channel
    return None


def _fit(sound: Sound, layout: Layout, length: int, channel: int | None) -> NDArray[np.float32]:
    """Return a sound with the rate and channels of the layout, ``length`` samples (C, T) long, padded with silence.

    One channel is the mean of those of the sound, or its ``channel``.
    """
    samples = sound.samples
    if layout.channels == 1:
        samples = one_channel(samples, channel if channel is not None and channel < len(samples) else None)[None]
    if sound.rate_hz != layout.rate_hz:
        import torch  # imported late: it takes a second, and stems of the right rate do not need it

        from sepclip.audio.resample import resample

        samples = resample(torch.from_numpy(samples), sound.rate_hz, layout.rate_hz).numpy()
    samples = np.broadcast_to(samples[:, :length], (layout.channels, min(length, samples.shape[1])))
    return np.pad(samples, [(0, 0), (0, length - samples.shape[1])])
