"""Separating a recording of any length: a stream of samples in, a stream of separated samples out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from sepclip.audio.scaling import factors
from sepclip.model.inference import BlockSeparator, View
from sepclip.separation.blocks import BLOCKS, WAVE_BLOCKS, Blocks, cut_blocks, resample_stream
from sepclip.separation.recording import Recording, WaveRecording
from sepclip.separation.stitching import Stitcher

BATCH_SECONDS = {"cpu": 240.0, "cuda": 640.0}  # of blocks at once; more are hardly faster
BATCH_BINS = 700  # up to which so many are; beyond, spectra are what fills the memory
WAVE_BATCH_SECONDS = {"cpu": 20.0, "cuda": 160.0}  # of a network of waves
MOST_TOGETHER = 16  # blocks of short recordings; more are no faster
FADE_SECONDS = 0.1
FITTED_BLOCKS = 16  # evenly spread, from which the centroids come; what the network gave for them is kept
FITTED_FRAMES = 4096  # of them, drawn at random


T = TypeVar("T")


@dataclass(frozen=True)
class RecordingFacts:
    """A recording read once: its samples, those at the network's rate, and the mean squares there.

    ``powers`` (1 + C,): of the mean of the channels, and of each channel.
    """

    samples: int
    samples_of_network: int
    powers: Tensor

    @classmethod
    def of(cls, recording: Recording, rate_hz: int) -> "RecordingFacts":
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

    separator: BlockSeparator
    recording: Recording
    device: torch.device
    survey: RecordingFacts = field(init=False)
    blocks: Blocks = field(init=False)
    view: View = field(init=False)
    factors: Tensor | None = None
    joins: int = 0
    undecided_seconds: list[float] = field(default_factory=list)
    _encoded: dict[int, Tensor] = field(default_factory=dict)  # what the network gave for some blocks already

    def __post_init__(self) -> None:
        separator = self.separator
        self.survey = RecordingFacts.of(self.recording, separator.rate_hz)
        seconds = WAVE_BLOCKS if separator.takes_waves else BLOCKS
        self.blocks = Blocks.over(
            self.survey.samples_of_network, *seconds, rate_hz=separator.rate_hz, hop=separator.stft.hop_length
        )
        self.view = separator.view(self.survey.powers)

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
        separator, survey, blocks = self.separator, self.survey, self.blocks
        if separator.clusters:
            self.view = self._fit()
        stitcher = Stitcher(
            starts=blocks.starts,
            length=blocks.length,
            samples=survey.samples_of_network,
            rate_hz=separator.rate_hz,
            hop=separator.stft.hop_length,
            fade=round(FADE_SECONDS * separator.rate_hz),
            power=float(survey.powers.amax()),
            permuted=not separator.clusters and not separator.layout.fixed_order,
            again=lambda block: separator.finish(block, self.view, separator.encode([block], [self.view])[0]),
        )
        gram, dots = torch.zeros(()), torch.zeros(())
        for mixture, waves in stitcher.join(self._separated()):
            if separator.scale_free:
                more = separator.products(waves, mixture)
                gram, dots = gram + more[0].cpu(), dots + more[1].cpu()
            yield waves
        if separator.scale_free:
            self.factors = factors(gram, dots).T.float().expand(-1, self.recording.channels)  # (S, C)
        self.joins = len(blocks.starts) - 1
        self.undecided_seconds = [start / separator.rate_hz for start in stitcher.undecided]

    def cut(self) -> Iterator[Tensor]:
        """Yield the blocks (C, L) at the network's rate."""
        chunks = (chunk.to(self.device) for chunk in self.recording.chunks())
        return cut_blocks(resample_stream(chunks, self.recording.rate_hz, self.separator.rate_hz), self.blocks)

    @property
    def seconds(self) -> float:
        """How long it plays."""
        return self.survey.samples / self.recording.rate_hz

    @property
    def short(self) -> bool:
        """Whether its blocks do not fill a batch."""
        return len(self.blocks.starts) < self.at_once

    @property
    def items(self) -> int:
        """How many waves the network sees of a block."""
        apart = self.separator.takes_waves or self.separator.options.channels == "each"
        return self.recording.channels + 1 if apart and self.recording.channels > 1 else 1

    @property
    def at_once(self) -> int:
        """How many blocks go through the network together."""
        seconds = self.blocks.length / self.separator.rate_hz
        return max(1, int(batch_seconds(self.separator, self.device) / seconds) // self.items)

    def keep_encoded(self, index: int, encoded: Tensor) -> None:
        """Keep what the network gave for a block, so that :meth:`chunks` need not run it again."""
        self._encoded[index] = encoded

    def forget(self) -> None:
        """Free what the network gave for blocks that will not be separated any more."""
        self._encoded.clear()

    def _encode(self, batch: list[tuple[int, Tensor]]) -> None:
        """Let the network see those blocks of a batch that it has not seen yet."""
        new = {index: block for index, block in batch if index not in self._encoded}
        if new:
            self._encoded.update(
                zip(new, self.separator.encode(list(new.values()), [self.view] * len(new)), strict=True)
            )

    def _separated(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each block (C, L) with its waves (S, C, L); what the network gave for some may be known already."""
        for batch in batches(enumerate(self.cut()), self.at_once, len(self.blocks.starts)):
            self._encode(batch)
            while batch:  # so that none is held while the next batch is made
                index, block = batch.pop(0)
                yield block, self.separator.finish(block, self.view, self._encoded.pop(index))

    def _fit(self) -> View:
        """Find one set of centroids for the whole recording; what the network gives on the way is kept."""
        separator, view, total = self.separator, self.view, len(self.blocks.starts)
        count = min(total, FITTED_BLOCKS)
        chosen = {round(index * (total - 1) / max(count - 1, 1)) for index in range(count)}
        chance = torch.Generator().manual_seed(separator.seed)
        most = -(-FITTED_FRAMES // len(chosen))
        vectors, loudness = [], []
        numbered = ((index, block) for index, block in enumerate(self.cut()) if index in chosen)
        for batch in batches(numbered, self.at_once, len(chosen)):
            self._encode(batch)
            for index, block in batch:
                magnitude = separator.model.spectrum(separator.network_input(block, view)[0]).abs()  # (N, F)
                frames = torch.randperm(len(magnitude), generator=chance)[:most].sort().values.to(block.device)
                with torch.no_grad():
                    vectors.append(separator.decode(self._encoded[index][:1, frames]).flatten(0, 2))  # (P, E)
                loudness.append(magnitude[frames].flatten())
        return replace(view, centroids=separator.fit(torch.cat(vectors), torch.cat(loudness)))


def batch_seconds(separator: BlockSeparator, device: torch.device) -> float:
    """Return how much sound goes through the network at once."""
    if separator.takes_waves:
        return WAVE_BATCH_SECONDS[device.type]
    return BATCH_SECONDS[device.type] * min(1.0, BATCH_BINS / (separator.stft.bins * separator.layout.channels))


def see_together(streams: Sequence[SeparatedStream]) -> None:
    """Let the network see the blocks of short recordings in common batches; :meth:`chunks` then goes on from there.

    Blocks of like lengths go together. What comes of a recording does not depend on those beside it, but for rounding
    in bfloat16 or on a GPU.
    """
    if len(streams) < 2 or streams[0].separator.takes_waves:
        return
    separator, device = streams[0].separator, streams[0].device
    blocks = [(stream, index, block) for stream in streams for index, block in enumerate(stream.cut())]
    blocks.sort(key=lambda each: -each[2].shape[-1])
    while blocks:
        seconds = max(blocks[0][2].shape[-1] / separator.rate_hz, 1e-3) * max(stream.items for stream in streams)
        most = max(1, min(MOST_TOGETHER, int(batch_seconds(separator, device) / seconds)))
        batch, blocks = blocks[:most], blocks[most:]
        encoded = separator.encode([block for _, _, block in batch], [stream.view for stream, _, _ in batch])
        for (stream, index, _), given in zip(batch, encoded, strict=True):
            stream.keep_encoded(index, given)


def batches(items: Iterable[T], most: int, total: int) -> Iterator[list[T]]:
    """Yield ``total`` items in as few lists of at most ``most`` as there must be, all of nearly the same size."""
    stream, count = iter(items), -(-total // most)
    for index in range(count):
        yield list(islice(stream, (index + 1) * total // count - index * total // count))


def scaled(waves: Tensor, by: Tensor | None) -> Tensor:
    """Return waves (S, C, n) multiplied by factors (S, C), or as they are."""
    return waves if by is None else waves * by.unsqueeze(-1)


def separate_wave(separator: BlockSeparator, wave: Tensor, rate_hz: int, device: torch.device) -> Tensor:
    """Separate a wave (C, T) at any rate into waves (S, C, T) at the same rate."""
    stream = SeparatedStream(separator, WaveRecording(wave, rate_hz), device)
    waves = torch.cat([wave.new_zeros(separator.sources, len(wave), 0), *stream.chunks()], -1)
    return scaled(waves, stream.factors)
