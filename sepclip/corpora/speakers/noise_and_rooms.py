"""Drawing noise and rooms for the recipes of a set, each split from recordings of its own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from sepclip.audio.arrays import Float32
from sepclip.audio.files import BadSound, find_sounds, name_below, stream_sound
from sepclip.audio.mono import MonoSound
from sepclip.corpora.shares import divide
from sepclip.corpora.speakers.voice_settings import VoiceSettings
from sepclip.errors import UserError, counted
from sepclip.mixing.chance import generator
from sepclip.mixing.levels import LEVEL_DBFS
from sepclip.mixing.recipe import SPLITS, Recipe, Source
from sepclip.mixing.rooms import read_response
from sepclip.parallel import in_threads
from sepclip.terminal import say, say_some, warn_once

_SILENT = 1e-6  # mean square of a second of noise; no gain brings less to level
_MOST_SECONDS = 20.0  # of a room impulse response
_RESPONSE_BLOCK, _RESPONSE_BLOCKS = 1 << 18, 65  # samples in a block; blocks of the longest file that is read

F = TypeVar("F", "Noise", "Room")
Recipes = Mapping[str, Sequence[Recipe]]


@dataclass(frozen=True)
class Noise:
    """A recording of noise, with the mean square of each of its seconds at the rate of the set."""

    path: str  # below the folder of noise
    rate_hz: int  # of the file
    powers: tuple[float, ...]
    channel: int | None = None  # as in Source, like dc
    dc: float | None = None
    corrections: str | None = None  # as MonoSound.corrections

    def level(self, second: int, seconds: float) -> float:
        """Return the RMS of ``seconds`` seconds from ``second`` on; after its end, the noise is repeated."""
        covered = [self.powers[(second + index) % len(self.powers)] for index in range(max(1, round(seconds)))]
        return float(np.sqrt(np.mean(covered)))


@dataclass(frozen=True)
class Room:
    """The impulse responses of one folder, or a single one."""

    path: str  # below the folder of all rooms
    responses: tuple[str, ...]  # likewise


def survey_noise(folder: Path, rate_hz: int, jobs: int | None) -> list[Noise]:
    """Read every recording of noise once, and name those that cannot be used. Raise UserError if none is left."""

    def measure(path: Path) -> Noise | str:
        sound = MonoSound(path)
        if sound.header_fault:
            warn_once(f"{path}: {sound.header_fault}")
        powers = _powers(sound.at_rate(rate_hz), rate_hz)  # as it will be mixed
        if not powers:
            return "shorter than a second"
        if min(powers) < _SILENT:
            return "silent for a second or longer"
        name = name_below(path, folder)
        return Noise(name, sound.rate_hz, powers, sound.channel, sound.dc, sound.corrections())

    noises = _survey(folder, "noise", measure, jobs)
    corrected = [f"{noise.path}: {noise.corrections}" for noise in noises if noise.corrections]
    if corrected:
        say_some(f"corrected {counted(len(corrected), 'file')} of --noise:", corrected, always=True)
    return noises


def _powers(blocks: Iterable[Float32], rate_hz: int) -> tuple[float, ...]:
    """Return the mean square of each whole second of a wave that comes in ``blocks`` (n,)."""
    rest, powers = np.zeros(0, np.float32), list[float]()
    for block in blocks:
        rest = np.concatenate([rest, block]) if rest.size else block
        seconds = len(rest) // rate_hz
        whole = rest[: seconds * rate_hz].reshape(seconds, rate_hz)
        powers += [float(np.square(second.astype(np.float64)).mean()) for second in whole]
        rest = rest[seconds * rate_hz :]
    return tuple(powers)


def survey_rooms(folder: Path, rate_hz: int, jobs: int | None) -> list[Room]:
    """Return the rooms with the responses that can be used, and name the others. Raise UserError if none is left.

    A folder is a room. If there are fewer folders than splits, each response counts as a room of its own.
    """

    def measure(path: Path) -> Room | str:
        # most of a file of hours is not read
        blocks = stream_sound(path, _RESPONSE_BLOCK)
        if sum(block.shape[1] for block in islice(blocks, _RESPONSE_BLOCKS)) > (_RESPONSE_BLOCKS - 1) * _RESPONSE_BLOCK:
            return f"longer than {_MOST_SECONDS:g} s: no impulse response"
        if len(read_response(path, rate_hz)) > _MOST_SECONDS * rate_hz:
            return f"longer than {_MOST_SECONDS:g} s: no impulse response"
        name = name_below(path, folder)
        return Room(name, (name,))

    responses = _survey(folder, "rirs", measure, jobs)
    by_folder: dict[str, list[str]] = {}
    for response in responses:
        by_folder.setdefault(response.path.rpartition("/")[0], []).append(response.path)
    rooms = [Room(name, tuple(paths)) for name, paths in by_folder.items()]
    return rooms if len(rooms) >= len(SPLITS) else responses


def _survey(folder: Path, option: str, measure: Callable[[Path], F | str], jobs: int | None) -> list[F]:
    """Return what ``measure`` returns of each sound below a folder; print the files it gives a reason against."""
    if not folder.is_dir():
        raise UserError(f"--{option} {folder}: no such folder")
    paths, left_out = find_sounds(folder)
    reasons = {name_below(path, folder): reason for path, reason in left_out.items()}

    def measure_or_reason(path: Path) -> F | str:
        try:
            return measure(path)
        except UserError as error:
            return error.reason if isinstance(error, BadSound) else str(error)

    recordings: list[F] = []
    for path, result in zip(paths, in_threads(measure_or_reason, paths, f"reading --{option}", jobs), strict=True):
        if isinstance(result, str):
            reasons[name_below(path, folder)] = result
        else:
            recordings.append(result)
    if reasons:
        lines = [f"{path}: {reason}" for path, reason in reasons.items()]
        say_some(f"left out {counted(len(reasons), 'file')} of --{option}:", lines, always=True)
    if not recordings:
        raise UserError(f"--{option} {folder} contains no sound file that can be used")
    return recordings


def split_recordings(recordings: Sequence[F], settings: VoiceSettings, option: str) -> dict[str, list[F]]:
    """Divide recordings over the splits: by folders tr, cv and tt if all are in these, else by the fractions."""
    folders = [recording.path.split("/")[0] for recording in recordings]
    if set(folders) == set(SPLITS):
        pairs = list(zip(folders, recordings, strict=True))
        return {split: [recording for folder, recording in pairs if folder == split] for split in SPLITS}
    if len(recordings) < len(SPLITS):
        say(f"--{option} has {counted(len(recordings), 'recording')} for tr, cv and tt: they share all of them")
        return {split: list(recordings) for split in SPLITS}
    parts = divide(recordings, settings.fractions, 1, generator(settings.seed, f"split {option}"))
    return {split: sorted(part, key=lambda recording: recording.path) for split, part in parts.items()}


def add_noise(recipes: Recipes, folder: Path, settings: VoiceSettings, jobs: int | None) -> dict[str, list[Recipe]]:
    """Draw a stretch of noise for each recipe, and its level below the louder voice, uniformly in the range."""
    rate_hz = settings.rate_hz
    parts = split_recordings(survey_noise(folder, rate_hz, jobs), settings, "noise")

    def with_noise(split: str, index: int, recipe: Recipe) -> Recipe:
        chance = generator(settings.seed, f"noise {split}", index)
        noise = chance.choice(parts[split])
        second, snr = chance.randrange(len(noise.powers)), chance.uniform(*settings.noise_snr_db)
        seconds = recipe.length / rate_hz
        level_db = recipe.loudest_db - snr
        gain = 10 ** ((LEVEL_DBFS + level_db) / 20) / noise.level(second, seconds)
        length = -(-recipe.length * noise.rate_hz // rate_hz)
        stretch = Source(
            *(noise.path, "noise", None, second * noise.rate_hz, length, noise.rate_hz, round(level_db, 4), gain),
            channel=noise.channel,
            dc=noise.dc,
        )
        return replace(recipe, noise=stretch)

    return {split: [with_noise(split, *item) for item in enumerate(mixtures)] for split, mixtures in recipes.items()}


def add_rooms(recipes: Recipes, folder: Path, settings: VoiceSettings, jobs: int | None) -> dict[str, list[Recipe]]:
    """Draw an impulse response for each source, all of one room if any room of the split has enough."""
    parts = split_recordings(survey_rooms(folder, settings.rate_hz, jobs), settings, "rirs")

    def with_rooms(split: str, index: int, recipe: Recipe) -> Recipe:
        chance, wanted = generator(settings.seed, f"rooms {split}", index), len(recipe.sources)
        large = [room.responses for room in parts[split] if len(room.responses) >= wanted]
        every = [response for room in parts[split] for response in room.responses]
        if large:
            chosen = chance.sample(chance.choice(large), wanted)
        else:
            chosen = chance.sample(every, wanted) if len(every) >= wanted else chance.choices(every, k=wanted)
        sources = tuple(replace(source, rir=rir) for source, rir in zip(recipe.sources, chosen, strict=True))
        return replace(recipe, sources=sources)

    return {split: [with_rooms(split, *item) for item in enumerate(mixtures)] for split, mixtures in recipes.items()}


def require_apart(option: str, folder: Path, root: Path, out: Path) -> None:
    """Raise UserError if a folder is among the voices, or the set is inside it."""
    place = folder.resolve()
    if place in (out.resolve(), *out.resolve().parents):
        raise UserError(f"{out} is inside {option} {folder}: choose another place for the mixtures")
    if root.resolve() in (place, *place.parents):
        raise UserError(f"{option} {folder} is inside {root}, where it would be taken for a voice: move it elsewhere")
