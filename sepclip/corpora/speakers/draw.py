"""Drawing speakers and utterances: which are mixed with which, and how loud.

:func:`split_groups` divides the voices of a corpus into groups to train, validate and test on; :func:`draw` is where
the speakers of each mixture are drawn. Every choice comes from a generator of (seed, purpose, index).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from random import Random

import numpy as np

from sepclip.audio.activity import hop_samples
from sepclip.audio.names import normal_name
from sepclip.corpora.shares import divide
from sepclip.corpora.speakers.excerpts import choose_heard_parts
from sepclip.corpora.speakers.measurement import Utterance
from sepclip.corpora.speakers.presets import NO_VOICE
from sepclip.corpora.speakers.survey import VoiceSurvey
from sepclip.corpora.speakers.voice_settings import VoiceSettings
from sepclip.errors import UserError
from sepclip.mixing.chance import generator
from sepclip.mixing.conversation import LEAST_SECONDS, Pairing, turns_of_utterances
from sepclip.mixing.levels import LEVEL_DBFS, PEAK, relative_levels
from sepclip.mixing.recipe import ABSENT, SPLITS, Recipe, Source

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
    sources, counts, unseen = settings.sources, settings.counts, tuple(map(normal_name, settings.unseen))
    unknown = sorted(set(unseen) - set(survey.voices))
    if unknown:
        raise UserError(f"--unseen {','.join(unknown)}: no such voice; there are {', '.join(sorted(survey.voices))}")
    if 0 < len(set(unseen)) < sources:
        raise UserError(f"--unseen needs {sources} voices or more to mix with each other, got {', '.join(unseen)}")
    seen = {voice: survey.voices[voice] for voice in sorted(survey.voices) if voice not in unseen}
    if settings.lists:
        groups = _groups_of_lists(survey, settings)
    elif by_voice:
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


def _groups_of_lists(survey: VoiceSurvey, settings: VoiceSettings) -> list[Group]:
    """Return the groups that ``--voices`` asks for: without a list for tr, all voices that are in no list train."""
    listed = {voice for voices in settings.lists.values() for voice in voices}
    missing = sorted(listed - set(survey.voices))
    if missing:
        raise UserError(f"--voices names {', '.join(missing[:5])} ({len(missing)}), which the corpus does not have")
    groups = []
    for split in SPLITS:
        names = settings.lists.get(split) or sorted(set(survey.voices) - listed)
        voices = {voice: survey.voices[voice] for voice in sorted(names)}
        groups.append(Group(split, "seen" if split == "tr" else "unseen", voices, settings.counts[split]))
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


def draw(
    group: Group, settings: VoiceSettings, activity: Mapping[tuple[str, int], bytes], first: int = 0
) -> list[Recipe]:
    """Draw the recipes of a group, each of different voices, where all voices are equally likely.

    In a validation or test split no combination of utterances occurs twice, so the group may give fewer mixtures. In
    training one is repeated only if another is hard to find. The recipe of an index depends on the seed and on those
    before it, not on how many follow. The names of the mixtures are numbered from ``first`` on. ``activity`` says when
    somebody speaks in each utterance, by path and offset; it decides when voices take turns, and which part of a long
    utterance is used if its beginning is silent.
    """
    sources, names = settings.sources, sorted(group.voices)
    possible = combinations_of(group.voices, sources)
    if settings.single:
        possible += combinations_of(group.voices, 1)
    count = group.count if group.split == "tr" else min(group.count, possible)
    pairing = Pairing.of(names, settings.same_corpus, settings.corpus_from)
    drawn: set[frozenset[Utterance]] = set()
    recipes: list[Recipe] = []
    for index in range(count):
        chance = generator(settings.seed, f"draw {group.split} {group.name}", index)
        # whether one voice is alone, drawn only if that is asked for: other sets keep their recipes
        voices = 1 if settings.single and settings.conversation.draw_is_single(chance) else sources
        # draw speakers and an utterance of each, until the combination is a new one
        chosen: list[Utterance] = []
        for _ in range(_TRIES if group.split == "tr" or settings.conversation else 10**6):
            chosen = [chance.choice(group.voices[voice]) for voice in pairing.draw(chance, names, voices)]
            if frozenset(chosen) not in drawn:
                break
        else:
            if group.split != "tr":
                continue
        drawn.add(frozenset(chosen))
        levels = relative_levels(chance, sources)[:voices]
        recipe = _recipe(chosen, levels, group.name, first + len(recipes), settings)
        if settings.conversation:
            recipe = _take_turns(recipe, chosen, settings, activity, chance)
        # a generator of its own, so that all other mixtures keep their draws
        parts = generator(settings.seed, f"parts {group.split} {group.name}", index)
        recipes.append(choose_heard_parts(recipe, chosen, activity, settings.rate_hz, parts))
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
        Source(
            *(u.path, u.voice, u.sex, u.offset, u.length, u.rate_hz, round(level, 4), gain * common),
            channel=u.channel,
            dc=u.dc,
        )
        for u, level, gain in zip(chosen, levels, gains, strict=True)
    )
    name = "_".join([f"{index:05d}", *(_identifier(u) for u in chosen)])
    length = min(lengths) if settings.mode == "min" else max(lengths)
    return Recipe(name, group, length, sources, None if settings.plain else PEAK)


def _take_turns(
    recipe: Recipe,
    chosen: Sequence[Utterance],
    settings: VoiceSettings,
    activity: Mapping[tuple[str, int], bytes],
    chance: Random,
) -> Recipe:
    """Return the recipe with the turns of its voices drawn, and an absent source beside a single one."""
    # a turn excludes the silence before the first word and after the last one
    spans = [_active_span(activity[u.path, u.offset], u.samples, settings.rate_hz) for u in chosen]
    if len(chosen) == 1:
        (begin, end), source = spans[0], recipe.sources[0]
        sources = [replace(source, turn=(0, begin, end - begin)), *[ABSENT] * (settings.sources - 1)]
        chance.shuffle(sources)
        return replace(recipe, sources=tuple(sources), length=end - begin)
    if not settings.overlap:
        return recipe
    lengths = (spans[0][1] - spans[0][0], spans[1][1] - spans[1][0])
    turns = turns_of_utterances(settings.conversation.draw_overlap(chance), lengths, chance)
    placed = []
    for source, (begin, end), (start, used) in zip(recipe.sources, spans, turns, strict=True):
        # of an utterance that is cut, any part may be used
        skip = begin + chance.randint(0, end - begin - used)
        placed.append(replace(source, turn=(start, skip, used)))
    return replace(recipe, sources=tuple(placed), length=max(start + used for start, used in turns))


def _active_span(packed: bytes, samples: int, rate_hz: int) -> tuple[int, int]:
    """Return the first and last sample between which somebody speaks, for half a second or more if there is as much."""
    hops = np.flatnonzero(np.unpackbits(np.frombuffer(packed, np.uint8)))
    hop = hop_samples(rate_hz)
    begin, end = int(hops[0]) * hop, min(samples, (int(hops[-1]) + 1) * hop)
    missing = min(round(LEAST_SECONDS * rate_hz), samples) - (end - begin)
    if missing > 0:
        begin = max(0, begin - missing)
        end = min(samples, max(end, begin + round(LEAST_SECONDS * rate_hz)))
    return begin, end


def _identifier(utterance: Utterance) -> str:
    """Return the utterance's path as part of a file name: plain characters, and only the last of them."""
    stem = utterance.path.rsplit(".", 1)[0]
    if not stem.startswith(utterance.voice):
        stem = f"{utterance.voice}-{stem}"
    plain = (
        re.sub(r"[^\w.-]+", "-", stem).encode()[-60:].decode(errors="ignore").strip("-.")
    )  # file names have at most 255 bytes
    return f"{plain}@{utterance.offset}" if utterance.offset else plain
