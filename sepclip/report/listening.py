"""Cards of mixtures to hear and to see: players, spectrograms and masks of mixture, estimates and true sources."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sepclip.audio.arrays import FloatWaves
from sepclip.audio.stft import STFT
from sepclip.report.examples import ExampleSource, matched
from sepclip.report.images import Picture, mask_png, sound_png, spectrogram
from sepclip.report.markup import Content, Markup, signed, tag
from sepclip.report.sounds import excerpt, playable, seconds_within, sound_uri
from sepclip.scoring.items import Item, Waves
from sepclip.scoring.oracles import default_stft

SOUND_BYTES = 5_000_000  # of all sounds of a page: with base64 and pictures it stays below 10 MB
MOST_SECONDS = 12.0


def cards(
    words: Mapping[str, str],
    systems: Mapping[str, ExampleSource],
    by_file: Mapping[str, float],
    unit: str,
    digits: int = 1,
) -> list[Markup]:
    """Return a card for each file of ``words`` (name to "best", ...): mixture, estimates of each system, references.

    Its score stands above it in ``unit``, with so many ``digits`` after the point.
    """
    found: dict[str, dict[str, Waves]] = {name: {} for name in words}
    first: dict[str, Item] = {}
    for label, source in systems.items():
        for item in source.items(list(words)):
            waves = item.waves()
            if isinstance(waves, Waves):
                name = item.rows[0].name
                found[name][label] = waves
                first.setdefault(name, item)
    sounds = sum(1 + len(item.rows) * (1 + len(found[name])) for name, item in first.items())
    budget = SOUND_BYTES // max(1, sounds)
    return [
        _card(word, signed(by_file[name], unit, digits), first[name], found[name], budget)
        for name, word in words.items()
        if name in first
    ]


@dataclass(frozen=True)
class _Stage:
    """What all sounds of one card have in common: their stretch, gain, transform and scale of colours."""

    name: str
    rate_hz: int
    part: slice
    gain: float
    stft: STFT
    mixture: Picture
    budget: int

    @classmethod
    def of(cls, name: str, systems: Mapping[str, Waves], budget: int) -> "_Stage":
        waves = next(iter(systems.values()))
        rate_hz, channels = waves.rate_hz, min(2, waves.mixture.shape[1])
        seconds = min(MOST_SECONDS, seconds_within(budget, rate_hz, channels))
        part = excerpt(waves.mixture, rate_hz, seconds)
        every = [waves.mixture, *waves.ref, *(wave for one in systems.values() for wave in one.est)]
        peak = max(float(np.abs(wave[part]).max(initial=0.0)) for wave in every)
        stft = default_stft(rate_hz)
        mixture = spectrogram(waves.mixture[part].mean(-1), stft)
        return cls(name, rate_hz, part, 0.9 / max(peak, 1e-9), stft, mixture, budget)

    def player(self, label: str, wave: FloatWaves, note: str = "", *, column: int, mask: bool = False) -> Markup:
        """Return the spectrogram and the player of one wave (T, C), with its mask below where it is an estimate."""
        picture = spectrogram(wave[self.part].mean(-1), self.stft)
        of = f"{label} of {self.name}"
        parts: list[Content] = [
            tag("figcaption", tag("h4", label), tag("span", note, class_="score") if note else None),
            tag(
                "div",
                tag("img", src=sound_png(picture, float(self.mixture.max(initial=0.0))), alt=f"Spectrogram: {of}"),
                tag("div", class_="playhead"),
                class_="picture",
            ),
            tag(
                "audio",
                src=sound_uri(playable(wave[self.part] * self.gain), self.rate_hz, self.budget),
                controls=True,
                preload="metadata",
                aria_label=of,
            ),
        ]
        if mask:
            shown = tag("img", src=mask_png(picture, self.mixture), alt=f"Mask: what {of} keeps of the mixture")
            parts.append(tag("div", shown, class_="mask"))
        return tag("figure", parts, class_="sound", style=f"--column: {column}")


def _card(word: str, score: str, item: Item, systems: Mapping[str, Waves], budget: int) -> Markup:
    """Return the card of one file: a column for the mixture and one for each source."""
    name, waves = item.rows[0].name, next(iter(systems.values()))
    stage = _Stage.of(name, systems, budget)
    voices = [row.voice or row.source for row in item.rows]
    drawn = [stage.player("mixture", waves.mixture, column=1)]
    for label, found in systems.items():
        order, gains = matched(found)
        prefix = label if len(systems) > 1 else "estimate"
        for column, (voice, which, gain) in enumerate(zip(voices, order, gains, strict=True), 2):
            note = signed(gain, "dB") if np.isfinite(gain) else ""
            drawn.append(stage.player(f"{prefix}: {voice}", found.est[which], note, column=column, mask=True))
    for column, (voice, ref) in enumerate(zip(voices, waves.ref, strict=True), 2):
        drawn.append(stage.player(f"true: {voice}", ref, column=column))
    length, shown = len(waves.mixture), len(waves.mixture[stage.part])
    cut = f", {shown / waves.rate_hz:.1f} s of {length / waves.rate_hz:.1f} s" if shown < length else ""
    group = f", {item.rows[0].group}" if item.rows[0].group else ""
    head = tag(
        "header",
        tag("h3", word.capitalize()),
        tag("span", score, class_="gain"),
        tag("span", f"{name}{group}{cut}", class_="name"),
    )
    sounds = tag("div", drawn, class_="sounds", style=f"--columns: {1 + len(voices)}")
    return tag("article", head, sounds, class_="example card")
