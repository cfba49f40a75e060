"""The files of one item to score, read and checked against each other: estimates, references and the mixture."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sepclip.audio.arrays import FloatWaves
from sepclip.audio.files import BadSound, Sound, read_header, read_sound
from sepclip.errors import counted
from sepclip.scoring.items import Item, ScoreRow, Waves, default_frame
from sepclip.terminal import warn_once

LONGEST_TRIM = 1.0  # seconds that --trim may cut off: a window of BSSEval
NO_MIXTURE = "no mixture found, so the sum of the references is used as the mixture"


@dataclass(frozen=True)
class ItemFiles:
    """The loader of one item: the paths of its files by source, read when called; None for missing ones.

    ``trim_seconds``: the largest difference in length that is cut off; None: a hop of the default transform.
    """

    estimates: Mapping[str, Path] | None
    references: Mapping[str, Path] | None
    mixture: Path | None
    fixed_order: bool = False
    trim_seconds: float | None = None

    def item(self, name: str) -> Item:
        """Return the item that these files make, with a row for each source."""
        rows = [ScoreRow(name, source) for source in (self.references or self.estimates or {})]
        total_samples, channels = self._size()
        return Item(
            rows,
            self,
            total_samples=total_samples,
            channels=channels,
            identity=self._identity(),
            fixed_order=self.fixed_order,
        )

    def __call__(self) -> Waves | str:
        """Read the files, or return why they cannot be scored.

        A mixture that does not fit the references costs only the scores that need it. In a fixed order, an estimate
        that does not fit costs only the scores of its source. Nothing is resampled or mixed down, which would change
        the scores.
        """
        if self.estimates is None:
            return "no estimate"
        if self.references is None:
            return "no reference"
        if len(self.estimates) != len(self.references):
            return f"{counted(len(self.estimates), 'estimate')} for {counted(len(self.references), 'reference')}"
        if set(self.estimates) != set(self.references):
            names = [", ".join(sorted(sources)) for sources in (self.estimates, self.references)]
            return f"different sources: estimates of {names[0]}, references of {names[1]}"
        # the references decide what fits
        refs = {source: read_sound(path) for source, path in self.references.items()}
        first_source, first = next(iter(refs.items()))
        for source, sound in refs.items():
            problem = self._misfit(f"reference of {source}", sound, f"reference of {first_source}", first)
            if problem or not sound.samples.shape[1]:
                return problem or "0 samples"
        estimates: dict[str, Sound | str] = {}
        for source in refs:
            estimates[source] = self._fitting(self.estimates[source], f"estimate of {source}", first)
        problems = [problem for problem in estimates.values() if isinstance(problem, str)]
        if problems and (len(problems) == len(estimates) or not self.fixed_order):
            return problems[0]
        mixture = None if self.mixture is None else self._fitting(self.mixture, "mixture", first)
        return self._waves(refs, estimates, mixture)

    def _waves(
        self, refs: Mapping[str, Sound], estimates: Mapping[str, Sound | str], mixture: Sound | str | None
    ) -> Waves:
        """Return the sounds cut to the shortest; a text instead of a sound says why it is missing."""
        sounds = [sound for sound in (*refs.values(), *estimates.values(), mixture) if isinstance(sound, Sound)]
        lengths = {sound.samples.shape[1] for sound in sounds}
        length = min(lengths)

        def cut(sound: Sound) -> FloatWaves:
            return sound.samples[:, :length].T  # (T, C)

        ref = np.stack([cut(sound) for sound in refs.values()])  # (S, T, C)
        est = np.stack([np.zeros_like(ref[0]) if isinstance(one, str) else cut(one) for one in estimates.values()])
        notes = [f"cut to the shorter length ({max(lengths) - length} samples)"] if len(lengths) > 1 else []
        if mixture is None:
            notes.append(NO_MIXTURE)
        return Waves(
            next(iter(refs.values())).rate_hz,
            est=est,
            ref=ref,
            mixture=cut(mixture) if isinstance(mixture, Sound) else ref.sum(0, dtype=np.float64),
            notes=tuple(notes),
            missing=tuple(one if isinstance(one, str) else None for one in estimates.values()),
            mixture_missing=mixture if isinstance(mixture, str) else None,
        )

    def _fitting(self, path: Path, name: str, reference: Sound) -> Sound | str:
        """Return the sound of a file that fits the references, or why it cannot be used."""
        try:
            sound = read_sound(path)
        except BadSound as error:
            return f"{error.reason} ({error.path})"
        if not sound.samples.shape[1]:
            return f"0 samples ({path})"
        return self._misfit(name, sound, "references", reference) or sound

    def _misfit(self, name: str, sound: Sound, other_name: str, other: Sound) -> str | None:
        """Return how a sound differs from another one in rate, channels or length; None if they fit."""
        if sound.rate_hz != other.rate_hz:
            return f"different rates ({name}: {sound.rate_hz} Hz, {other_name}: {other.rate_hz} Hz)"
        channels = sound.samples.shape[0], other.samples.shape[0]
        if channels[0] != channels[1]:
            return f"different numbers of channels ({name}: {channels[0]}, {other_name}: {channels[1]})"
        length, other_length = sound.samples.shape[1], other.samples.shape[1]
        difference = abs(length - other_length)
        # a difference of up to a hop is only padding
        hop = default_frame(other.rate_hz)[1]
        allowed = hop if self.trim_seconds is None else max(hop, self.trim_seconds * other.rate_hz)
        if difference <= allowed:
            return None
        words = f"the {name} is {'longer' if length > other_length else 'shorter'} than the {other_name}"
        figures = f"{length} and {other_length} samples"
        seconds = math.ceil(1000 * difference / other.rate_hz) / 1000
        remedy = f"; --trim {seconds:g} cuts both to the shorter" if seconds <= LONGEST_TRIM else ""
        return f"different lengths ({words}: {figures}{remedy})"

    def _paths(self) -> list[Path]:
        mixtures = [] if self.mixture is None else [self.mixture]
        return [*(self.references or {}).values(), *(self.estimates or {}).values(), *mixtures]

    def _identity(self) -> str:
        """Return a text that changes with the files."""
        stats = [(path, path.stat()) for path in self._paths() if path.is_file()]
        return " ".join(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)

    def _size(self) -> tuple[int, int]:
        """Return samples times sources times channels of the references, and channels; 0 and 1 if one is unreadable.

        Warn about all files whose header promises another length than they have.
        """
        references = list((self.references or {}).values())
        try:
            headers = {path: read_header(path) for path in self._paths()}
        except BadSound:
            return 0, 1  # reading the files will say what is wrong
        for path, header in headers.items():
            if header.header_fault:
                warn_once(f"{path}: {header.header_fault}")
        sizes = [(headers[path].samples, headers[path].channels) for path in references]
        return sum(samples * channels for samples, channels in sizes), max((c for _, c in sizes), default=1)
