"""Tracks of music, each a folder with a file for each stem: finding them, and dividing them into tr, cv and tt."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sepclip.audio import stem_file
from sepclip.audio.bad_sound import NOT_SOUND, BadSound
from sepclip.audio.decoding import ffmpeg
from sepclip.audio.files import HIDDEN, Sound, find_sounds, name_below, read_header, read_sound
from sepclip.audio.names import normal_name, split_names
from sepclip.corpora.preflight import Preflight, count_others, require_folder
from sepclip.corpora.shares import divide
from sepclip.errors import UserError, counted
from sepclip.mixing.chance import generator
from sepclip.mixing.recipe import SPLITS
from sepclip.terminal import say, warn_once

MIXTURES = ("mixture", "mix")  # names of the file of a whole track
USUAL = ("vocals", "drums", "bass", "other")  # the order of stems with these names; others follow
FOLDERS = {"train": "tr", "tr": "tr", "valid": "cv", "validation": "cv", "cv": "cv", "test": "tt", "tt": "tt"}
_NO_FFMPEG = "install ffmpeg, or use MUSDB18-HQ, which does not need it (zenodo.org/records/3338373)"
_COPY_AGAIN = "copy it again, or remove the folder of its track"


@dataclass(frozen=True)
class Track:
    """A track: its name, its folder (or stem file) below the root, and its files by stem, in lower case."""

    name: str
    place: str
    files: Mapping[str, Path]

    def read(self, part: str) -> Sound:
        """Read the whole of one stem or of the mixture."""
        path = self.files[part]
        return stem_file.read_stem(path, part) if path.name.endswith(stem_file.SUFFIX) else read_sound(path)


@dataclass(frozen=True)
class StemHeader:
    """What a file holds; ``as_is``: it can be read in place."""

    samples: int
    rate_hz: int
    channels: int
    as_is: bool


def read_stem_header(path: Path) -> StemHeader | tuple[str, str]:
    """Return what a file holds, or what is wrong with it and what to do."""
    try:
        if path.name.endswith(stem_file.SUFFIX):
            if ffmpeg() is None:
                return "stem file, which only ffmpeg can decode", _NO_FFMPEG
            return StemHeader(*stem_file.probe_stems(path), as_is=False)
        header = read_header(path)
    except BadSound as error:
        what = "no readable sound" if error.reason == NOT_SOUND else f"a fault ({error.reason})"
        return f"file with {what}", _COPY_AGAIN
    if header.loss:
        return f"{header.loss.partition(':')[0]} file", _COPY_AGAIN
    if not header.samples:
        return "file without samples", _COPY_AGAIN
    if header.header_fault:
        warn_once(f"{path}: {header.header_fault}")
    return StemHeader(header.samples, header.rate_hz, header.channels, as_is=True)


def stem_of(name: str) -> str:
    """Return the name of a stem, which does not depend on upper case or on how Unicode spells its letters."""
    return normal_name(normal_name(name).lower())


def name_stems(root: Path, texts: Iterable[str] | str | None) -> tuple[str, ...]:
    """Return the stems named in ``texts``, each one name or several with commas between them.

    The files of the corpus are listed only if a comma may belong to a name.
    """
    texts = [stem_of(text) for text in ([texts] if isinstance(texts, str) else texts or ())]
    names = split_names(texts, ())
    if set(names) <= set(USUAL) or not any("," in text for text in texts) or not root.is_dir():
        return tuple(names)
    return tuple(split_names(texts, {stem_of(path.stem) for path in find_sounds(root)[0]}))


def find_tracks(root: Path, preflight: Preflight) -> dict[str | None, list[Track]]:
    """Return the tracks below ``root`` by the split that their first folder names (train, valid, test), or by None."""
    require_folder(root, "a folder of tracks")
    sounds, left_out = find_sounds(root)
    if others := count_others(root, {*sounds, *left_out}):
        say(f"left alone: {others}")
    unused = {path: why for path, why in left_out.items() if why != HIDDEN and not path.name.endswith(stem_file.SUFFIX)}
    preflight.warnings.extend(f"{name_below(path, root)}: {why}" for path, why in unused.items())
    folders: dict[Path, dict[str, Path]] = {}
    for path in sounds:
        stems = folders.setdefault(path.parent, {})
        if stems.setdefault(stem_of(path.stem), path) != path:
            what, todo = "file of the same stem as another", "remove one of them"
            preflight.add_problem(what, todo, name_below(path.parent, root), path.name)
    tracks: dict[str | None, list[Track]] = {}
    for folder, stems in folders.items():
        _add_track(tracks, name_below(folder, root), stems, root)
    for path, reason in left_out.items():
        if path.name.endswith(stem_file.SUFFIX) and reason != HIDDEN:
            place = name_below(path, root).removesuffix(stem_file.SUFFIX)
            _add_track(tracks, place, dict.fromkeys(stem_file.STREAMS, path), root)
    if not tracks:
        raise UserError(
            f"{root} contains no tracks: folders with a sound file for each stem, such as {root}/SONG/vocals.wav"
        )
    return tracks


def _add_track(tracks: dict[str | None, list[Track]], place: str, files: Mapping[str, Path], root: Path) -> None:
    first, *rest = place.split("/")
    split = FOLDERS.get(first.lower())
    parts = rest if split and rest else [first]
    name = normal_name(" - ".join(parts) if parts != ["."] else root.resolve().name)
    tracks.setdefault(split if rest else None, []).append(Track(name, place, files))


def split_tracks(
    tracks_by_folder: Mapping[str | None, Sequence[Track]],
    *,
    validation: Collection[str],
    fractions: Mapping[str, float],
    seed: int,
) -> dict[str, list[Track]]:
    """Return the tracks of tr, cv and tt: those in their folders, and for a split without one, a part of those of tr.

    That part is the tracks named in ``validation`` for cv, else a share by ``fractions``. Raise UserError if there are
    too few tracks, or some are outside the folders of the splits.
    """
    if None in tracks_by_folder and len(tracks_by_folder) > 1:
        outside = tracks_by_folder[None][0].place
        raise UserError(
            f"some tracks are in folders such as train and test, others, such as {outside}, are not: move them"
        )
    tracks = {split: sorted(tracks_by_folder.get(split, ()), key=lambda track: track.name) for split in SPLITS}
    pool = sorted([*tracks_by_folder.get(None, ()), *tracks["tr"]], key=lambda track: track.name)
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
    shares = {split: fraction / sum(wanted.values()) for split, fraction in wanted.items()}
    for split, part in divide(pool, shares, 1, generator(seed, "split tracks")).items():
        tracks[split] = sorted(part, key=lambda track: track.name)
    return tracks


def choose_stems(
    tracks: Sequence[Track], wanted: Sequence[str], preflight: Preflight
) -> tuple[tuple[str, ...], str | None]:
    """Return the stems to separate, in order, and the name of the mixture's file; None if the tracks have none.

    The stems are those ``wanted``, or all that every track has. Stems missing in a track are added to ``preflight``, as
    warnings those that are dropped because some tracks lack them. Raise UserError if a stem that is wanted has the name
    of the mixture.
    """
    reserved = [name for name in wanted if name in MIXTURES]
    if reserved:
        raise UserError(
            f"--stems {','.join(wanted)}: {reserved[0]} is the name of the whole track: rename the files of that stem"
        )
    counts = Counter(name for track in tracks for name in track.files)
    mixture = next((name for name in MIXTURES if counts[name]), None)
    common = [name for name in sorted(counts) if counts[name] == len(tracks) and name not in MIXTURES]
    order = {name: index for index, name in enumerate(USUAL)}
    stems = tuple(wanted) or tuple(sorted(common, key=lambda name: (order.get(name, len(order)), name)))
    if not stems:
        most = ", ".join(f"{name} ({count})" for name, count in counts.most_common(5))
        raise UserError(
            f"no stem is in all {len(tracks)} tracks; there are {most}, ...: name the ones to separate with --stems"
        )
    if not wanted:
        some = [name for name in sorted(counts) if name not in (*stems, *MIXTURES)]
        dropped = [f"{name} ({counts[name]} of {counted(len(tracks), 'track')})" for name in some]
        if dropped:
            preflight.warnings.append(
                f"stems that only some tracks have are left out: {', '.join(dropped)}; to require them, name all stems "
                f"with --stems"
            )
    for track in tracks:
        for name in (*stems, *((mixture,) if mixture else ())):
            if name not in track.files:
                preflight.add_problem("stem missing", "add it, or remove the folder of its track", track.place, name)
    return stems, mixture
