"""Music as folders of tracks, a folder a track and a file a stem: which there are, and which train and which test."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from sepclip.audio import stem_file
from sepclip.audio.decoding import ffmpeg
from sepclip.audio.files import HIDDEN, BadSound, Sound, find_sounds, is_truncated, name_below, read_sound
from sepclip.corpora.preflight import Preflight
from sepclip.corpora.shares import shares_of
from sepclip.errors import UserError, counted
from sepclip.mixing.chance import generator
from sepclip.mixing.recipe import SPLITS

MIXTURES = ("mixture", "mix")  # names of the file that holds a whole track
USUAL = ("vocals", "drums", "bass", "other")  # the order of stems that go by these names; others follow
FOLDERS = {"train": "tr", "tr": "tr", "valid": "cv", "validation": "cv", "cv": "cv", "test": "tt", "tt": "tt"}
_NO_FFMPEG = "install ffmpeg, or take MUSDB18-HQ, which needs none (zenodo.org/records/3338373)"
_AGAIN = "copy it again, or remove the folder of its track"


@dataclass(frozen=True)
class Track:
    """A track: its name, its folder (or stem file) below the root, and its files by stem, in small letters."""

    name: str
    place: str
    files: Mapping[str, Path]

    def read(self, part: str) -> Sound:
        """Read one stem or the mixture whole."""
        path = self.files[part]
        in_one = path.name.endswith(stem_file.SUFFIX)
        return stem_file.read_stem(path, part) if in_one else read_sound(path)


@dataclass(frozen=True)
class Facts:
    """What a file says of itself; ``as_is``: it can be read in place."""

    samples: int
    rate_hz: int
    channels: int
    as_is: bool


def look(path: Path) -> Facts | tuple[str, str]:
    """Return what the header of a file says, or what is wrong with it and what to do."""
    try:
        if path.name.endswith(stem_file.SUFFIX):
            if ffmpeg() is None:
                return "stem file, which takes ffmpeg to decode", _NO_FFMPEG
            return Facts(*stem_file.probe_stems(path), as_is=False)
        info = soundfile.info(path, verbose=True)
    except BadSound as error:
        return f"file that is {error.reason}", _AGAIN
    except (soundfile.SoundFileError, OSError):
        return "file that is no readable sound", _AGAIN
    if is_truncated(info.extra_info):
        return "truncated file", _AGAIN
    if not info.frames:
        return "file without samples", _AGAIN
    return Facts(int(info.frames), info.samplerate, info.channels, as_is=True)


def find_tracks(root: Path, preflight: Preflight) -> dict[str | None, list[Track]]:
    """Return the tracks below ``root`` by the split that their first folder names (train, valid, test), or by None."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder" if not root.exists() else f"{root} is a file, not a folder of tracks")
    sounds, left_out = find_sounds(root)
    folders: dict[Path, dict[str, Path]] = {}
    for path in sounds:
        stems = folders.setdefault(path.parent, {})
        other = stems.setdefault(path.stem.lower(), path)
        if other != path:
            todo = "remove one of them"
            preflight.wrong("file of the same stem as another", todo, name_below(path.parent, root), path.name)
    found: dict[str | None, list[Track]] = {}
    for folder, stems in folders.items():
        _add(found, name_below(folder, root), stems, root)
    for path, reason in left_out.items():
        if path.name.endswith(stem_file.SUFFIX) and reason != HIDDEN:
            place = name_below(path, root).removesuffix(stem_file.SUFFIX)
            _add(found, place, dict.fromkeys(stem_file.STREAMS, path), root)
    if not found:
        raise UserError(
            f"{root} holds no tracks: folders with a sound file for each stem, such as {root}/SONG/vocals.wav"
        )
    return found


def _add(found: dict[str | None, list[Track]], place: str, files: Mapping[str, Path], root: Path) -> None:
    first, *rest = place.split("/")
    split = FOLDERS.get(first.lower())
    parts = rest if split and rest else [first]
    name = " - ".join(parts) if parts != ["."] else root.resolve().name
    found.setdefault(split if rest else None, []).append(Track(name, place, files))


def split_tracks(
    found: Mapping[str | None, Sequence[Track]],
    *,
    validation: Collection[str],
    fractions: Mapping[str, float],
    seed: int,
) -> dict[str, list[Track]]:
    """Return the tracks of tr, cv and tt: by their folders, and for a split without one from those that train.

    Of these, ``validation`` names the tracks of cv; otherwise each gets its share by ``fractions``. Raises UserError
    where there are too few tracks, or some lie outside the folders of the splits.
    """
    if None in found and len(found) > 1:
        outside = found[None][0].place
        raise UserError(
            f"some tracks lie in folders such as train and test, others, such as {outside}, do not: move them"
        )
    tracks = {split: sorted(found.get(split, ()), key=lambda track: track.name) for split in SPLITS}
    pool = sorted([*found.get(None, ()), *tracks["tr"]], key=lambda track: track.name)
    if validation and not tracks["cv"]:
        tracks["cv"] = [track for track in pool if track.name in validation]
        pool = [track for track in pool if track.name not in validation]
    missing = [split for split in ("cv", "tt") if not tracks[split]]
    wanted = {split: fractions[split] for split in ("tr", *missing)}
    if len(pool) < len(wanted):
        raise UserError(
            f"{counted(len(pool), 'track')} cannot be divided into {', '.join(wanted)}: {len(wanted)} or more are "
            f"needed, each a folder of stems"
        )
    fractions = {split: fraction / sum(wanted.values()) for split, fraction in wanted.items()}
    generator(seed, "split tracks").shuffle(pool)
    start = 0
    for split, size in shares_of(len(pool), fractions, 1).items():
        tracks[split] = sorted(pool[start : start + size], key=lambda track: track.name)
        start += size
    return tracks


def choose_stems(
    tracks: Sequence[Track], asked: Sequence[str], preflight: Preflight
) -> tuple[tuple[str, ...], str | None]:
    """Return the stems to separate, in order, and the name of the mixture's file; None where the tracks have none.

    Those ``asked`` for, or all that every track has. What a track lacks goes into ``preflight``.
    """
    counts = Counter(name for track in tracks for name in track.files)
    mixture = next((name for name in MIXTURES if counts[name]), None)
    common = [name for name in sorted(counts) if counts[name] == len(tracks) and name not in MIXTURES]
    order = {name: index for index, name in enumerate(USUAL)}
    stems = tuple(asked) or tuple(sorted(common, key=lambda name: (order.get(name, len(order)), name)))
    if not stems:
        most = ", ".join(f"{name} ({count})" for name, count in counts.most_common(5))
        raise UserError(
            f"no stem is in all {len(tracks)} tracks; there are {most}, ...: name the ones to separate with --stems"
        )
    for track in tracks:
        for name in (*stems, *((mixture,) if mixture else ())):
            if name not in track.files:
                preflight.wrong("stem missing", "add it, or remove the folder of its track", track.place, name)
    return stems, mixture
