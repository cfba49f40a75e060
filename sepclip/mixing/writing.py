"""Writing a mixture set so that a kill at any moment costs nothing but time.

``unfinished.json`` is written first and says with which settings; ``set.json`` is written last. Every wave and every
recipe depends on the settings and the corpus alone, so a second run writes what is missing and ends with the same
bytes as an undisturbed one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sepclip.audio.files import replace_file, write_sound, write_text
from sepclip.errors import UserError
from sepclip.mixing.mixture import (
    FORMAT,
    SET_FILE,
    SPLITS,
    UNFINISHED_FILE,
    MixtureSet,
    Recipe,
    part_names,
    render,
    with_mixture,
)
from sepclip.mixing.survey import in_threads

_WAV_HEADER = 44  # bytes
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
        before = dict(json.loads(found.read_text(encoding="utf-8"))["settings"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{found} is damaged: remove {out} and prepare it again") from error
    changed = [
        f"{key} was {before.get(key)!r}, now {settings.get(key)!r}"
        for key in sorted({*before, *settings})
        if before.get(key) != settings.get(key)
    ]
    if changed:
        raise UserError(
            f"{out} was prepared with other settings ({'; '.join(changed)}): choose another folder, or remove it"
        )
    if found.name == UNFINISHED_FILE:
        return None
    (out / UNFINISHED_FILE).unlink(missing_ok=True)  # a kill between the last two steps leaves it
    return MixtureSet.open(out)


def write_set(
    out: Path,
    recipes: dict[str, list[Recipe]],
    *,
    root: Path,
    rate_hz: int,
    source_count: int,
    audio: bool,
    settings: dict[str, Any],
    report: dict[str, Any],
) -> MixtureSet:
    """Write recipes, audio and at last ``set.json``; waves that an interrupted run left are kept.

    ``settings`` tell whether a later run makes the same set; ``report`` goes into ``set.json`` as it is.
    """
    parts = ["mix", *part_names(source_count)]
    leftovers = list(out.rglob(_TEMPORARY))  # of a run that was killed
    if audio:
        _require_space(out, recipes, len(parts))
    write_text(out / UNFINISHED_FILE, json.dumps({"settings": settings}, indent=1))
    lines = {split: "".join(f"{recipe.to_line()}\n" for recipe in found) for split, found in recipes.items()}
    for split, text in lines.items():
        _keep_or_write(out, split, text)
    if audio:
        jobs = [(split, recipe) for split in recipes for recipe in recipes[split]]

        def write(job: tuple[str, Recipe]) -> None:
            split, recipe = job
            targets = [out / split / part / f"{recipe.name}.wav" for part in parts]
            if all(_is_whole(target, recipe.length) for target in targets):
                return
            waves = with_mixture(render(recipe, root, rate_hz))
            for target, wave in zip(targets, waves, strict=True):
                write_sound(target, wave, rate_hz, flush=False)

        for _ in in_threads(write, jobs, "writing mixtures"):
            pass
        os.sync()  # all waves at once: one flush for each would take minutes
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    about = {
        "format": FORMAT,
        "root": str(root.resolve()),
        "rate_hz": rate_hz,
        "source_count": source_count,
        "audio": audio,
        "digest": hashlib.sha256("".join(lines[split] for split in SPLITS).encode()).hexdigest(),
        "counts": {split: len(found) for split, found in recipes.items()},
        "settings": settings,
        **report,
    }
    write_text(out / SET_FILE, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    (out / UNFINISHED_FILE).unlink(missing_ok=True)
    return MixtureSet.open(out, root)


def _keep_or_write(out: Path, split: str, text: str) -> None:
    """Write the recipes; where an unfinished run left others, the corpus has changed: its waves must go."""
    file = out / f"{split}.jsonl"
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        shutil.rmtree(out / split, ignore_errors=True)
    replace_file(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _is_whole(wave: Path, samples: int) -> bool:
    return wave.is_file() and wave.stat().st_size == _WAV_HEADER + 2 * samples


def _require_space(out: Path, recipes: dict[str, list[Recipe]], parts: int) -> None:
    needed = sum(parts * (_WAV_HEADER + 2 * recipe.length) for split in recipes for recipe in recipes[split])
    place = out
    while not place.exists():
        place = place.parent
    written = sum(file.stat().st_size for split in SPLITS for file in (out / split).glob("*/*.wav"))
    free = shutil.disk_usage(place).free
    if needed - written > free:
        raise UserError(
            f"the disk of {out} has {free / 1e9:.2f} GB free and the mixtures need {(needed - written) / 1e9:.2f} GB: "
            f"make room, lower --tr, or leave the audio out with --no-audio"
        )


def count_by_group(recipes: Sequence[Recipe]) -> dict[str, int]:
    """Return how many mixtures each group has."""
    counts: dict[str, int] = {}
    for recipe in recipes:
        counts[recipe.group] = counts.get(recipe.group, 0) + 1
    return counts
