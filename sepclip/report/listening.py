"""Cards of example mixtures: players, spectrograms and masks of the mixture, the estimates and the true sources."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sepclip.audio.arrays import FloatWaves
from sepclip.audio.stft import STFT
from sepclip.report.examples import ExampleSource, match_estimates
from sepclip.report.images import Picture, mask_png, sound_png, spectrogram
from sepclip.report.markup import Content, Markup, signed, tag
from sepclip.report.sounds import excerpt, playable, seconds_within, sound_uri
from sepclip.scoring.items import Item, Waves
from sepclip.scoring.oracles import default_stft

SOUND_BYTES = 5_000_000  # of all sounds of a page, which keeps it below 10 MB with base64 and pictures
MOST_SECONDS = 12.0


def example_cards(
    ranks: Mapping[str, str],
    systems: Mapping[str, ExampleSource],
    by_file: Mapping[str, float],
    unit: str,
    digits: int = 1,
) -> list[Markup]:
    """Return a card for each file of ``ranks`` (name to "best", ...): mixture, estimates of each system, references.

    The heading of a card has the score of the file from ``by_file`` in ``unit``, rounded to ``digits``. Files that
    cannot be read have no card.
    """
    # the waves of each file by system; the first item of a file names its sources
    waves_of: dict[str, dict[str, Waves]] = {name: {} for name in ranks}
    items: dict[str, Item] = {}
    for label, source in systems.items():
        for item in source.items(list(ranks)):
            waves = item.waves()
            if isinstance(waves, Waves):
                name = item.rows[0].name
                waves_of[name][label] = waves
                items.setdefault(name, item)
    # a mixture for each file; a reference and the estimate of each system for each source
    sounds = sum(1 + len(item.rows) * (1 + len(waves_of[name])) for name, item in items.items())
    budget = SOUND_BYTES // max(1, sounds)
    return [
        _card(rank, signed(by_file[name], unit, digits), items[name], waves_of[name], budget)
        for name, rank in ranks.items()
        if name in items
    ]


@dataclass(frozen=True)
class _PlayerSettings:
    """The settings that all sounds of one card share, such as the excerpt, the gain and the colour scale."""

    name: str  # of the file
    rate_hz: int
    part: slice  # of the samples
    gain: float
    stft: STFT
    mixture: Picture  # magnitudes (F, N)
    budget: int

    @classmethod
    def from_waves(cls, name: str, systems: Mapping[str, Waves], budget: int) -> "_PlayerSettings":
        """Return the settings for one file from its waves by system."""
        waves = next(iter(systems.values()))
        # an excerpt that fits into the budget
        rate_hz, channels = waves.rate_hz, min(2, waves.mixture.shape[1])
        seconds = min(MOST_SECONDS, seconds_within(budget, rate_hz, channels))
        part = excerpt(waves.mixture, rate_hz, seconds)
        # one gain for all sounds, so that they can be compared and none is clipped
        all_waves = [waves.mixture, *waves.ref, *(wave for system in systems.values() for wave in system.est)]
        peak = max(float(np.abs(wave[part]).max(initial=0.0)) for wave in all_waves)
        stft = default_stft(rate_hz)
        mixture = spectrogram(waves.mixture[part].mean(-1), stft)
        return cls(name, rate_hz, part, 0.9 / max(peak, 1e-9), stft, mixture, budget)

    def player(self, label: str, wave: FloatWaves, note: str = "", *, column: int, mask: bool = False) -> Markup:
        """Return the spectrogram and the player of one wave (T, C); ``mask`` adds its mask below, for an estimate."""
        picture = spectrogram(wave[self.part].mean(-1), self.stft)
        description = f"{label} of {self.name}"
        parts: list[Content] = [
            tag("figcaption", tag("h4", label), tag("span", note, class_="score") if note else None),
            tag(
                "div",
                tag(
                    "img",
                    src=sound_png(picture, float(self.mixture.max(initial=0.0))),
                    alt=f"Spectrogram: {description}",
                ),
                tag("div", class_="playhead"),
                class_="picture",
            ),
            tag(
                "audio",
                src=sound_uri(playable(wave[self.part] * self.gain), self.rate_hz, self.budget),
                controls=True,
                preload="metadata",
                aria_label=description,
            ),
        ]
        if mask:
            alternative = f"Mask: the share of the mixture that {description} keeps"
            mask_image = tag("img", src=mask_png(picture, self.mixture), alt=alternative)
            parts.append(tag("div", mask_image, class_="mask"))
        return tag("figure", parts, class_="sound", style=f"--column: {column}")


def _card(rank: str, score: str, item: Item, systems: Mapping[str, Waves], budget: int) -> Markup:
    """Return the card of one file: a column for the mixture and one for each source."""
    name, waves = item.rows[0].name, next(iter(systems.values()))
    settings = _PlayerSettings.from_waves(name, systems, budget)
    voices = [row.voice or row.source for row in item.rows]
    # the mixture; then below each other in the column of a source, the estimates of all systems and the reference
    players = [settings.player("mixture", waves.mixture, column=1)]
    for label, system in systems.items():
        order, gains = match_estimates(system)
        prefix = label if len(systems) > 1 else "estimate"
        for column, (voice, index, gain) in enumerate(zip(voices, order, gains, strict=True), 2):
            note = signed(gain, "dB") if np.isfinite(gain) else ""
            players.append(settings.player(f"{prefix}: {voice}", system.est[index], note, column=column, mask=True))
    for column, (voice, ref) in enumerate(zip(voices, waves.ref, strict=True), 2):
        players.append(settings.player(f"reference: {voice}", ref, column=column))
    # the heading: rank, score, name, and how much of the file can be heard
    total, length = len(waves.mixture), len(waves.mixture[settings.part])
    cut = f", {length / waves.rate_hz:.1f} s of {total / waves.rate_hz:.1f} s" if length < total else ""
    group = f", {item.rows[0].group}" if item.rows[0].group else ""
    head = tag(
        "header",
        tag("h3", rank.capitalize()),
        tag("span", score, class_="gain"),
        tag("span", f"{name}{group}{cut}", class_="name"),
    )
    sounds = tag("div", players, class_="sounds", style=f"--columns: {1 + len(voices)}")
    return tag("article", head, sounds, class_="example card")
