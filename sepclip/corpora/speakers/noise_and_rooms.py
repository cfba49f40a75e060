"""Drawing noise and rooms for the recipes of a set, each split from recordings of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from sepclip.audio.files import BadSound, find_sounds, mono_at_rate, name_below, read_sound
from sepclip.corpora.shares import shares_of
from sepclip.errors import UserError, counted
from sepclip.mixing.chance import generator
from sepclip.mixing.levels import LEVEL_DBFS
from sepclip.mixing.recipe import SPLITS, Recipe, Source
from sepclip.mixing.rooms import read_response
from sepclip.parallel import in_threads
from sepclip.terminal import say, say_some

_SILENT = 1e-6  # mean square of a second of noise that no gain brings to level
_MOST_SECONDS = 20.0  # of a room impulse response

F = TypeVar("F", "Noise", "Room")
Recipes = Mapping[str, Sequence[Recipe]]


@dataclass(frozen=True)
class Noise:
    """A recording of noise, with the mean square of each of its seconds at the rate of the set."""

    path: str  # below the folder of noise
    rate_hz: int  # of the file
    powers: tuple[float, ...]

    def level(self, second: int, seconds: float) -> float:
        """Return the RMS of so many ``seconds`` from one on; at the end it begins anew."""
        covered = [self.powers[(second + index) % len(self.powers)] for index in range(max(1, round(seconds)))]
        return float(np.sqrt(np.mean(covered)))


@dataclass(frozen=True)
class Room:
    """The impulse responses of one folder, or a single one."""

    path: str  # below the folder of them all
    responses: tuple[str, ...]  # likewise


def survey_noise(folder: Path, rate_hz: int, jobs: int | None) -> list[Noise]:
    """Read every recording of noise once; what cannot be used is named. Raises UserError where none is left."""

    def measure(path: Path) -> Noise | str:
        sound = read_sound(path)
        wave = mono_at_rate(sound.samples, sound.rate_hz, rate_hz)  # as it will be heard
        seconds = len(wave) // rate_hz
        if not seconds:
            return "shorter than a second"
        powers = np.square(wave[: seconds * rate_hz].astype(np.float64)).reshape(seconds, rate_hz).mean(1)
        if powers.min() < _SILENT:
            return "silent for a second or longer"
        return Noise(name_below(path, folder), sound.rate_hz, tuple(powers.tolist()))

    return _survey(folder, "noise", measure, jobs)


def survey_rooms(folder: Path, rate_hz: int, jobs: int | None) -> list[Room]:
    """Return the rooms with the responses that can be used; the others are named. Raises UserError where none is left.

    A folder is a room. Where there are fewer than one for each split, each response is taken for a room of its own.
    """

    def look(path: Path) -> Room | str:
        if len(read_response(path, rate_hz)) > _MOST_SECONDS * rate_hz:
            return f"longer than {_MOST_SECONDS:g} s: no impulse response"
        name = name_below(path, folder)
        return Room(name, (name,))

    single = _survey(folder, "rirs", look, jobs)
    by_folder: dict[str, list[str]] = {}
    for one in single:
        by_folder.setdefault(one.path.rpartition("/")[0], []).append(one.path)
    rooms = [Room(name, tuple(paths)) for name, paths in by_folder.items()]
    return rooms if len(rooms) >= len(SPLITS) else single


def _survey(folder: Path, option: str, look: Callable[[Path], F | str], jobs: int | None) -> list[F]:
    if not folder.is_dir():
        raise UserError(f"--{option} {folder}: no such folder")
    paths, left_out = find_sounds(folder)
    reasons = {name_below(path, folder): reason for path, reason in left_out.items()}

    def careful(path: Path) -> F | str:
        try:
            return look(path)
        except UserError as error:
            return error.reason if isinstance(error, BadSound) else str(error)

    found: list[F] = []
    for path, one in zip(paths, in_threads(careful, paths, f"reading --{option}", jobs), strict=True):
        if isinstance(one, str):
            reasons[name_below(path, folder)] = one
        else:
            found.append(one)
    if reasons:
        say_some(f"left out {counted(len(reasons), 'file')} of --{option}:", [f"{p}: {r}" for p, r in reasons.items()])
    if not found:
        raise UserError(f"--{option} {folder} holds no sound file that can be used")
    return found


def divide(found: Sequence[F], fractions: Mapping[str, float], seed: int, option: str) -> dict[str, list[F]]:
    """Divide recordings over the splits: by folders tr, cv and tt where all lie in these, else by ``fractions``."""
    folders = [one.path.split("/")[0] for one in found]
    if set(folders) == set(SPLITS):
        return {split: [one for one, name in zip(found, folders, strict=True) if name == split] for split in SPLITS}
    if len(found) < len(SPLITS):
        say(f"--{option} has {counted(len(found), 'recording')} for tr, cv and tt: all of them hear the same")
        return {split: list(found) for split in SPLITS}
    order = list(found)
    generator(seed, f"split {option}").shuffle(order)
    parts, start = {}, 0
    for split, count in shares_of(len(order), fractions, 1).items():
        parts[split] = sorted(order[start : start + count], key=lambda one: one.path)
        start += count
    return parts


def add_noise(
    recipes: Recipes,
    noises: Sequence[Noise],
    *,
    snr_db: tuple[float, float],
    rate_hz: int,
    fractions: Mapping[str, float],
    seed: int,
) -> dict[str, list[Recipe]]:
    """Draw a stretch of noise for each recipe, and how far it is below the louder voice, uniformly in ``snr_db``."""
    parts = divide(noises, fractions, seed, "noise")

    def noisy(split: str, index: int, recipe: Recipe) -> Recipe:
        chance = generator(seed, f"noise {split}", index)
        noise = chance.choice(parts[split])
        second, snr = chance.randrange(len(noise.powers)), chance.uniform(*snr_db)
        seconds = recipe.length / rate_hz
        level_db = max(source.level_db for source in recipe.sources) - snr
        gain = 10 ** ((LEVEL_DBFS + level_db) / 20) / noise.level(second, seconds)
        length = -(-recipe.length * noise.rate_hz // rate_hz)
        stretch = Source(
            noise.path, "noise", None, second * noise.rate_hz, length, noise.rate_hz, round(level_db, 4), gain
        )
        return replace(recipe, noise=stretch)

    return {split: [noisy(split, *item) for item in enumerate(found)] for split, found in recipes.items()}


def add_rooms(
    recipes: Recipes, rooms: Sequence[Room], *, fractions: Mapping[str, float], seed: int
) -> dict[str, list[Recipe]]:
    """Draw an impulse response for each source, all of one room where any of the split has enough."""
    parts = divide(rooms, fractions, seed, "rirs")

    def echoing(split: str, index: int, recipe: Recipe) -> Recipe:
        chance, wanted = generator(seed, f"rooms {split}", index), len(recipe.sources)
        large = [room.responses for room in parts[split] if len(room.responses) >= wanted]
        every = [response for room in parts[split] for response in room.responses]
        if large:
            chosen = chance.sample(chance.choice(large), wanted)
        else:
            chosen = chance.sample(every, wanted) if len(every) >= wanted else chance.choices(every, k=wanted)
        sources = tuple(replace(source, rir=rir) for source, rir in zip(recipe.sources, chosen, strict=True))
        return replace(recipe, sources=sources)

    return {split: [echoing(split, *item) for item in enumerate(found)] for split, found in recipes.items()}


def add_scene(
    recipes: Recipes,
    *,
    noise: str | None,
    snr_db: tuple[float, float],
    rirs: str | None,
    rate_hz: int,
    fractions: Mapping[str, float],
    seed: int,
    jobs: int | None,
) -> dict[str, list[Recipe]]:
    """Add noise and rooms from the folders given, or nothing."""
    made = {split: list(found) for split, found in recipes.items()}
    if noise is not None:
        noises = survey_noise(Path(noise), rate_hz, jobs)
        made = add_noise(made, noises, snr_db=snr_db, rate_hz=rate_hz, fractions=fractions, seed=seed)
    if rirs is not None:
        made = add_rooms(made, survey_rooms(Path(rirs), rate_hz, jobs), fractions=fractions, seed=seed)
    return made


def check_place(option: str, folder: str | None, root: Path, out: Path) -> None:
    """Raise UserError for a folder that lies among the voices, or that the set lies in."""
    if folder is not None and Path(folder).resolve() in (out.resolve(), *out.resolve().parents):
        raise UserError(f"{out} lies inside {option} {folder}: choose another place for the mixtures")
    if folder is not None and root.resolve() in (Path(folder).resolve(), *Path(folder).resolve().parents):
        raise UserError(f"{option} {folder} lies inside {root}, where it would be taken for a voice: move it elsewhere")
