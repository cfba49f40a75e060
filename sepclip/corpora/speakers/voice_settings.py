"""The settings of a set of mixed voices, and reading them from options."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sepclip.audio.loudness import LAWS
from sepclip.audio.names import normal_name
from sepclip.corpora.preflight import MODES, require_one_of
from sepclip.corpora.speakers.presets import check_preset
from sepclip.errors import UserError
from sepclip.mixing.conversation import CORPUS_FROM, Conversation, OverlapRange
from sepclip.mixing.recipe import SPLITS
from sepclip.mixing.render import TARGETS


@dataclass(frozen=True)
class VoiceSettings:
    """All that decides, with the corpus, what is in a set of mixed voices; the options of the command line."""

    counts: Mapping[str, int]  # of the mixtures of each split
    fractions: Mapping[str, float]  # of the voices or recordings that go to each split
    unseen: tuple[str, ...] = ()
    sources: int = 2
    split: str = "auto"
    speaker_from: str | None = None
    preset: str | None = None
    level: str = "rms"
    rate_hz: int = 8000
    mode: str = "min"
    min_seconds: float = 1.0
    max_seconds: float = 15.0
    noise: str | None = None  # folder
    noise_snr_db: tuple[float, float] = (0.0, 20.0)
    rirs: str | None = None  # folder
    targets: str = "reverberant"
    seed: int = 0
    audio: bool = True
    overlap: tuple[OverlapRange, ...] = ()
    single: float = 0.0
    same_corpus: float | None = None
    corpus_from: str = CORPUS_FROM
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # voices of splits; all others train

    @property
    def conversation(self) -> Conversation:
        """How the voices of a mixture take turns."""
        return Conversation(self.overlap, self.single)

    def document(self) -> dict[str, Any]:
        """Return the settings as plain data; those that 0.1 did not have are left out if they are not used."""
        fields: dict[str, Any] = asdict(self)
        fields |= {"unseen": list(self.unseen), "noise_snr_db": list(self.noise_snr_db)}
        fields["overlap"] = [[each.low, each.high, each.weight] for each in self.overlap]
        unused = [name for name in ("overlap", "single", "lists") if not fields[name]]
        if self.same_corpus is None:
            unused += ["same_corpus", "corpus_from"]
        return {name: value for name, value in fields.items() if name not in unused}

    @property
    def plain(self) -> bool:
        """Whether mixtures contain only voices, without noise or rooms."""
        return self.noise is None and self.rirs is None

    @property
    def additive(self) -> bool:
        """Whether the mixtures are the sum of their sources."""
        return self.noise is None and (self.rirs is None or self.targets == "reverberant")

    def __post_init__(self) -> None:
        """Raise UserError if a setting is not allowed."""
        require_one_of("--split", self.split, ("auto", "voices", "within"))
        require_one_of("--mode", self.mode, MODES)
        require_one_of("--level", self.level, tuple(LAWS))
        require_one_of("--targets", self.targets, TARGETS)
        if self.unseen and self.split == "voices":
            raise UserError(
                "--unseen keeps voices out of a split within voices; --split voices tests on unseen voices anyway"
            )
        if not 2 * self.min_seconds <= self.max_seconds < float("inf"):
            raise UserError(
                f"--max-seconds {self.max_seconds:g}: give {2 * self.min_seconds:g} or more, twice --min-seconds, so "
                f"that any recording can be cut"
            )
        check_preset(self.preset, self.speaker_from)
        if self.lists and (self.unseen or self.split != "auto"):
            raise UserError("--voices says which voices each split has: leave out --unseen and --split")
        if self.conversation and self.mode != "min":
            raise UserError("--mode max: with --overlap or --single a mixture ends with its last voice; leave it out")
        if self.overlap and self.sources != 2:
            raise UserError(f"--overlap is for mixtures of two voices, not of {self.sources}: leave it out")
        for option, share in (("--single", self.single), ("--same-corpus", self.same_corpus)):
            if share is not None and not (0 <= share <= 1 and (option != "--single" or share < 1)):
                raise UserError(f"{option} {share:g}: give a share of the mixtures, such as 0.15")
        try:
            re.compile(self.corpus_from)
        except re.error as error:
            raise UserError(f"--corpus-from {self.corpus_from}: not a regular expression ({error})") from error


def read_voice_lists(path: Path) -> dict[str, tuple[str, ...]]:
    """Read which voices are for validation and for testing from a YAML file such as ``cv: [a, b]`` and ``tt: [c, d]``.

    It may also have a list ``tr``; then all voices that are in no list are left out. Raise UserError if it is not such
    a file, or has a voice twice.
    """
    import yaml

    from sepclip.unique_yaml import load_yaml

    try:
        tree = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--voices {path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--voices {path} is not YAML: {' '.join(str(error).split())}") from error
    what = "write lists of voices by split, such as `cv: [anna, ben]` and `tt: [carl, dora]`"
    if not isinstance(tree, dict) or not {"cv", "tt"} <= set(tree) <= set(SPLITS):
        raise UserError(f"--voices {path}: {what}")
    lists = {}
    for split, voices in tree.items():
        if not isinstance(voices, list) or not all(isinstance(voice, str) for voice in voices):
            raise UserError(f"--voices {path}: {split} is not a list of names; {what}")
        lists[split] = tuple(map(normal_name, voices))
    counts = Counter(voice for voices in lists.values() for voice in voices)
    twice = [voice for voice, count in counts.items() if count > 1]
    if twice:
        raise UserError(f"--voices {path}: {', '.join(twice)} is there twice, so it would be trained on and tested")
    return lists


def parse_range(option: str, text: str) -> tuple[float, float]:
    """Read two numbers, the lower first, such as ``"0,20"``."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not -100 <= low <= high <= 100:
        raise UserError(f"{option} {text}: give the lowest and the highest in dB, such as 0,20")
    return low, high
