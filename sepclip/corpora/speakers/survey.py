"""Surveying a corpus of voices: every sound file is read once, measured and cut into utterances, or left out."""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from sepclip.audio.activity import hop_levels, hop_samples, is_active
from sepclip.audio.files import BadSound, find_sounds, mono_at_rate, name_below, read_sound
from sepclip.audio.loudness import LAWS, rms
from sepclip.corpora.preflight import require_folder
from sepclip.corpora.speakers.pauses import cut_at_pauses
from sepclip.corpora.speakers.presets import Voice, VoiceFinder
from sepclip.corpora.speakers.voice_settings import VoiceSettings
from sepclip.errors import UserError, counted
from sepclip.parallel import in_threads
from sepclip.terminal import say, warn_once

SILENT_DBFS = -60.0  # an utterance whose RMS is below this has no speech that could be brought to level


@dataclass(frozen=True)
class Utterance:
    """A stretch of one file by one voice, with its level and peak at the rate of the set."""

    path: str  # relative to the corpus root
    voice: str
    offset: int  # samples at the file's rate, as is length
    length: int
    rate_hz: int
    samples: int  # at the rate of the set
    level: float  # amplitude, by the level law of the set
    peak: float
    sex: str | None = None


@dataclass
class VoiceSurvey:
    """The usable utterances of each voice, and which files were left out and why."""

    voices: dict[str, list[Utterance]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # reason by relative path
    digest: str = ""  # of the samples of every file used
    activity: dict[tuple[str, int], bytes] = field(default_factory=dict)  # by path and offset, as in Measurement

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
    if not paths:
        why = f"; left out: {survey.reasons()}" if left_out else ""
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
    for (path, voice), result in zip(named, in_threads(measure_file, named, "reading voices", jobs), strict=True):
        relative = name_below(path, root)
        if isinstance(result, str):
            survey.left_out[relative] = result
        elif result.digest in seen:
            survey.left_out[relative] = f"duplicate of {seen[result.digest]}"
        else:
            seen[result.digest] = relative
            survey.voices.setdefault(voice.name, []).extend(result.utterances)
            for utterance, active in zip(result.utterances, result.activity, strict=True):
                survey.activity[utterance.path, utterance.offset] = active
    survey.digest = hashlib.sha256("\n".join(f"{v} {k}" for k, v in sorted(seen.items())).encode()).hexdigest()
    return survey


@dataclass(frozen=True)
class Measurement:
    """The utterances of a file, where in each somebody speaks, and the digest of the file's samples."""

    utterances: list[Utterance]
    activity: list[bytes]  # packed bits, one for each hop of 10 ms
    digest: str


def measure(path: Path, relative: str, voice: Voice, settings: VoiceSettings) -> Measurement | str:
    """Return the utterances in a file, at the rate of the set, or the reason to leave it out."""
    rate_hz, min_seconds, max_seconds = settings.rate_hz, settings.min_seconds, settings.max_seconds
    try:
        sound = read_sound(path)
    except BadSound as error:
        return error.reason
    if sound.header_fault:
        warn_once(f"{path}: {sound.header_fault}")
    length = sound.samples.shape[1]
    if length < min_seconds * sound.rate_hz:
        return f"short: {length / sound.rate_hz:.2f} s, below --min-seconds {min_seconds:g}"
    if sound.rate_hz < rate_hz:
        return f"its rate of {sound.rate_hz} Hz is below --rate {rate_hz}"
    try:
        wave = mono_at_rate(sound.samples, sound.rate_hz, rate_hz)  # (T,)
    except UserError as error:
        return str(error)
    hop, levels = hop_samples(rate_hz), hop_levels(wave, rate_hz)
    cuts = cut_at_pauses(levels, min_seconds * rate_hz / hop, max_seconds * rate_hz / hop)
    edges = [*(cut * hop * sound.rate_hz // rate_hz for cut in cuts[:-1]), length]
    utterances, activity = [], []
    for (start, stop), (first, last) in zip(pairwise(edges), pairwise(cuts), strict=True):
        piece = wave[first * hop : last * hop]
        level = LAWS[settings.level](piece, rate_hz)
        if rms(piece, rate_hz) > 10 ** (SILENT_DBFS / 20) and level > 0:
            peak = float(np.abs(piece).max())
            utterances.append(
                Utterance(relative, voice.name, start, stop - start, sound.rate_hz, len(piece), level, peak, voice.sex)
            )
            activity.append(np.packbits(is_active(levels[first:last])).tobytes())
    if not utterances:
        return f"silent: below {SILENT_DBFS:g} dBFS"
    return Measurement(utterances, activity, hashlib.sha256(sound.samples.tobytes()).hexdigest())
