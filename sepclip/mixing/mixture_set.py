"""Recipes of mixtures, and the mixture set that holds them.

A recipe says everything about one mixture: which stretch of which file, at which gain. Rendering it needs no random
numbers, so the same recipe gives the same samples wherever and in whatever order it is rendered.

A set is a folder: ``set.json`` (what it is; written last, so its presence means that the set is whole),
``tr.jsonl``, ``cv.jsonl``, ``tt.jsonl`` (one recipe a line) and, unless made without audio, the layout of wsj0-2mix:
``{tr,cv,tt}/{mix,s1,s2,...}/NAME.wav``. A corpus that comes as mixtures is read in place: its recipes
name the files of mixture and sources.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sepclip.audio.arrays import PcmWaves
from sepclip.audio.files import read_sound
from sepclip.audio.layout import Layout
from sepclip.errors import UserError, counted
from sepclip.mixing.recipe import SPLITS, Recipe
from sepclip.mixing.render import FULL_SCALE, to_int16

FORMAT = 1
SET_FILE = "set.json"


@dataclass(frozen=True)
class MixtureSet:
    """A finished set in the folder ``path``, whose recipes point into the corpus at ``root``."""

    path: Path
    root: Path
    rate_hz: int
    source_count: int
    audio: bool
    digest: str
    about: dict[str, Any]

    @classmethod
    def open(
        cls, path: Path, root: Path | None = None, *, noise: Path | None = None, rirs: Path | None = None
    ) -> "MixtureSet":
        """Open the set at ``path``.

        ``root``, ``noise`` and ``rirs`` say where its corpus, noise and room impulse responses lie now, should they
        have moved. Raises UserError where there is no set, an unfinished one, one of a newer format, or one that
        has no noise or rooms and is told where they lie.
        """
        file = path / SET_FILE
        if not path.is_dir():
            what = "is a file, not a folder" if path.exists() else "no such folder"
            raise UserError(f"{path}: {what}; `sepclip prepare` makes a mixture set")
        if not file.is_file():
            if (path / UNFINISHED_FILE).is_file():
                raise UserError(f"{path} is unfinished: run the same `sepclip prepare` again")
            raise UserError(f"{path} holds no mixture set ({SET_FILE} is missing); `sepclip prepare` makes one")
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
            if about["format"] > FORMAT:
                raise UserError(f"{file} has format {about['format']}, newer than this sepclip reads ({FORMAT})")
            for key, folder in (("noise_root", noise), ("rirs_root", rirs)):
                if folder is not None and not about.get(key):
                    raise UserError(f"--{key.replace('_', '-')} {folder}: the recipes of {path} name none of these")
                if folder is not None:
                    about[key] = str(folder.resolve())
            made = cls(
                path,
                root or Path(about["root"]),
                about["rate_hz"],
                about["source_count"],
                about["audio"],
                about["digest"],
                about,
            )
            _ = made.layout
            return made
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error!r}): prepare the set again in another folder") from error

    def recipes(self, split: str) -> list[Recipe]:
        """Read the recipes of one split."""
        file = self.path / f"{split}.jsonl"
        if split not in SPLITS:
            raise UserError(f"there is no split {split!r}: choose one of {', '.join(SPLITS)}")
        try:
            # split at newlines alone: file names may hold other characters that splitlines() takes for one
            return [Recipe.from_line(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error!r}): prepare the set again in another folder") from error

    def wave_path(self, split: str, part: str, name: str) -> Path:
        """Return where the wave of one ``part`` ("mix", "s1", "s2", ...) lies."""
        return self.path / split / part / f"{name}.wav"

    def require_root(self) -> None:
        """Raise UserError where the corpus is not where the set says."""
        if not self.root.is_dir():
            raise UserError(
                f"the recipes of {self.path} read their sources from {self.root}, which is not there: "
                f"say with --root where the corpus lies now"
            )

    @property
    def folders(self) -> dict[str, Path | None]:
        """Where root, noise and room impulse responses lie, by the names that :meth:`open` has for them."""
        noise, rirs = (self.about.get(key) for key in ("noise_root", "rirs_root"))
        return {
            "root": self.root,
            "noise": self.root / noise if noise else None,
            "rirs": self.root / rirs if rirs else None,
        }

    @property
    def layout(self) -> Layout:
        """What its mixtures and sources are like."""
        return Layout(
            self.rate_hz,
            self.source_count,
            self.about.get("channels", 1),
            tuple(self.about.get("source_names", ())),
            self.about.get("fixed_order", False),
        )

    @property
    def additive(self) -> bool:
        """Whether mixtures are the sum of their sources, or hold noise or an echo beside them."""
        return bool(self.about.get("additive", True))

    @property
    def in_place(self) -> bool:
        """Whether the files of the corpus are the mixtures and sources as they are."""
        return bool(self.about.get("in_place", False))

    def waves(self, split: str, recipe: Recipe, *, start: int = 0, samples: int | None = None) -> PcmWaves:
        """Return the mixture and its sources (1 + S, T), full scale 32768: read where rendered, else rendered now.

        Of several channels (1 + S, C, T). With ``samples``, so many of them from ``start`` on, or fewer at the end;
        only these are read, unless the mixture has to be rendered.
        """
        stop = recipe.length if samples is None else min(start + samples, recipe.length)
        if not self.audio and not self.in_place and recipe.mix is None:
            self.require_root()
            from sepclip.mixing.render import SetFolders, render_scene  # built on this module

            places = SetFolders.of(self.root, self.about)
            places.require()
            return render_scene(recipe, places, self.rate_hz)[:, start:stop]
        files = [self._source_file(split, recipe, index) for index in range(len(recipe.sources))]
        if self.audio:
            files.insert(0, (self.wave_path(split, "mix", recipe.name), recipe.length))
        elif recipe.mix is not None:
            files.insert(0, (self.root / recipe.mix, recipe.length))
        parts = [self._read(path, length, start, stop) for path, length in files]
        if any(part.dtype != np.int16 for part in parts):
            parts = [part if part.dtype != np.int16 else part.astype(np.float32) for part in parts]
        if len(parts) == len(recipe.sources):  # mixed when read, in float32 for it may exceed full scale
            parts.insert(0, np.sum(parts, axis=0, dtype=np.float32))
            return np.stack(parts).astype(np.float32)
        return np.stack(parts)

    def source_waves(self, split: str, recipe: Recipe, index: int, *, start: int, samples: int) -> PcmWaves:
        """Return so many samples (T,), or (C, T), of one source, from ``start`` on; fewer at the end of the mixture.

        Of a set whose sources lie in files as they are.
        """
        return self._read(*self._source_file(split, recipe, index), start, min(start + samples, recipe.length))

    def _source_file(self, split: str, recipe: Recipe, index: int) -> tuple[Path, int]:
        """Return the file of a source and its length in samples."""
        if self.audio:
            return self.wave_path(split, self.layout.names[index], recipe.name), recipe.length
        self.require_root()
        return self.root / recipe.sources[index].path, recipe.sources[index].length

    def _read(self, path: Path, length: int, start: int, stop: int) -> PcmWaves:
        """Return the samples of a file of ``length`` from ``start`` to ``stop``, (T,) or (C, T); silence at its end."""
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
        return (
            np.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(0, stop - start - wanted)]) if wanted < stop - start else wave
        )


UNFINISHED_FILE = "unfinished.json"
_IN_16_BITS = {"PCM_16", "PCM_U8", "PCM_S8"}
