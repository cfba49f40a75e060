"""Mixture sets: the folder that `sepclip prepare` writes, and reading its mixtures.

A set is a folder: ``set.json`` (:class:`SetDocument`; written last, so its presence means that the set is complete),
``tr.jsonl``, ``cv.jsonl``, ``tt.jsonl`` (one recipe a line) and, unless made without audio, the layout of wsj0-2mix:
``{tr,cv,tt}/{mix,s1,s2,...}/NAME.wav``. A corpus that comes as mixtures is read in place: its recipes name the files
of the mixture and the sources.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np

from sepclip.audio.arrays import PcmWaves
from sepclip.audio.files import read_sound
from sepclip.audio.layout import Layout
from sepclip.errors import UserError, counted
from sepclip.mixing.levels import LevelFields, LevelLaw
from sepclip.mixing.recipe import SPLITS, Recipe
from sepclip.mixing.render import FULL_SCALE, TARGETS, SetFolders, render_scene, to_int16

FORMAT = 2  # of the newest sets; those without absent sources and turns are still written as 1, which 0.1 reads
SET_FILE = "set.json"
UNFINISHED_FILE = "unfinished.json"
_IN_16_BITS = {"PCM_16", "PCM_U8", "PCM_S8"}  # subtypes of sound files whose samples fit into int16


class Spread(TypedDict):
    """The least, median and most of a quantity over the mixtures of a split."""

    least: float
    median: float
    most: float


class SplitStatistics(TypedDict):
    """What the mixtures of one split are like."""

    mixtures: int
    minutes: float
    voices: int
    utterances: int
    overlap: float  # of the time in which somebody speaks, the share in which two or more do
    apart_db: Spread  # between the loudest and the softest voice of a mixture
    snr_db: Spread | None  # the louder voice over the noise
    sexes: dict[str, int]  # mixtures by the sexes of their voices, such as "fm"


class SetReport(TypedDict, total=False):
    """What the maker of a set writes into ``set.json``, beside what every set has. :data:`DEFAULTS` has the rest."""

    additive: bool  # each mixture is the sum of its sources, without noise or an echo beside them
    in_place: bool  # the files of the corpus are the mixtures and sources as they are
    levels: LevelFields  # how dynamic mixing brings sources to level
    task: str | None  # of LibriMix, such as "sep_noisy"
    noise_root: str | None  # folder of the noise, absolute or relative to the root
    rirs_root: str | None  # folder of the room impulse responses, likewise
    targets: str  # one of render.TARGETS
    by_scripts: bool  # files are resampled as by the scripts of the corpus
    unnamed: str | None  # what the mixtures contain and the recipes do not name, in words
    not_the_sum: list[str]  # names of the mixtures that are not the sum of their sources although they should be
    corpus_digest: str  # SHA-256 of the samples of all files used
    left_out: dict[str, str]  # why a file of the corpus is not used, by its path
    corrected: dict[str, str]  # how a file was made mono other than by the mean of its channels, by its path
    barely_heard: dict[str, int]  # of each split: the mixtures in which a voice speaks for less than a second
    statistics: dict[str, SplitStatistics]  # of each split


class SetDocument(SetReport):
    """The contents of ``set.json``."""

    format: int
    root: str  # folder that the paths in the recipes are relative to
    rate_hz: int
    source_count: int
    source_names: list[str]  # empty: s1, s2, ...
    channels: int
    fixed_order: bool  # source and estimate of one index belong together
    audio: bool  # mixtures and sources are in the folder of the set
    digest: str  # SHA-256 of the recipes
    counts: dict[str, int]  # mixtures of each split
    settings: dict[str, Any]  # the corpus and the options it was prepared with; plain JSON, compared as a whole


# the value of every key that a set may lack, because it does not apply or is younger than the set
DEFAULTS: dict[str, Any] = {
    "additive": True,
    "in_place": False,
    "levels": {},
    "task": None,
    "noise_root": None,
    "rirs_root": None,
    "targets": TARGETS[0],
    "by_scripts": False,
    "unnamed": None,
    "not_the_sum": [],
    "corpus_digest": "",
    "left_out": {},
    "corrected": {},
    "barely_heard": {},
    "statistics": {},
    "source_names": [],
    "channels": 1,
    "fixed_order": False,
}


def with_defaults(document: dict[str, Any]) -> SetDocument:
    """Return the contents of a ``set.json`` with the default of every key that it lacks."""
    return cast(SetDocument, {**DEFAULTS, **document})


@dataclass(frozen=True)
class MixtureSet:
    """A finished set in the folder ``path``, whose recipes point into the corpus at ``root``.

    ``about`` has every key of :class:`SetDocument`, whatever the version that wrote the set.
    """

    path: Path
    root: Path
    rate_hz: int
    source_count: int
    audio: bool
    digest: str
    about: SetDocument

    @classmethod
    def open(
        cls, path: Path, root: Path | None = None, *, noise: Path | None = None, rirs: Path | None = None
    ) -> "MixtureSet":
        """Open the set at ``path``.

        ``root``, ``noise`` and ``rirs`` say where its corpus, noise and room impulse responses are now, if they have
        moved. Raise UserError if there is no set, or it is unfinished or of a newer format, or if ``noise`` or
        ``rirs`` is given for a set without noise or rooms.
        """
        file = path / SET_FILE
        if not path.is_dir():
            what = "is a file, not a folder" if path.exists() else "no such folder"
            raise UserError(f"{path}: {what}; `sepclip prepare` makes a mixture set")
        if not file.is_file():
            if (path / UNFINISHED_FILE).is_file():
                raise UserError(f"{path} is unfinished: run the same `sepclip prepare` again")
            raise UserError(f"{path} contains no mixture set ({SET_FILE} is missing); `sepclip prepare` makes one")
        try:
            about = with_defaults(json.loads(file.read_text(encoding="utf-8")))
            if about["format"] > FORMAT:
                raise UserError(f"{file} has format {about['format']}, newer than this sepclip reads ({FORMAT})")
            for option, was, folder in (
                ("--noise-root", about["noise_root"], noise),
                ("--rirs-root", about["rirs_root"], rirs),
            ):
                if folder is not None and not was:
                    raise UserError(f"{option} {folder}: the recipes of {path} name none of these")
            if noise is not None:
                about["noise_root"] = str(noise.resolve())
            if rirs is not None:
                about["rirs_root"] = str(rirs.resolve())
            mixtures = cls(
                path,
                root or Path(about["root"]),
                about["rate_hz"],
                about["source_count"],
                about["audio"],
                about["digest"],
                about,
            )
            _ = mixtures.layout  # raises ValueError if the names do not match the number of sources
            return mixtures
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error!r}): prepare the set again in another folder") from error

    def recipes(self, split: str) -> list[Recipe]:
        """Read the recipes of one split."""
        file = self.path / f"{split}.jsonl"
        if split not in SPLITS:
            raise UserError(f"there is no split {split!r}: choose one of {', '.join(SPLITS)}")
        try:
            # split only at newlines: file names may contain other characters that splitlines() takes for one
            return [Recipe.from_line(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error!r}): prepare the set again in another folder") from error

    def wave_path(self, split: str, part: str, name: str) -> Path:
        """Return the path of the wave of one ``part`` ("mix", "s1", "s2", ...)."""
        return self.path / split / part / f"{name}.wav"

    def require_root(self) -> None:
        """Raise UserError if the corpus is not where the set says."""
        if not self.root.is_dir():
            raise UserError(
                f"the recipes of {self.path} read their sources from {self.root}, which is not there: "
                f"say with --root where the corpus is now"
            )

    @property
    def source_folders(self) -> SetFolders:
        """The folders that the recipes point into, and how their files are read."""
        # relative to the root: the noise of a tree that is read in place moves with the tree
        noise, rirs = (
            self.root / folder if folder else None for folder in (self.about["noise_root"], self.about["rirs_root"])
        )
        return SetFolders(self.root, noise, rirs, self.about["targets"], self.about["by_scripts"])

    @property
    def folders(self) -> dict[str, Path | None]:
        """Root, noise and room impulse responses by the names of the arguments of :meth:`open`."""
        folders = self.source_folders
        return {"root": folders.root, "noise": folders.noise, "rirs": folders.rirs}

    @property
    def layout(self) -> Layout:
        """The shape of its mixtures and sources."""
        about = self.about
        names = tuple(about["source_names"])
        return Layout(self.rate_hz, self.source_count, about["channels"], names, about["fixed_order"])

    @property
    def level_law(self) -> LevelLaw:
        """How dynamic mixing brings its sources to level."""
        return LevelLaw(**self.about["levels"])

    @property
    def additive(self) -> bool:
        """Whether mixtures are the sum of their sources, without noise or an echo beside them."""
        return self.about["additive"]

    @property
    def in_place(self) -> bool:
        """Whether the files of the corpus are the mixtures and sources as they are."""
        return self.about["in_place"]

    def waves(self, split: str, recipe: Recipe, *, start: int = 0, samples: int | None = None) -> PcmWaves:
        """Return the mixture and its sources (1 + S, T), full scale 32768: read from files, or else rendered now.

        With several channels, the shape is (1 + S, C, T). With ``samples``, return that many from ``start`` on, or
        fewer at the end; only these are read, unless the mixture has to be rendered.
        """
        stop = recipe.length if samples is None else min(start + samples, recipe.length)
        # a set of recipes alone: render the whole mixture, since its common gain depends on all samples
        if not self.audio and not self.in_place and recipe.mix is None:
            self.require_root()
            folders = self.source_folders
            folders.require()
            return render_scene(recipe, folders, self.rate_hz)[:, start:stop]
        # otherwise read the sources from their files, and the mixture too if it has one
        files = [self._source_file(split, recipe, index) for index in range(len(recipe.sources))]
        if self.audio:
            files.insert(0, (self.wave_path(split, "mix", recipe.name), recipe.length))
        elif recipe.mix is not None:
            files.insert(0, (self.root / recipe.mix, recipe.length))
        parts = [self._read(path, length, start, stop) for path, length in files]
        # one float file makes the whole stack float
        if any(part.dtype != np.int16 for part in parts):
            parts = [part if part.dtype != np.int16 else part.astype(np.float32) for part in parts]
        if len(parts) == len(recipe.sources):
            # no file for the mixture: the sum, in float32 because it may exceed full scale
            parts.insert(0, np.sum(parts, axis=0, dtype=np.float32))
            return np.stack(parts).astype(np.float32)
        return np.stack(parts)

    def source_waves(self, split: str, recipe: Recipe, index: int, *, start: int, samples: int) -> PcmWaves:
        """Return ``samples`` samples (T,) or (C, T) of one source from ``start`` on; fewer at the end of the mixture.

        Only for sets whose sources are files.
        """
        return self._read(*self._source_file(split, recipe, index), start, min(start + samples, recipe.length))

    def _source_file(self, split: str, recipe: Recipe, index: int) -> tuple[Path, int]:
        """Return the file of a source and its length in samples."""
        if self.audio:
            return self.wave_path(split, self.layout.names[index], recipe.name), recipe.length
        self.require_root()
        return self.root / recipe.sources[index].path, recipe.sources[index].length

    def _read(self, path: Path, length: int, start: int, stop: int) -> PcmWaves:
        """Return the samples from ``start`` to ``stop`` of a file of ``length``, (T,) or (C, T); silence after its end.

        They are int16 if the file has 16 bits or fewer, else float32 at the same full scale.
        """
        whole = start == 0 and stop == length
        wanted = max(0, min(stop, length) - start)
        sound = read_sound(path, start=start, frames=-1 if whole else wanted)
        channels = self.layout.channels
        if sound.samples.shape != (channels, wanted) or sound.rate_hz != self.rate_hz:
            raise UserError(
                f"{path} is not {length} samples of {counted(channels, 'channel')} at {self.rate_hz} Hz, "
                f"as its recipe says: prepare the set again"
            )
        samples = sound.samples[0] if channels == 1 else sound.samples
        in_16_bits = sound.subtype in _IN_16_BITS
        wave: PcmWaves = to_int16(samples) if in_16_bits else samples * np.float32(FULL_SCALE)
        missing = stop - start - wanted
        return np.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(0, missing)]) if missing > 0 else wave
