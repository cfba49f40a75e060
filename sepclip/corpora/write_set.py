"""Writing a mixture set so that a kill at any moment costs nothing but time.

``unfinished.json`` is written first and says with which settings; ``set.json`` is written last. Every wave and every
recipe depends on the settings and the corpus alone, so a second run writes what is missing and ends with the same
bytes as an undisturbed one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepclip.audio.files import WAV_HEADER, replace_file, write_sound, write_text
from sepclip.audio.layout import Layout
from sepclip.corpora.speakers.statistics import told
from sepclip.corpora.toolkit_lists import write_indexes
from sepclip.errors import UserError
from sepclip.mixing.mixture_set import FORMAT, SET_FILE, UNFINISHED_FILE, MixtureSet
from sepclip.mixing.recipe import SPLITS, Recipe
from sepclip.parallel import in_processes

Render = Callable[[Recipe], NDArray[np.int16]]  # to (1 + S, T) or (1 + S, C, T), the mixture first


@dataclass(frozen=True)
class Planned:
    """A set to be written: all but its audio.

    ``settings`` tell whether a later run makes the same set; ``report`` goes into ``set.json`` as it is.
    """

    out: Path
    recipes: dict[str, list[Recipe]]
    root: Path
    layout: Layout
    settings: dict[str, Any]
    report: dict[str, Any]


# One mixture of several sets, each as the number of the set and its recipe, to the waves of each
RenderAll = Callable[[Sequence[tuple[int, Recipe]]], Iterable[NDArray[np.int16]]]

_TEMPORARY = ".*.tmp"  # as replace_file names them


def finished(out: Path, settings: dict[str, Any]) -> MixtureSet | None:
    """Return the set at ``out`` if it is whole and was made with ``settings``, None if it is still to be made.

    Raises UserError when ``out`` holds anything else, or a set made with other settings.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose a folder for the mixtures")
    found = next((file for file in (out / SET_FILE, out / UNFINISHED_FILE) if file.is_file()), None)
    if found is None:
        # a kill before the first file was whole leaves a temporary one
        others = sorted({path.name for path in out.glob("*")} - {path.name for path in out.glob(_TEMPORARY)})
        if others:
            raise UserError(
                f"{out} already holds something else ({', '.join(others[:3])}{' ...' if others[3:] else ''}): "
                f"choose a new or empty folder"
            )
        return None
    try:
        before = _flat(json.loads(found.read_text(encoding="utf-8"))["settings"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{found} is damaged: remove {out} and prepare it again") from error
    now = _flat(settings)
    changed = [
        f"{key} was {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise UserError(
            f"{out} was prepared with other settings ({'; '.join(changed)}): choose another folder, or remove it"
        )
    if found.name == UNFINISHED_FILE:
        return None
    (out / UNFINISHED_FILE).unlink(missing_ok=True)  # a kill between the last two steps leaves it
    made = MixtureSet.open(out)
    try:
        recipes = "".join((out / f"{split}.jsonl").read_text(encoding="utf-8") for split in SPLITS)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: remove {out} and prepare it again") from error
    if _digest(recipes) != made.digest:
        raise UserError(f"{out} has other recipes than it was made from: remove it and prepare it again")
    if made.audio:  # their whole paths are wrong where the set has moved
        write_indexes(out, {split: made.recipes(split) for split in SPLITS}, made.layout, made.about)
    return made


def sort_out(settings: Mapping[Path, dict[str, Any]]) -> tuple[list[MixtureSet], list[Path]]:
    """Return the sets that are finished, and the folders of those still to be made with the settings of each."""
    done = {out: finished(out, wanted) for out, wanted in settings.items()}
    return [made for made in done.values() if made], [out for out, made in done.items() if not made]


def begin(out: Path, settings: dict[str, Any]) -> None:
    """Mark ``out`` as a set in the making, so that the same command goes on with it."""
    write_text(out / UNFINISHED_FILE, json.dumps({"settings": settings}, indent=1))


def write_set(
    out: Path,
    recipes: dict[str, list[Recipe]],
    *,
    root: Path,
    layout: Layout,
    render: Render | None,
    settings: dict[str, Any],
    report: dict[str, Any],
    jobs: int | None = None,
) -> MixtureSet:
    """Write one set, as ``write_sets`` does; ``render`` makes the mixture and sources of a recipe, None no audio."""
    planned = Planned(out, recipes, root, layout, settings, report)
    if render is None:
        return write_sets([planned], None)[0]
    return write_sets([planned], lambda wanted: (render(recipe) for _, recipe in wanted), jobs)[0]


def write_sets(sets: Sequence[Planned], render: RenderAll | None, jobs: int | None = None) -> list[MixtureSet]:
    """Write recipes, audio and its lists, at last each ``set.json``; waves that an interrupted run left are kept.

    ``render`` gets all that is to be made of one mixture at once, so that no file is read twice for it; None leaves
    the audio out.
    """
    leftovers = [file for one in sets for file in one.out.rglob(_TEMPORARY)]  # of a run that was killed
    digests = []
    for one in sets:
        begin(one.out, one.settings)
        lines = {split: "".join(f"{recipe.to_line()}\n" for recipe in found) for split, found in one.recipes.items()}
        for split, text in lines.items():
            _keep_or_write(one.out, split, text)
        digests.append(_digest("".join(lines[split] for split in SPLITS)))
    if render:
        _write_audio(sets, render, jobs)
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    for one, digest in zip(sets, digests, strict=True):
        _finish(one, digest, audio=render is not None)
    return [MixtureSet.open(one.out, one.root) for one in sets]


def _write_audio(sets: Sequence[Planned], render: RenderAll, jobs: int | None) -> None:
    mixtures: dict[tuple[str, str], list[tuple[int, Recipe]]] = {}
    for number, one in enumerate(sets):
        for split, found in one.recipes.items():
            for recipe in found:
                mixtures.setdefault((split, recipe.name), []).append((number, recipe))

    def files(split: str, number: int, recipe: Recipe) -> list[Path]:
        folder = sets[number].out
        return [folder / f"{split}/{part}/{recipe.name}.wav" for part in ("mix", *sets[number].layout.names)]

    def write(mixture: tuple[str, str]) -> None:
        split, _ = mixture
        missing = [
            (number, recipe)
            for number, recipe in mixtures[mixture]
            if not all(
                _is_whole(file, recipe.length * sets[number].layout.channels) for file in files(split, number, recipe)
            )
        ]
        for (number, recipe), waves in zip(missing, render(missing) if missing else (), strict=True):
            for file, wave in zip(files(split, number, recipe), waves, strict=True):
                write_sound(file, wave, sets[number].layout.rate_hz, flush=False)

    for _ in in_processes(write, list(mixtures), "writing mixtures", jobs):
        pass
    os.sync()  # all waves at once: one flush for each would take minutes


def _finish(planned: Planned, digest: str, *, audio: bool) -> None:
    """Write what marks a set as whole."""
    out, layout = planned.out, planned.layout
    about = {
        "format": FORMAT,
        "root": str(planned.root.resolve()),
        "rate_hz": layout.rate_hz,
        "source_count": layout.sources,
        "source_names": list(layout.names),
        "channels": layout.channels,
        "fixed_order": layout.fixed_order,
        "audio": audio,
        "digest": digest,
        "counts": {split: len(found) for split, found in planned.recipes.items()},
        "settings": planned.settings,
        **planned.report,
    }
    if audio:
        write_indexes(out, planned.recipes, layout, about)
    write_text(out / SET_FILE, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    (out / UNFINISHED_FILE).unlink(missing_ok=True)


def _keep_or_write(out: Path, split: str, text: str) -> None:
    """Write the recipes; where an unfinished run left others, the corpus has changed: its waves must go."""
    file = out / f"{split}.jsonl"
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        shutil.rmtree(out / split, ignore_errors=True)
    replace_file(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _is_whole(wave: Path, samples: int) -> bool:
    try:
        return wave.stat().st_size == WAV_HEADER + 2 * samples
    except FileNotFoundError:
        return False


def bytes_to_write(out: Path, recipes: Mapping[str, Sequence[Recipe]], parts: int, channels: int = 1) -> int:
    """Return how many bytes of audio are still to be written."""
    lengths = [recipe.length for split in recipes for recipe in recipes[split]]
    needed = sum(parts * (WAV_HEADER + 2 * channels * length) for length in lengths)
    written = sum(file.stat().st_size for split in SPLITS for file in (out / split).glob("*/*.wav"))
    return max(0, needed - written)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the entries of those that are mappings under names such as ``counts.tr``."""
    flat: dict[str, Any] = {}
    for key, value in dict(settings).items():
        flat |= {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, Mapping) else {key: value}
    return flat


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def count_by_group(recipes: Sequence[Recipe]) -> dict[str, int]:
    """Return how many mixtures each group has."""
    counts: dict[str, int] = {}
    for recipe in recipes:
        counts[recipe.group] = counts.get(recipe.group, 0) + 1
    return counts


@dataclass(frozen=True)
class Prepared:
    """A mixture set and whether it was there before."""

    mixtures: MixtureSet
    already: bool

    def document(self) -> dict[str, Any]:
        """Return what was made as plain data."""
        counts = {split: count_by_group(self.mixtures.recipes(split)) for split in SPLITS}
        return {
            "path": str(self.mixtures.path),
            "already": self.already,
            "mixtures": counts,
            "statistics": self.mixtures.about.get("statistics"),
        }

    def told(self) -> str:
        """Return what was made in a line, and a line of statistics for each split where there are some."""
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
        if mixtures.about.get("in_place"):
            what = f"recipes (the audio stays in {mixtures.root})"
        statistics = mixtures.about.get("statistics", {})
        lines = [told(split, found) for split, found in statistics.items() if found["mixtures"]]
        return "\n".join([f"wrote {what} to {mixtures.path}: {', '.join(parts)}", *lines])
