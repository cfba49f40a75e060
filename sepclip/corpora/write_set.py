"""Writing mixture sets so that a kill at any moment costs only time.

``unfinished.json`` is written first and records the settings; ``set.json`` is written last. Every wave and every
recipe depends only on the settings and the corpus, so a second run writes what is missing and ends with the same
bytes as an undisturbed one.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepclip.audio.files import WAV_HEADER, replace_file, write_sound, write_text
from sepclip.audio.layout import Layout
from sepclip.corpora.preflight import Preflight
from sepclip.corpora.speakers.statistics import statistics_line
from sepclip.corpora.toolkit_lists import NOISE, write_lists
from sepclip.errors import UserError, counted
from sepclip.mixing.mixture_set import FORMAT, SET_FILE, UNFINISHED_FILE, MixtureSet, SetReport, with_defaults
from sepclip.mixing.recipe import SPLITS, Recipe
from sepclip.mixing.render import FULL_SCALE
from sepclip.parallel import in_processes

_TEMPORARY = ".*.tmp"  # as replace_file names them


@dataclass(frozen=True)
class PlannedSet:
    """A set to be written: everything but its audio.

    ``settings`` decide whether a later run makes the same set; ``report`` goes into ``set.json`` as it is.
    """

    out: Path
    recipes: Mapping[str, Sequence[Recipe]]
    root: Path
    layout: Layout
    settings: dict[str, Any]
    report: SetReport

    @property
    def missing_bytes(self) -> int:
        """The bytes of audio that are still to be written."""
        parts, channels = 1 + self.layout.sources, self.layout.channels
        # a noisy mixture has one more file
        files = [(recipe.length, parts + bool(recipe.noise)) for recipes in self.recipes.values() for recipe in recipes]
        needed = sum(count * (WAV_HEADER + 2 * channels * length) for length, count in files)
        written = sum(file.stat().st_size for split in SPLITS for file in (self.out / split).glob("*/*.wav"))
        return max(0, needed - written)


# Renders a mixture and its sources: (1 + S, T) or (1 + S, C, T), the mixture first
Render = Callable[[Recipe], NDArray[np.int16]]
# Renders one mixture for several sets: takes (set index, recipe) pairs of one mixture and yields the waves of each
RenderAll = Callable[[Sequence[tuple[int, Recipe]]], Iterable[NDArray[np.int16]]]


def for_one_set(render: Render) -> RenderAll:
    """Return ``render`` as :func:`write_sets` needs it for a single set."""
    return lambda mixture: (render(recipe) for _, recipe in mixture)


@dataclass(frozen=True)
class PreparedSet:
    """A finished mixture set, and whether it was there before."""

    mixtures: MixtureSet
    already: bool

    def document(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return {
            "path": str(self.mixtures.path),
            "already": self.already,
            "mixtures": {split: count_by_group(self.mixtures.recipes(split)) for split in SPLITS},
            "statistics": self.mixtures.about["statistics"] or None,
            **({"barely_heard": barely_heard} if (barely_heard := self.mixtures.about["barely_heard"]) else {}),
        }

    def summary(self) -> str:
        """Return the result as a line, and a line of statistics for each split that has them."""
        mixtures = self.mixtures
        if self.already:
            return f"{mixtures.path} is already prepared with these settings"
        parts = []
        for split in SPLITS:
            recipes = mixtures.recipes(split)
            minutes = sum(recipe.length for recipe in recipes) / mixtures.rate_hz / 60
            groups = ", ".join(f"{count} {name}" for name, count in count_by_group(recipes).items())
            parts.append(f"{split} {minutes:.1f} min ({groups})")
        what = "mixtures" if mixtures.audio else "recipes (no audio: mixed when read)"
        if mixtures.in_place:
            what = f"recipes (the audio stays in {mixtures.root})"
        statistics = mixtures.about["statistics"].items()
        lines = [statistics_line(split, values) for split, values in statistics if values["mixtures"]]
        lines += barely_heard_lines(mixtures.about["barely_heard"], mixtures.about["counts"])
        return "\n".join([f"wrote {what} to {mixtures.path}: {', '.join(parts)}", *lines])


def barely_heard_lines(counts: Mapping[str, int], mixtures: Mapping[str, int]) -> list[str]:
    """Return for each split in words in how many of its mixtures a voice speaks for less than a second."""
    return [
        f"{split}: a voice speaks for less than 1 s in {count} of {counted(mixtures[split], 'mixture')}"
        for split, count in counts.items()
        if count
    ]


@dataclass(frozen=True)
class Plan:
    """What a command will do: its findings, the sets that are finished already, and writing the others.

    ``write`` is None if there is nothing to do.
    """

    preflight: Preflight
    finished: Sequence[MixtureSet] = ()
    write: Callable[[], Sequence[MixtureSet]] | None = None

    def prepare(self) -> list[PreparedSet]:
        """Write the sets that are not finished, and return all. Raise UserError with all problems if there are any."""
        prepared = [PreparedSet(mixtures, already=True) for mixtures in self.finished]
        if self.write:
            self.preflight.require()
            prepared += [PreparedSet(mixtures, already=False) for mixtures in self.write()]
        return prepared


def find_finished(settings: Mapping[Path, dict[str, Any]]) -> tuple[list[MixtureSet], list[Path]]:
    """Return the sets finished with their ``settings``, which are tidied, and the folders of those still to be written.

    Tidying deletes a leftover ``unfinished.json`` and writes the lists of the files again, with their present paths.
    Raise UserError if a folder contains anything else, or a set with other settings.
    """
    sets = {out: _open_finished(out, wanted) for out, wanted in settings.items()}
    return [mixtures for mixtures in sets.values() if mixtures], [out for out, mixtures in sets.items() if not mixtures]


def _open_finished(out: Path, settings: dict[str, Any]) -> MixtureSet | None:
    """Return the set at ``out`` if it is finished, after tidying it, or None if it is still to be written."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose a folder for the mixtures")
    record = next((file for file in (out / SET_FILE, out / UNFINISHED_FILE) if file.is_file()), None)
    if record is None:
        # a kill before the first file was complete leaves a temporary one
        others = sorted({path.name for path in out.glob("*")} - {path.name for path in out.glob(_TEMPORARY)})
        if others:
            raise UserError(
                f"{out} already contains something else ({', '.join(others[:3])}{' ...' if others[3:] else ''}): "
                f"choose a new or empty folder"
            )
        return None
    _require_same_settings(out, record, settings)
    if record.name == UNFINISHED_FILE:
        return None
    (out / UNFINISHED_FILE).unlink(missing_ok=True)  # a kill between the last two steps leaves it
    mixtures = MixtureSet.open(out)
    try:
        recipes = "".join((out / f"{split}.jsonl").read_text(encoding="utf-8") for split in SPLITS)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: remove {out} and prepare it again") from error
    if hashlib.sha256(recipes.encode()).hexdigest() != mixtures.digest:
        raise UserError(f"the recipes in {out} were changed after it was written: remove it and prepare it again")
    if mixtures.audio:  # the paths in the lists are wrong if the set has moved
        write_lists(out, {split: mixtures.recipes(split) for split in SPLITS}, mixtures.layout, mixtures.about)
    return mixtures


def _require_same_settings(out: Path, record: Path, settings: dict[str, Any]) -> None:
    """Raise UserError with all that differs between ``settings`` and those in the file ``record``."""
    try:
        before = _flatten(json.loads(record.read_text(encoding="utf-8"))["settings"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{record} is damaged: remove {out} and prepare it again") from error
    now = _flatten(settings)
    changed = [
        f"{key} was {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise UserError(
            f"{out} was prepared with other settings ({'; '.join(changed)}): choose another folder, or remove it"
        )


def begin(out: Path, settings: dict[str, Any]) -> None:
    """Mark ``out`` as unfinished, so that the same command resumes it."""
    write_text(out / UNFINISHED_FILE, json.dumps({"settings": settings}, indent=1))


def write_sets(sets: Sequence[PlannedSet], render: RenderAll | None, jobs: int | None = None) -> list[MixtureSet]:
    """Write recipes, audio, file lists, then ``set.json``; waves that an interrupted run left are kept.

    ``render`` gets all variants of a mixture together, so its files are read once; None writes no audio.
    """
    leftovers = [file for planned in sets for file in planned.out.rglob(_TEMPORARY)]  # of a run that was killed
    digests = []
    for planned in sets:
        begin(planned.out, planned.settings)
        texts = {split: "".join(f"{r.to_line()}\n" for r in recipes) for split, recipes in planned.recipes.items()}
        for split, text in texts.items():
            _write_recipes(planned.out, split, text)
        digests.append(hashlib.sha256("".join(texts[split] for split in SPLITS).encode()).hexdigest())
    if render:
        _write_audio(sets, render, jobs)
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    for planned, digest in zip(sets, digests, strict=True):
        _finish(planned, digest, audio=render is not None)
    return [MixtureSet.open(planned.out, planned.root) for planned in sets]


def _write_recipes(out: Path, split: str, text: str) -> None:
    """Write the recipes of a split. If an unfinished run left others, the corpus has changed: remove its waves."""
    file = out / f"{split}.jsonl"
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        shutil.rmtree(out / split, ignore_errors=True)
    replace_file(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _write_audio(sets: Sequence[PlannedSet], render: RenderAll, jobs: int | None) -> None:
    recipes_by_mixture: dict[tuple[str, str], list[tuple[int, Recipe]]] = {}
    for number, planned in enumerate(sets):
        for split, recipes in planned.recipes.items():
            for recipe in recipes:
                recipes_by_mixture.setdefault((split, recipe.name), []).append((number, recipe))

    def files(split: str, number: int, recipe: Recipe) -> list[Path]:
        folder, parts = sets[number].out / split, ("mix", *sets[number].layout.names)
        parts = (*parts, NOISE) if recipe.noise else parts
        return [folder / part / f"{recipe.name}.wav" for part in parts]

    def is_complete(split: str, number: int, recipe: Recipe) -> bool:
        size = WAV_HEADER + 2 * recipe.length * sets[number].layout.channels
        return all(file.is_file() and file.stat().st_size == size for file in files(split, number, recipe))

    def write(mixture: tuple[str, str]) -> None:
        split, _ = mixture
        missing = [item for item in recipes_by_mixture[mixture] if not is_complete(split, *item)]
        for (number, recipe), waves in zip(missing, render(missing) if missing else (), strict=True):
            if recipe.noise:  # for other toolkits, which add it to the sources
                waves = np.concatenate([waves, _residual(waves)])
            for file, wave in zip(files(split, number, recipe), waves, strict=True):
                write_sound(file, wave, sets[number].layout.rate_hz, flush=False)

    for _ in in_processes(write, list(recipes_by_mixture), "writing mixtures", jobs):
        pass
    os.sync()  # all waves at once: a flush for each would take minutes


def _residual(waves: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return what a mixture (1 + S, T) has beside its sources (1, T): its noise, and its echo if they are dry."""
    beside = waves[:1].astype(np.int32) - waves[1:].sum(0, dtype=np.int32, keepdims=True)
    rounded: NDArray[np.int16] = beside.clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    return rounded


def _finish(planned: PlannedSet, digest: str, *, audio: bool) -> None:
    """Write the lists, and the file that marks a set as complete."""
    out, layout = planned.out, planned.layout
    document = {
        "format": FORMAT if any(not r.plain for recipes in planned.recipes.values() for r in recipes) else 1,
        "root": str(planned.root.resolve()),
        "rate_hz": layout.rate_hz,
        "source_count": layout.sources,
        "source_names": list(layout.names),
        "channels": layout.channels,
        "fixed_order": layout.fixed_order,
        "audio": audio,
        "digest": digest,
        "counts": {split: len(recipes) for split, recipes in planned.recipes.items()},
        "settings": planned.settings,
        **planned.report,
    }
    if audio:
        write_lists(out, planned.recipes, layout, with_defaults(document))
    write_text(out / SET_FILE, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    (out / UNFINISHED_FILE).unlink(missing_ok=True)


def _flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested mappings into dotted keys such as ``counts.tr``."""
    flat: dict[str, Any] = {}
    for key, value in dict(settings).items():
        flat |= {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, Mapping) else {key: value}
    return flat


def count_by_group(recipes: Sequence[Recipe]) -> dict[str, int]:
    """Return the number of mixtures in each group."""
    return dict(Counter(recipe.group for recipe in recipes))
