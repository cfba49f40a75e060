"""Separating a recording of any length: a stream of samples in, a stream of separated samples out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from sepclip.model.separator import Separator, View, factors
from sepclip.separation.blocks import BLOCK_SECONDS, OVERLAP_SECONDS, block_starts, cut_blocks, resample_stream
from sepclip.separation.recording import Recording, WaveRecording
from sepclip.separation.stitching import Stitcher

BATCH = {"cpu": 8, "cuda": 32}  # blocks at once; more are no faster
WAVE_BATCH = {"cpu": 2, "cuda": 16}  # of a network of waves, whose learned transform takes far more memory
FADES = 4  # a quarter of the overlap is faded; beyond lies context
FITTED_BLOCKS = 32  # evenly spread, from which the centroids come; what the network gave for them is kept
FITTED_FRAMES = 4096  # of them, drawn at random


T = TypeVar("T")


@dataclass(frozen=True)
class Survey:
    """A recording read once: its samples, those at the network's rate, and the mean squares there.

    ``powers`` (1 + C,): of the mean of the channels, and of each channel.
    """

    samples: int
    samples_of_network: int
    powers: Tensor

    @classmethod
    def of(cls, recording: Recording, rate_hz: int) -> "Survey":
        """Read ``recording``; BadSound where some of it cannot be used."""
        samples, resampled, energies = 0, 0, torch.zeros(1 + recording.channels, dtype=torch.float64)

        def counted() -> Iterator[Tensor]:
            nonlocal samples
            for chunk in recording.chunks():
                samples += chunk.shape[-1]
                yield chunk

        for chunk in resample_stream(counted(), recording.rate_hz, rate_hz):
            resampled += chunk.shape[-1]
            energies += torch.cat([chunk.mean(0, keepdim=True), chunk]).double().square().sum(-1)
        return cls(samples, resampled, (energies / max(resampled, 1)).float())


@dataclass
class SeparatedStream:
    """A recording on its way through a separator.

    :meth:`chunks` gives the waves; what they are to be multiplied by (``factors``, (S, C), None for nothing) and the
    joins of blocks at which it could not be told who is who (``undecided_seconds``) are known when they are at an end.
    """

    separator: Separator
    recording: Recording
    device: torch.device
    survey: Survey = field(init=False)
    factors: Tensor | None = None
    joins: int = 0
    undecided_seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.survey = Survey.of(self.recording, self.separator.rate_hz)

    def chunks(self) -> Iterator[Tensor]:
        """Yield waves (S, C, n) at the recording's rate, as many samples as it has."""
        separator, survey = self.separator, self.survey
        if survey.samples == 0:
            return
        waves = resample_stream(self._joined(), separator.rate_hz, self.recording.rate_hz)
        done = 0
        for chunk in waves:
            # a rate that does not divide can give a sample more or less
            piece = chunk[..., : survey.samples - done].cpu()
            done += piece.shape[-1]
            yield piece
        if done < survey.samples:
            yield torch.zeros(separator.sources, self.recording.channels, survey.samples - done)

    def _joined(self) -> Iterator[Tensor]:
        """Yield the waves (S, C, n) at the network's rate."""
        separator, survey = self.separator, self.survey
        hop = separator.stft.hop_length
        hops_a_second = separator.rate_hz / hop
        length, overlap = (round(seconds * hops_a_second) * hop for seconds in (BLOCK_SECONDS, OVERLAP_SECONDS))
        starts = block_starts(survey.samples_of_network, length, overlap, hop)
        view = separator.view(survey.powers)
        known: dict[int, Tensor] = {}
        if separator.clusters:
            view, known = self._fit(starts, length, view)

        def again(block: Tensor) -> Tensor:
            return separator.finish(block, view, separator.encode([block], [view])[0])

        stitcher = Stitcher(
            starts=starts,
            length=length,
            samples=survey.samples_of_network,
            rate_hz=separator.rate_hz,
            hop=hop,
            fade=overlap // FADES,
            power=float(survey.powers.amax()),
            permuted=not separator.clusters and not separator.layout.fixed_order,
            again=again,
        )
        gram, dots = torch.zeros(()), torch.zeros(())
        for mixture, waves in stitcher.join(self._separated(starts, length, view, known)):
            if separator.scale_free:
                more = separator.products(waves, mixture)
                gram, dots = gram + more[0].cpu(), dots + more[1].cpu()
            yield waves
        if separator.scale_free:
            self.factors = factors(gram, dots).T.float().expand(-1, self.recording.channels)  # (S, C)
        self.joins = len(starts) - 1
        self.undecided_seconds = [start / separator.rate_hz for start in stitcher.undecided]

    def _blocks(self, starts: list[int], length: int) -> Iterator[Tensor]:
        chunks = (chunk.to(self.device) for chunk in self.recording.chunks())
        resampled = resample_stream(chunks, self.recording.rate_hz, self.separator.rate_hz)
        return cut_blocks(resampled, starts, length)

    def _batch(self) -> int:
        separator = self.separator
        apart = separator.takes_waves or separator.channels == "each"
        items = self.recording.channels + 1 if apart and self.recording.channels > 1 else 1
        return max(1, (WAVE_BATCH if separator.takes_waves else BATCH)[self.device.type] // items)

    def _separated(
        self, starts: list[int], length: int, view: View, known: dict[int, Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each block (C, L) with its waves (S, C, L); what the network gave for some may be known already."""
        numbered = enumerate(self._blocks(starts, length))
        for batch in batches(numbered, self._batch(), len(starts)):
            new = [block for index, block in batch if index not in known]
            encoded = iter(self.separator.encode(new, [view] * len(new)) if new else [])
            for index, block in batch:
                given = known.pop(index) if index in known else next(encoded)
                yield block, self.separator.finish(block, view, given)

    def _fit(self, starts: list[int], length: int, view: View) -> tuple[View, dict[int, Tensor]]:
        """Find one set of centroids for the whole recording; returns also what the network gave on the way."""
        separator = self.separator
        count = min(len(starts), FITTED_BLOCKS)
        chosen = {round(index * (len(starts) - 1) / max(count - 1, 1)) for index in range(count)}
        chance = torch.Generator().manual_seed(separator.seed)
        most = -(-FITTED_FRAMES // len(chosen))
        known, vectors, loudness = {}, [], []
        numbered = ((index, block) for index, block in enumerate(self._blocks(starts, length)) if index in chosen)
        for batch in batches(numbered, self._batch(), len(chosen)):
            encoded = separator.encode([block for _, block in batch], [view] * len(batch))
            for (index, block), given in zip(batch, encoded, strict=True):
                known[index] = given
                magnitude = separator.spectrum(separator.looked_at(block, view)[0]).abs()  # (N, F)
                frames = torch.randperm(len(magnitude), generator=chance)[:most].sort().values.to(block.device)
                with torch.no_grad():
                    vectors.append(separator.decode(given[:1, frames])["embedding"].flatten(0, 2))  # (P, E)
                loudness.append(magnitude[frames].flatten())
        centroids = separator.fit(torch.cat(vectors), torch.cat(loudness))
        return replace(view, centroids=centroids), known


def batches(items: Iterable[T], most: int, total: int) -> Iterator[list[T]]:
    """Yield ``total`` items in as few lists of at most ``most`` as there must be, all of nearly the same size."""
    stream, count = iter(items), -(-total // most)
    for index in range(count):
        yield list(islice(stream, (index + 1) * total // count - index * total // count))


def scaled(waves: Tensor, by: Tensor | None) -> Tensor:
    """Return waves (S, C, n) multiplied by factors (S, C), or as they are."""
    return waves if by is None else waves * by.unsqueeze(-1)


def separate_wave(separator: Separator, wave: Tensor, rate_hz: int, device: torch.device) -> Tensor:
    """Separate a wave (C, T) at any rate into waves (S, C, T) at the same rate."""
    stream = SeparatedStream(separator, WaveRecording(wave, rate_hz), device)
    waves = torch.cat([wave.new_zeros(separator.sources, len(wave), 0), *stream.chunks()], -1)
    return scaled(waves, stream.factors)
