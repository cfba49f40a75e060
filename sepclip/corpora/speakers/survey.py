"""Surveying a corpus of voices: every sound file is read once, measured and cut into utterances, or left out."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sepclip.audio.activity import agreement
from sepclip.audio.files import EXTENSIONS, find_sounds, name_below
from sepclip.audio.names import normal_name
from sepclip.corpora.preflight import count_others, require_folder
from sepclip.corpora.speakers.measurement import Measurement, Utterance, measure
from sepclip.corpora.speakers.presets import Voice, VoiceFinder
from sepclip.corpora.speakers.voice_settings import VoiceSettings
from sepclip.errors import UserError, counted
from sepclip.parallel import in_threads
from sepclip.terminal import say

_SAME_SECONDS = 0.1  # files of one name in one voice whose lengths differ by less are the same recording
_SAME_ACTIVITY = 0.9  # share of the time in which they must agree on whether somebody speaks, in different folders


@dataclass
class VoiceSurvey:
    """The usable utterances of each voice, and which files were left out and why."""

    voices: dict[str, list[Utterance]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # reason by relative path
    digest: str = ""  # of the samples of every file used
    activity: dict[tuple[str, int], bytes] = field(default_factory=dict)  # by path and offset, as in Measurement
    others: str = ""  # the files that are not sound, counted by extension
    corrected: dict[str, str] = field(default_factory=dict)  # how one channel was made of a file, by relative path

    @property
    def seconds(self) -> float:
        """Total length of the usable utterances."""
        return sum(u.length / u.rate_hz for utterances in self.voices.values() for u in utterances)

    def reasons(self) -> str:
        """Return the number of files left out for each kind of reason."""
        kinds = Counter(re.split(r":| of | \(", reason)[0] for reason in self.left_out.values())
        return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def survey_voices(root: Path, settings: VoiceSettings, jobs: int | None = None) -> VoiceSurvey:
    """Read every sound file below ``root``, in parallel, and find out what can be used.

    :class:`VoiceFinder` finds the voice of a file. Long files are cut at pauses into pieces. These files are left out,
    each with its reason: hidden, unreadable, truncated, short, silent, non-finite or duplicate ones, and those with a
    rate below that of the set or a name that is not UTF-8.
    """
    require_folder(root, "a folder of voices")
    finder = VoiceFinder(root, speaker_from=settings.speaker_from, preset=settings.preset)
    paths, left_out = find_sounds(root)
    survey = VoiceSurvey(left_out={name_below(path, root): reason for path, reason in left_out.items()})
    survey.others = count_others(root, {*paths, *left_out})
    if not paths:
        why = f"; left out: {survey.reasons()}" if left_out else ""
        why += f"; left alone: {survey.others}" if survey.others else ""
        raise UserError(f"{root} contains no sound files (.wav, .flac, .ogg, .mp3 and the like), at any depth{why}")

    named: list[tuple[Path, Voice]] = []
    for path in paths:
        voice = finder.find(path.relative_to(root))
        relative = name_below(path, root)
        if relative != path.relative_to(root).as_posix():
            survey.left_out[relative] = "its name is not UTF-8, so no recipe can hold it"
        elif isinstance(voice, str):
            survey.left_out[relative] = voice
        else:
            named.append((path, voice))

    def measure_file(item: tuple[Path, Voice]) -> Measurement | str:
        path, voice = item
        return measure(path, name_below(path, root), voice, settings)

    if named:
        say(f"reading {counted(len(named), 'file')} in {root}")
    seen: dict[str, str] = {}
    usable: dict[str, tuple[Voice, Measurement]] = {}
    for (path, voice), result in zip(named, in_threads(measure_file, named, "reading voices", jobs), strict=True):
        relative = name_below(path, root)
        if isinstance(result, str):
            survey.left_out[relative] = result
        elif result.digest in seen:
            survey.left_out[relative] = f"duplicate of {seen[result.digest]}"
        else:
            seen[result.digest] = relative
            usable[relative] = voice, result
    survey.left_out |= (copies := _find_copies(usable))
    for relative, (voice, result) in usable.items():
        if relative not in copies:
            survey.voices.setdefault(voice.name, []).extend(result.utterances)
            for utterance, active in zip(result.utterances, result.activity, strict=True):
                survey.activity[utterance.path, utterance.offset] = active
            if result.corrections:
                survey.corrected[relative] = result.corrections
    used = sorted((digest, relative) for digest, relative in seen.items() if relative not in copies)
    survey.digest = hashlib.sha256("\n".join(f"{v} {k}" for k, v in used).encode()).hexdigest()
    return survey


def _find_copies(usable: Mapping[str, tuple[Voice, Measurement]]) -> dict[str, str]:
    """Return the files that are copies of another in a different format or rate, each with the reason to leave it out.

    They have the voice, the name and, within 0.1 s, the length of the other. In different folders, in which a name may
    occur again by design, they must also be active at the same times. The one of the better format is kept.
    """
    by_name: dict[tuple[str, str], list[str]] = {}
    for relative, (voice, _) in usable.items():
        by_name.setdefault((voice.name, _bare_name(relative)), []).append(relative)
    copies = {}
    for group in by_name.values():
        kept: list[str] = []
        for relative in sorted(group, key=lambda relative: usable[relative][1].quality, reverse=True):
            original = next((other for other in kept if _is_copy(relative, other, usable)), None)
            if original is None:
                kept.append(relative)
            else:
                copies[relative] = f"duplicate of {original} by name and length"
    return copies


def _is_copy(relative: str, other: str, usable: Mapping[str, tuple[Voice, Measurement]]) -> bool:
    (_, first), (_, second) = usable[relative], usable[other]
    if abs(first.seconds - second.seconds) > _SAME_SECONDS:
        return False
    same_folder = relative.rpartition("/")[0] == other.rpartition("/")[0]
    return same_folder or agreement(b"".join(first.activity), b"".join(second.activity)) >= _SAME_ACTIVITY


def _bare_name(relative: str) -> str:
    """Return the name of a file without its folders and all extensions of sound files."""
    name = normal_name(relative.rpartition("/")[2])
    while (parts := name.rpartition("."))[0] and f".{parts[2].lower()}" in EXTENSIONS:
        name = parts[0]
    return name
