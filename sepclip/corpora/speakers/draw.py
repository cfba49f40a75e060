"""Drawing speakers and utterances: which are mixed with which, and how loud.

:func:`split_groups` divides the voices of a corpus into groups to train, validate and test on; :func:`draw` is where
the speakers of each mixture are drawn. Every choice comes from a generator of (seed, purpose, index).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from sepclip.corpora.shares import divide
from sepclip.corpora.speakers.presets import NO_VOICE
from sepclip.corpora.speakers.survey import Utterance, VoiceSurvey
from sepclip.corpora.speakers.voice_settings import VoiceSettings
from sepclip.errors import UserError
from sepclip.mixing.chance import generator
from sepclip.mixing.levels import LEVEL_DBFS, PEAK, relative_levels
from sepclip.mixing.recipe import Recipe, Source

_TRIES = 50  # to find a combination of utterances not drawn before

Voices = Mapping[str, Sequence[Utterance]]


@dataclass(frozen=True)
class Group:
    """The voices and utterances from which the mixtures of one split and group are drawn."""

    split: str
    name: str
    voices: Voices
    count: int


def split_groups(survey: VoiceSurvey, settings: VoiceSettings, *, by_voice: bool) -> list[Group]:
    """Divide the voices of a survey into the groups to train, validate and test on.

    With ``by_voice``, no voice is in two splits. Otherwise the utterances of every voice are divided, file by file, and
    the unseen voices are kept for a test group of their own. Voices with too few utterances are added to
    ``survey.left_out``. Raise UserError if there are too few voices.
    """
    sources, counts, unseen = settings.sources, settings.counts, settings.unseen
    unknown = sorted(set(unseen) - set(survey.voices))
    if unknown:
        raise UserError(f"--unseen {','.join(unknown)}: no such voice; there are {', '.join(sorted(survey.voices))}")
    if 0 < len(set(unseen)) < sources:
        raise UserError(f"--unseen needs {sources} voices or more to mix with each other, got {', '.join(unseen)}")
    seen = {voice: survey.voices[voice] for voice in sorted(survey.voices) if voice not in unseen}
    if by_voice:
        groups = [
            Group(split, "seen" if split == "tr" else "unseen", voices, counts[split])
            for split, voices in _divide_voices(seen, settings).items()
        ]
    else:
        parts = _divide_utterances(seen, settings, survey.left_out)
        groups = [Group(split, "seen", voices, counts[split]) for split, voices in parts.items()]
    if unseen:
        voices = {voice: survey.voices[voice] for voice in sorted(set(unseen))}
        groups.append(Group("tt", "unseen", voices, counts["tt"]))
    for group in groups:
        if len(group.voices) < sources:
            names = f"{len(survey.voices)}: {', '.join(sorted(survey.voices))}" if survey.voices else "none"
            kept_out = f" ({', '.join(unseen)} kept out as --unseen)" if unseen else ""
            raise UserError(
                f"mixtures of {sources} need {sources} voices with enough utterances, found {names}{kept_out}. "
                f"{_advice(survey, unseen)}"
            )
    return groups


def _advice(survey: VoiceSurvey, unseen: Sequence[str]) -> str:
    if len(survey.voices) == 1:
        return (
            "Each sub-folder of ROOT is taken as one voice: if the voices are deeper, give the folder right above "
            "them; if their names are in the file names, use --speaker-from REGEX or --preset NAME"
        )
    if NO_VOICE in survey.left_out.values():
        return "Put each voice into a sub-folder of its own, or use --speaker-from REGEX or --preset NAME"
    if not survey.voices:
        return "Every file was left out, for the reason printed beside it"
    if unseen:
        return "Name fewer voices in --unseen, or add recordings"
    return "Add recordings, or lower --min-seconds"


def _divide_voices(voices: Voices, settings: VoiceSettings) -> dict[str, dict[str, Sequence[Utterance]]]:
    sources = settings.sources
    if len(voices) < 3 * sources:
        raise UserError(
            f"a split by voices needs {3 * sources} voices or more ({sources} to each of tr, cv and tt), "
            f"found {len(voices)}: use --split within"
        )
    parts = divide(sorted(voices), settings.fractions, sources, generator(settings.seed, "split voices"))
    return {split: {voice: voices[voice] for voice in sorted(part)} for split, part in parts.items()}


def _divide_utterances(
    voices: Voices, settings: VoiceSettings, left_out: dict[str, str]
) -> dict[str, dict[str, Sequence[Utterance]]]:
    fractions = settings.fractions
    divided: dict[str, dict[str, Sequence[Utterance]]] = {split: {} for split in fractions}
    for voice, utterances in voices.items():
        # pieces of one file stay together, unless the voice has too few files for all splits
        by_file = {path: list(pieces) for path, pieces in groupby(utterances, key=lambda u: u.path)}
        units = list(by_file.values()) if len(by_file) >= len(fractions) else [[u] for u in utterances]
        if len(units) < len(fractions):
            for path in by_file:
                left_out[path] = f"its voice has too few utterances to split ({len(units)} of {len(fractions)})"
            continue
        for split, part in divide(units, fractions, 1, generator(settings.seed, f"split {voice}")).items():
            divided[split][voice] = [u for unit in part for u in unit]
    return divided


def combinations_of(voices: Voices, sources: int) -> int:
    """Return how many different mixtures of ``sources`` voices are possible, whatever their levels."""
    ways = [1] + [0] * sources  # ways[k]: mixtures of k of the voices so far; too many to list for thousands of voices
    for utterances in voices.values():
        for chosen in range(sources, 0, -1):
            ways[chosen] += ways[chosen - 1] * len(utterances)
    return ways[sources]


def draw(group: Group, settings: VoiceSettings, first: int = 0) -> list[Recipe]:
    """Draw the recipes of a group, each of different voices, where all voices are equally likely.

    In a validation or test split no combination of utterances occurs twice, so the group may give fewer mixtures. In
    training one is repeated only if another is hard to find. The recipe of an index depends on the seed and on those
    before it, not on how many follow. The names of the mixtures are numbered from ``first`` on.
    """
    sources, names = settings.sources, sorted(group.voices)
    possible = combinations_of(group.voices, sources)
    count = group.count if group.split == "tr" else min(group.count, possible)
    drawn: set[frozenset[Utterance]] = set()
    recipes = []
    for index in range(count):
        chance = generator(settings.seed, f"draw {group.split} {group.name}", index)
        # draw speakers and an utterance of each, until the combination is a new one
        chosen: list[Utterance] = []
        for _ in range(_TRIES if group.split == "tr" else 10**6):
            chosen = [chance.choice(group.voices[voice]) for voice in chance.sample(names, sources)]
            if frozenset(chosen) not in drawn:
                break
        drawn.add(frozenset(chosen))
        levels = relative_levels(chance, sources)
        recipes.append(_recipe(chosen, levels, group.name, first + index, settings))
    return recipes


def _recipe(
    chosen: Sequence[Utterance], levels: Sequence[float], group: str, index: int, settings: VoiceSettings
) -> Recipe:
    # the sum of the peaks says whether a mixture exceeds full scale, unless noise or an echo changes them: then
    # rendering chooses the common gain
    gains = [10 ** ((LEVEL_DBFS + level) / 20) / u.level for u, level in zip(chosen, levels, strict=True)]
    loudest = sum(gain * utterance.peak for gain, utterance in zip(gains, chosen, strict=True))
    common = min(1.0, PEAK / loudest) if settings.plain else 1.0  # one gain for all, so that relative levels stay
    lengths = [utterance.samples for utterance in chosen]
    sources = tuple(
        Source(u.path, u.voice, u.sex, u.offset, u.length, u.rate_hz, round(level, 4), gain * common)
        for u, level, gain in zip(chosen, levels, gains, strict=True)
    )
    name = "_".join([f"{index:05d}", *(_identifier(u) for u in chosen)])
    length = min(lengths) if settings.mode == "min" else max(lengths)
    return Recipe(name, group, length, sources, None if settings.plain else PEAK)


def _identifier(utterance: Utterance) -> str:
    """Return the utterance's path as part of a file name: plain characters, and only the last of them."""
    stem = utterance.path.rsplit(".", 1)[0]
    if not stem.startswith(utterance.voice):
        stem = f"{utterance.voice}-{stem}"
    plain = (
        re.sub(r"[^\w.-]+", "-", stem).encode()[-60:].decode(errors="ignore").strip("-.")
    )  # file names have at most 255 bytes
    return f"{plain}@{utterance.offset}" if utterance.offset else plain
