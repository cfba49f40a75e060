"""Finding the speaker of a file: by its folder, by a regular expression, or by the preset of a known corpus."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sepclip.audio.files import find_sounds
from sepclip.audio.names import normal_name, split_names
from sepclip.errors import UserError
from sepclip.terminal import say

NO_VOICE = "not in a voice's folder"
_SEX = re.compile(r"(?:^|[^a-z])(?:(f)|(m)|(female|woman)|(male|man))(?:[^a-z]|$)", re.IGNORECASE)


class Voice(NamedTuple):
    """A speaker, and "f" or "m" if the corpus says which."""

    name: str
    sex: str | None


@dataclass(frozen=True)
class SexTable:
    """A text file of the corpus with the sexes: ``line`` finds the voice and F or M in each of its lines."""

    file: str
    line: re.Pattern[str]

    def read(self, folder: Path) -> dict[str, str] | None:
        """Return "f" or "m" by voice, or None if the table is not in the folder."""
        try:
            lines = (folder / self.file).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return None
        matches = [match for line in lines if (match := self.line.match(line))]
        return {match[1]: match[2].lower() for match in matches}


LIBRISPEECH_SEXES = SexTable("SPEAKERS.TXT", re.compile(r"^\s*(\d+)\s*\|\s*([FM])\s*\|"))


@dataclass(frozen=True)
class Preset:
    """A known corpus: which of its files are used, and how their paths below the root name the voice and sex."""

    takes: str  # in words, for the reason why a file is left out
    pattern: re.Pattern[str]
    sexes: SexTable | None = None


PRESETS = {
    "vctk": Preset(
        "SPEAKER/SPEAKER_NUMBER[_mic1].{flac,wav}: of two microphones the first",
        re.compile(r"(?:^|/)(?P<speaker>[ps]\d+)/(?P=speaker)_\d+(?:_mic1)?\.(?:flac|wav)$"),
        SexTable("speaker-info.txt", re.compile(r"^\s*p?(\w+)\s+\d+\s+([FM])\b")),
    ),
    "librispeech": Preset(
        "SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.{flac,wav}",
        re.compile(r"(?:^|/)(?P<speaker>\d+)/(\d+)/(?P=speaker)-\2-\d+\.(?:flac|wav)$"),
        LIBRISPEECH_SEXES,
    ),
    "daps": Preset(
        "{f,m}NUMBER_scriptNUMBER_clean.wav: of its rooms and devices the studio alone",
        re.compile(r"(?:^|/)(?P<speaker>(?P<sex>[fm])\d+)_script\d+_clean\.wav$"),
    ),
    "timit": Preset(
        "DR1 to DR8/SPEAKER/{SA,SI,SX}NUMBER.WAV",
        re.compile(r"(?:^|/)dr[1-8]/(?P<speaker>(?P<sex>[fm])[a-z]{3}\d)/s[aix]\d+(?:\.wav){1,2}$", re.IGNORECASE),
    ),
}


class VoiceFinder:
    """Finds the voice of a file in its path below ``root``.

    It is the first folder, or the match of the regular expression ``speaker_from`` (its group named ``speaker``, else
    the first group, else the whole match), or what the ``preset`` finds. Raise UserError if the expression is not
    valid, or the preset unknown.
    """

    def __init__(self, root: Path, *, speaker_from: str | None = None, preset: str | None = None):
        check_preset(preset, speaker_from)
        self._preset = PRESETS[preset] if preset else None
        self._name, self._pattern = preset, _compile(speaker_from)
        self._sexes = read_sexes(root, self._preset.sexes) if self._preset and self._preset.sexes else {}

    def find(self, relative: Path) -> Voice | str:
        """Return the voice of the file at ``relative`` below the root, or the reason why it has none."""
        path = normal_name(relative.as_posix())
        if self._preset:
            match = self._preset.pattern.search(path)
            if match is None:
                return f"passed over by --preset {self._name}: it takes {self._preset.takes}"
            name = match["speaker"]
            sex = match.groupdict().get("sex") or self._sexes.get(name.removeprefix("p"))
            return Voice(name, sex.lower() if sex else None)
        folder, slash, _ = path.partition("/")
        name = (folder if slash else None) if self._pattern is None else _matched(self._pattern, path)
        if name is None:
            return NO_VOICE if self._pattern is None else f"--speaker-from {self._pattern.pattern} does not match"
        return Voice(name, sex_of(name))


def name_voices(
    root: Path, texts: Iterable[str] | str | None, *, speaker_from: str | None, preset: str | None
) -> list[str]:
    """Return the voices named in ``texts``, each one name or several with commas between them.

    The files of the corpus are listed only if a comma may belong to a name.
    """
    texts = [texts] if isinstance(texts, str) else list(texts or ())
    names = split_names(texts, ())
    if all(text.count(",") == 0 for text in texts) or all((root / name).is_dir() for name in names):
        return names
    if not root.is_dir():
        return names
    finder = VoiceFinder(root, speaker_from=speaker_from, preset=preset)
    voices = (finder.find(path.relative_to(root)) for path in find_sounds(root)[0])
    return split_names(texts, {voice.name for voice in voices if isinstance(voice, Voice)})


def check_preset(preset: str | None, speaker_from: str | None) -> None:
    """Raise UserError if the preset is unknown, or given together with an expression."""
    if preset is not None and preset not in PRESETS:
        raise UserError(f"--preset {preset}: choose one of {', '.join(PRESETS)}, or --speaker-from REGEX for others")
    if preset is not None and speaker_from is not None:
        raise UserError("--preset finds the voices itself: leave --speaker-from out, or the preset")


def read_sexes(root: Path, table: SexTable) -> dict[str, str]:
    """Return the sexes in the table of a corpus, which is in ``root`` or up to two folders above it."""
    for folder in (root, *root.resolve().parents[:2]):
        if (sexes := table.read(folder)) is not None:
            return sexes
    say(f"{table.file} is neither in {root} nor above it: the sexes of the voices stay unknown")
    return {}


def sex_of(voice: str) -> str | None:
    """Return "f" or "m" if the voice's name says which (``en-f``, ``f10``, ``speaker_male_3``), else None."""
    match = _SEX.search(voice)
    if match is None:
        return None
    return "f" if match[1] or match[3] else "m"


def _compile(speaker_from: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(normal_name(speaker_from)) if speaker_from is not None else None
    except re.error as error:
        raise UserError(f"--speaker-from {speaker_from!r} is not a regular expression: {error}") from error


def _matched(pattern: re.Pattern[str], path: str) -> str | None:
    match = pattern.search(path)
    if match is None:
        return None
    if "speaker" in pattern.groupindex:
        return match["speaker"] or None
    return (match[1] if pattern.groups else match[0]) or None
