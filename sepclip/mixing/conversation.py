"""Conversations instead of constant overlap: how much of the time both voices speak, and mixtures of a single voice.

Two people who talk rarely speak all of the time both. A separator that is trained on full overlap alone never learns
to give nothing for a voice that is silent (Wisdom et al. 2021, "What's all the FUSS about free universal sound
separation data?"). Here is the arithmetic; :mod:`sepclip.mixing.dynamic_voices` and the recipes of ``prepare speakers``
use it alike.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from sepclip.audio.names import normal_name
from sepclip.errors import UserError

LEAST_SECONDS = 0.5  # that a voice which is present speaks
CORPUS_FROM = "^[A-Za-z]+"  # regular expression: the letters that the name of a voice begins with
FADE_SECONDS = 0.01  # at the edges of a voice that does not speak all of the time, so that nothing clicks


@dataclass(frozen=True)
class OverlapRange:
    """The share of the time in which both voices speak, from ``low`` to ``high``; ``weight`` against other ranges."""

    low: float
    high: float
    weight: float = 1.0


@dataclass(frozen=True)
class Conversation:
    """How the voices of a mixture take turns.

    ``overlap``: ranges for the share of the time in which both speak; without any, both speak all of the time.
    ``single``: share of the mixtures that have one voice only.
    """

    overlap: tuple[OverlapRange, ...] = ()
    single: float = 0.0

    def __bool__(self) -> bool:
        """Tell whether anything differs from mixtures in which both speak all of the time."""
        return bool(self.overlap) or self.single > 0

    def draw_is_single(self, chance: Random) -> bool:
        """Draw whether a mixture has one voice only."""
        return chance.random() < self.single

    def draw_overlap(self, chance: Random) -> float:
        """Draw the share of the time in which both voices of a mixture speak, from the ranges that there are."""
        chosen = chance.choices(self.overlap, [each.weight for each in self.overlap])[0]
        return chance.uniform(chosen.low, chosen.high)


ALL_THE_TIME = Conversation()


@dataclass(frozen=True)
class Pairing:
    """The choice of voices for a mixture: any, or in a ``share`` of the mixtures those of one corpus.

    With voices of several corpora, half of all pairs could be separated by the recording channel alone.
    """

    share: float | None = None
    corpora: Mapping[str, str] = field(default_factory=dict)  # of each voice

    @classmethod
    def of(cls, voices: Sequence[str], share: float | None, corpus_from: str) -> "Pairing":
        """Find the corpus of each voice by a regular expression. Raise UserError if it finds none in a name."""
        if share is None:
            return cls()
        corpora = {}
        for voice in voices:
            match = re.search(normal_name(corpus_from), voice)
            if not match or not match[0]:
                raise UserError(
                    f"{corpus_from!r} finds no corpus in the voice {voice}: write a regular expression, such as "
                    f"'^[a-z]+', that matches what the names of a corpus have in common (corpus_from)"
                )
            corpora[voice] = match[0]
        return cls(share, corpora)

    def draw(self, chance: Random, voices: Sequence[str], count: int) -> list[str]:
        """Draw ``count`` different ones of ``voices``, each as likely as the others."""
        if self.share is None or count == 1:
            return chance.sample(voices, count)
        # the first voice decides the corpus, so that every voice is as likely
        first = chance.choice(voices)
        inside = [voice for voice in voices if voice != first and self.corpora[voice] == self.corpora[first]]
        outside = [voice for voice in voices if self.corpora[voice] != self.corpora[first]]
        same = len(outside) < count - 1 or (len(inside) >= count - 1 and chance.random() < self.share)
        return [first, *chance.sample(inside if same else outside, count - 1)]


def parse_overlap(texts: Sequence[str]) -> tuple[OverlapRange, ...]:
    """Read ranges such as ``"0,0.5"``, or ``"0.5,1,60"`` with a weight. Raise UserError if one is not a range."""
    ranges = []
    for text in texts:
        try:
            ranges.append(overlap_range(text.split(",")))
        except ValueError as error:
            raise UserError(f"--overlap {text}: {error}") from error
    return tuple(ranges)


def overlap_range(values: Sequence[float | str]) -> OverlapRange:
    """Return the range of two numbers, or of three with a weight. Raise ValueError if they are not a range."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or not 0 <= numbers[0] <= numbers[1] <= 1 or not all(n > 0 for n in numbers[2:]):
        raise ValueError("give the lowest and the highest share from 0 to 1, such as 0.5,1, and a weight if you like")
    return OverlapRange(*numbers)


def turns_in_excerpt(overlap: float, samples: int, least: int, chance: Random) -> list[tuple[int, int]]:
    """Draw when two voices speak in an excerpt of ``samples``: (start, stop) of the first and of the second.

    The first speaks from the beginning and the second until the end; together they fill the excerpt, and for
    ``overlap`` of the time both speak. Each speaks for ``least`` samples or more, if the excerpt is long enough.
    """
    total = samples * (1 + overlap)  # what both speak, added up
    least = min(least, samples // 2)
    first = chance.uniform(max(least, total - samples), min(samples, total - least))
    return [(0, round(first)), (samples - round(total - first), samples)]


def turns_of_utterances(overlap: float, lengths: tuple[int, int], chance: Random) -> list[tuple[int, int]]:
    """Draw when two utterances of ``lengths`` samples are spoken: the start and the samples to use of each.

    Both are used whole if that gives the ``overlap``; else the longer one is cut and the shorter lies within it.
    """
    shared = round(overlap * sum(lengths) / (1 + overlap))
    short, long = sorted(lengths)
    if shared <= short:
        first, starts = chance.randrange(2), [0, 0]
        starts[1 - first] = lengths[first] - shared
        return list(zip(starts, lengths, strict=True))
    # more overlap than the shorter one can give: cut the longer one
    long = min(long, int(short / overlap))
    inside = chance.randint(0, long - short)
    if lengths[0] == short:
        return [(inside, short), (0, long)]
    return [(0, long), (inside, short)]
