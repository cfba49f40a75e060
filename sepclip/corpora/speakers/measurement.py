"""Measuring a recording of a voice: it is cut into utterances, each with its level, its peak and its activity."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sepclip.audio.activity import hop_samples, is_active
from sepclip.audio.files import BadSound
from sepclip.audio.loudness import LAWS, rms
from sepclip.audio.mono import MonoSound
from sepclip.corpora.speakers.pauses import cut_at_pauses
from sepclip.corpora.speakers.presets import Voice
from sepclip.corpora.speakers.voice_settings import VoiceSettings
from sepclip.errors import UserError
from sepclip.terminal import warn_once

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
    channel: int | None = None  # as in Source, like dc
    dc: float | None = None


@dataclass(frozen=True)
class Measurement:
    """The utterances of a file, where in each somebody speaks, and what is special about the file."""

    utterances: list[Utterance]
    activity: list[bytes]  # packed bits, one for each hop of 10 ms
    digest: str  # of the file's samples
    seconds: float
    quality: tuple[bool, int]  # whether the format is lossless, and the rate
    corrections: str | None  # as MonoSound.corrections


def measure(path: Path, relative: str, voice: Voice, settings: VoiceSettings) -> Measurement | str:
    """Return the utterances in a file, at the rate of the set, or the reason to leave it out."""
    try:
        sound = MonoSound(path)
    except BadSound as error:
        return error.reason
    if sound.header_fault:
        warn_once(f"{path}: {sound.header_fault}")
    seconds = sound.samples / sound.rate_hz
    if sound.samples < settings.min_seconds * sound.rate_hz:
        return f"short: {seconds:.2f} s, below --min-seconds {settings.min_seconds:g}"
    if sound.rate_hz < settings.rate_hz:
        return f"its rate of {sound.rate_hz} Hz is below --rate {settings.rate_hz}"
    try:
        utterances, activity = _utterances(sound, relative, voice, settings)
    except UserError as error:
        return error.reason if isinstance(error, BadSound) else str(error)
    if not utterances:
        return f"silent: below {SILENT_DBFS:g} dBFS"
    return Measurement(
        utterances, activity, sound.digest(), seconds, (sound.is_lossless, sound.rate_hz), sound.corrections()
    )


def _utterances(
    sound: MonoSound, relative: str, voice: Voice, settings: VoiceSettings
) -> tuple[list[Utterance], list[bytes]]:
    """Return the utterances of a recording, cut at its pauses, without the silent ones; and the activity of each."""
    rate_hz, hop = settings.rate_hz, hop_samples(settings.rate_hz)
    utterances, activity, start, hops = [], [], 0, 0
    pieces = cut_at_pauses(sound.at_rate(rate_hz), rate_hz, settings.min_seconds, settings.max_seconds)
    for piece, levels in pieces:
        hops += len(levels)
        stop = min(hops * hop * sound.rate_hz // rate_hz, sound.samples)
        level = LAWS[settings.level](piece, rate_hz)
        if rms(piece, rate_hz) > 10 ** (SILENT_DBFS / 20) and level > 0:
            where = (relative, voice.name, start, stop - start, sound.rate_hz, len(piece))
            peak = float(np.abs(piece).max())
            utterances.append(Utterance(*where, level, peak, voice.sex, sound.channel, sound.dc))
            activity.append(np.packbits(is_active(levels)).tobytes())
        start = stop
    return utterances, activity
