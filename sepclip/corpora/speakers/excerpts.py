"""The part of an utterance that a mixture uses: another one than the first if the voice is silent in that."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import numpy as np

from sepclip.audio.activity import HOP_SECONDS, active_seconds, hop_samples
from sepclip.corpora.speakers.measurement import Utterance
from sepclip.mixing.recipe import Recipe, Source

HEARD_SECONDS = 1.0  # a voice that speaks for less in a mixture gets another part of its utterance, or is reported
_HEARD_SHARE = 0.5  # of that part in which the voice speaks, if the utterance has such a part

Activity = Mapping[tuple[str, int], bytes]  # VoiceSurvey.activity


def heard_seconds(source: Source, recipe: Recipe, activity: Activity, rate_hz: int) -> float:
    """Return for how long the voice of a source speaks in a mixture."""
    _, skip, samples = source.turn or (0, 0, recipe.length)
    return active_seconds(activity[source.path, source.offset], skip, skip + samples, rate_hz)


def count_barely_heard(recipes: Sequence[Recipe], activity: Activity, rate_hz: int) -> int:
    """Return the number of mixtures in which a voice speaks for less than a second."""
    return sum(
        any(heard_seconds(s, recipe, activity, rate_hz) < HEARD_SECONDS for s in recipe.sources if not s.absent)
        for recipe in recipes
    )


def choose_heard_parts(
    recipe: Recipe, chosen: Sequence[Utterance], activity: Activity, rate_hz: int, chance: Random
) -> Recipe:
    """Return the recipe with another part of each utterance whose voice would speak for less than a second.

    The part is drawn from those in which the voice speaks for a second and half of the time, or else the most. Recipes
    in which all voices are heard stay as they are, and so do voices that no other part would help.
    """
    utterances = {(utterance.path, utterance.offset): utterance for utterance in chosen}
    sources = []
    for source in recipe.sources:
        key = source.path, source.offset  # an absent source, or an utterance without known activity, stays
        if key in activity and heard_seconds(source, recipe, activity, rate_hz) < HEARD_SECONDS:
            source = _moved(source, recipe, utterances[key], activity, rate_hz, chance)
        sources.append(source)
    return replace(recipe, sources=tuple(sources))


def _moved(
    source: Source, recipe: Recipe, utterance: Utterance, activity: Activity, rate_hz: int, chance: Random
) -> Source:
    start, skip, used = source.turn or (0, 0, min(recipe.length, utterance.samples))
    hop = hop_samples(rate_hz)
    places, width = (utterance.samples - used) // hop + 1, -(-used // hop)  # in hops
    active = np.unpackbits(np.frombuffer(activity[source.path, source.offset], np.uint8))
    total = np.concatenate([[0], np.cumsum(active, dtype=np.int64)])
    begins = np.arange(places)
    heard = total[np.minimum(begins + width, len(active))] - total[begins]  # hops, for each place to begin
    wanted = min(int(heard.max()), max(round(HEARD_SECONDS / HOP_SECONDS), round(_HEARD_SHARE * width)))
    if wanted <= heard[min(skip // hop, places - 1)]:
        return source
    place = chance.choice(np.flatnonzero(heard >= wanted).tolist())
    return replace(source, turn=(start, place * hop, used))
