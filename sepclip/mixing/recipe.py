"""Recipes of mixtures: which stretch of which file, at which gain.

A recipe says everything about one mixture. Rendering it needs no random numbers, so a recipe gives the same samples
wherever and in whatever order it is rendered. :mod:`sepclip.mixing.render` does that.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SPLITS = ("tr", "cv", "tt")


@dataclass(frozen=True)
class Source:
    """One source of a mixture: ``length`` samples of ``path`` from ``offset`` on, at the file's own ``rate_hz``.

    With a ``turn``, ``samples`` of them, without the first ``skip``, are heard from ``start`` on in the mixture.
    """

    path: str  # relative to the root of the set
    voice: str
    sex: str | None  # "f", "m", or None if the voice's name does not say
    offset: int
    length: int
    rate_hz: int
    level_db: float  # relative to the other sources
    gain: float  # factor for the samples
    rir: str | None = None  # room impulse response, relative to the folder of responses
    heard: str | None = None  # the file that went into the mixture, if another one, relative to the root of the set
    turn: tuple[int, int, int] | None = (
        None  # (start, skip, samples) at the rate of the set; None: from the beginning on
    )
    channel: int | None = None  # of the file, from 0; None: the mean of its channels
    dc: float | None = None  # constant offset of the file that is subtracted

    @property
    def absent(self) -> bool:
        """Whether this source is silent, because the mixture has fewer voices than the set has sources."""
        return not self.path


ABSENT = Source("", "", None, 0, 0, 0, 0.0, 0.0)
_OPTIONAL = ("rir", "heard", "turn", "channel", "dc")  # fields of a source that are written only if they are set


@dataclass(frozen=True)
class Recipe:
    """One mixture: its sources, and its ``length`` in samples at the rate of the set.

    The mixture is the sum of its sources, unless ``mix`` names a file of its own. With a ``peak``, one more gain for
    all brings the loudest sample of mixture and sources to it, if that sample exceeds 1 before.
    """

    name: str
    group: str  # such as "seen" or "unseen"
    length: int
    sources: tuple[Source, ...]
    peak: float | None = None
    mix: str | None = None  # relative to the root of the set
    noise: Source | None = None  # its path is relative to the folder of noise

    @property
    def sexes(self) -> str | None:
        """The sexes of the voices, sorted, such as ``"fm"``; None if one is unknown."""
        sexes = [source.sex for source in self.sources if not source.absent]
        return "".join(sorted(sex for sex in sexes if sex)) if all(sexes) else None

    @property
    def snr_db(self) -> float | None:
        """How far the noise is below the loudest voice, in dB; None without noise."""
        return self.loudest_db - self.noise.level_db if self.noise else None

    @property
    def loudest_db(self) -> float:
        """The relative level of the loudest voice, in dB."""
        return max(source.level_db for source in self.sources if not source.absent)

    @property
    def plain(self) -> bool:
        """Whether 0.1 reads it: all sources are present, begin with the mixture, and are the mean of their channels."""
        parts = (*self.sources, *([self.noise] if self.noise else []))
        return not any(part.absent or part.turn or part.channel is not None or part.dc is not None for part in parts)

    def to_line(self) -> str:
        """Return the recipe as one line of JSON."""
        fields = _without_none(vars(self), ("peak", "mix", "noise"))
        fields["sources"] = [_without_none(vars(source), _OPTIONAL) for source in self.sources]
        if self.noise:
            fields["noise"] = _without_none(vars(self.noise), _OPTIONAL)
        return json.dumps(fields, ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> "Recipe":
        """Read a recipe from one line of JSON. Raise ValueError if a path leads out of the corpus."""
        fields = json.loads(line)
        fields["sources"] = tuple(_source(source) for source in fields["sources"])
        if "noise" in fields:
            fields["noise"] = Source(**fields["noise"])
        recipe = cls(**fields)
        # the set may come from anyone, so its paths are checked before any is opened
        sources = (*recipe.sources, *([recipe.noise] if recipe.noise else []))
        paths = (path for source in sources for path in (source.path, source.rir or "", source.heard or ""))
        for path in (recipe.name, recipe.mix or "", *paths):
            if path.startswith("/") or ".." in path.split("/"):
                raise ValueError(f"{path} leads out of the corpus")
        return recipe


def _source(fields: dict[str, Any]) -> Source:
    """Return a source from its fields in JSON. Raise ValueError if its turn is not three numbers from 0 on."""
    turn = fields.get("turn")
    if turn is not None:
        if not (isinstance(turn, list) and len(turn) == 3 and all(isinstance(n, int) and n >= 0 for n in turn)):
            raise ValueError(f"turn is {turn!r:.40}")
        fields = {**fields, "turn": tuple(turn)}
    return Source(**fields)


def _without_none(fields: Mapping[str, Any], optional: tuple[str, ...]) -> dict[str, Any]:
    """Return ``fields`` without the ``optional`` ones that are None: older versions did not write them."""
    return {name: value for name, value in fields.items() if value is not None or name not in optional}
