"""Leakage: scored mixtures that contain what the run was trained on.

Two recordings are the same if their paths lead to one file; if their sets have the same corpus digest and they the same
path below its root; or, for a corpus that was copied, moved or resampled, if the last two parts of their paths are
equal and they are as long as each other. A mixture counts if it contains any part of a stretch that the recipes of the
training name. Voices are the same if their names are. Noise and rooms are not compared.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from sepclip.audio.files import BadSound, read_header
from sepclip.errors import UserError, counted
from sepclip.evaluation.document import Leakage
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.recipe import Recipe, Source

_UNSEEN = "unseen"  # the group of mixtures whose voices are not in the training
_SAME_SECONDS = 0.05  # files that differ by less are as long as each other: a resampler may add a few samples
_Key = tuple[str, ...]
_Duration = Callable[[Path], float | None]
_Stretch = tuple[float, float, Path]  # start and stop in seconds, and the file


def find_leakage(
    data: MixtureSet,
    split: str,
    training_sets: Callable[[], Sequence[tuple[Path, str]]],
    limit: int | None = None,
) -> Leakage:
    """Return which of the first ``limit`` mixtures of a split contain recordings or voices of the training.

    ``training_sets()`` returns the folder and the digest of every set that the run, or a run that it began from, was
    trained on. If that raises UserError, or a set is not there any more, nothing is compared and ``unknown`` says why.
    """
    recipes = data.recipes(split)[:limit]
    result: Leakage = {
        "trained_on": [],
        "unknown": None,
        "mixtures": len(recipes),
        "recordings": [],
        "unseen": sum(recipe.group == _UNSEEN for recipe in recipes),
        "voices": [],
    }
    try:
        trained_on = training_sets()
        result["trained_on"] = [str(path) for path, _ in trained_on]
        sets = [_open_training_set(path, digest, data) for path, digest in trained_on]
        training = [(mixtures, mixtures.recipes("tr")) for mixtures in sets]
    except UserError as error:
        return {**result, "unknown": f"the set of the training cannot be read ({error})"}
    # every stretch that the training recipes name, once, by all keys of its file
    stretches: dict[_Key, list[_Stretch]] = {}
    voices = set[str]()
    for mixtures, training_recipes in training:
        named = {(path, *_seconds(source)) for one in training_recipes for source, path in _recordings(one)}
        voices |= {source.voice for one in training_recipes for source, _ in _recordings(one)}
        for path, start, stop in sorted(named):
            for key in _keys(mixtures, path):
                stretches.setdefault(key, []).append((start, stop, mixtures.root / path))
    duration = cache(_duration)
    result["recordings"] = [recipe.name for recipe in recipes if _is_trained_on(recipe, data, stretches, duration)]
    result["voices"] = [
        recipe.name
        for recipe in recipes
        if recipe.group == _UNSEEN and any(source.voice in voices for source, _ in _recordings(recipe))
    ]
    return result


def _open_training_set(path: Path, digest: str, data: MixtureSet) -> MixtureSet:
    """Return the set with ``digest``, at ``path`` or, if it was moved, ``data`` itself; raises UserError without it."""
    try:
        mixtures = MixtureSet.open(path)
        if mixtures.digest == digest:
            return mixtures
        error = UserError(f"{path} is no longer the set that the run was trained on")
    except UserError as not_there:
        error = not_there
    if data.digest == digest:
        return data
    raise error


def _recordings(recipe: Recipe) -> Iterable[tuple[Source, str]]:
    """Yield each source of a mixture with each of its files: the target, and what is heard, if that is another one."""
    for source in recipe.sources:
        if not source.absent:
            yield source, source.path
            if source.heard:
                yield source, source.heard


def _keys(mixtures: MixtureSet, path: str) -> list[_Key]:
    """Return what the same recording has in common in all sets; the third only if its length is the same too."""
    corpus = mixtures.about["corpus_digest"]
    return [
        ("file", str((mixtures.root / path).resolve())),
        *([("corpus", corpus, path)] if corpus else []),
        ("tail", *PurePosixPath(path).parts[-2:]),
    ]


def _seconds(source: Source) -> tuple[float, float]:
    """Return start and stop of a stretch of a recording, in seconds."""
    return source.offset / source.rate_hz, (source.offset + source.length) / source.rate_hz


def _is_trained_on(
    recipe: Recipe, data: MixtureSet, stretches: Mapping[_Key, Sequence[_Stretch]], duration: _Duration
) -> bool:
    """Return whether a mixture contains a part of one of the ``stretches``."""
    for source, path in _recordings(recipe):
        start, stop = _seconds(source)
        for key in _keys(data, path):
            for first, last, file in stretches.get(key, ()):
                same = key[0] != "tail" or _equal(duration(data.root / path), duration(file))
                if same and min(stop, last) > max(start, first):
                    return True
    return False


def _equal(seconds: float | None, other: float | None) -> bool:
    """Return whether two durations are equal; True if one is unknown, because the file cannot be read any more."""
    return seconds is None or other is None or abs(seconds - other) < _SAME_SECONDS


def _duration(path: Path) -> float | None:
    try:
        header = read_header(path)
        return header.samples / header.rate_hz
    except BadSound:
        return None


def leakage_lines(leakage: Leakage) -> list[str]:
    """Return what to print of it: a sentence on recordings and, if there are mixtures called unseen, one on voices."""
    if leakage["unknown"]:
        return [f"leakage unknown: {leakage['unknown']}"]
    lines = [_sentence(leakage["recordings"], leakage["mixtures"], "a recording that the run was trained on")]
    if leakage["unseen"]:
        lines.append(_sentence(leakage["voices"], leakage["unseen"], "a voice of the training", " called unseen"))
    return lines


def _sentence(names: Sequence[str], total: int, what: str, which: str = "") -> str:
    if not names:
        return f"leakage: none of {counted(total, 'mixture')}{which} {'contain' if total != 1 else 'contains'} {what}"
    contain = "contains" if len(names) == 1 else "contain"
    return f"leakage: {len(names)} of {counted(total, 'mixture')}{which} {contain} {what}, such as {names[0]}"
