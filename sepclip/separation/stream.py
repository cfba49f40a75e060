"""Separating a recording of any length: a stream of samples in, a stream of separated samples out.

A recording is read more than once, because only a batch of its blocks is in memory at a time. The first pass measures
it (:class:`RecordingFacts`). With clustering, the second pass fits centroids. The last pass resamples the recording to
the rate of the network, cuts it into blocks, separates these in batches, joins their waves and resamples the result.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from sepclip.audio.channels import ChannelMeter
from sepclip.audio.resample import resample_stream
from sepclip.audio.scaling import factors
from sepclip.model.inference import BlockConditions, BlockSeparator
from sepclip.separation.blocks import BLOCKS, WAVE_BLOCKS, Blocks, cut_blocks
from sepclip.separation.recording import Recording, WaveRecording
from sepclip.separation.stitching import Stitcher

BATCH_SECONDS = {"cpu": 240.0, "gpu": 640.0}  # sound in a batch of blocks; larger batches are hardly faster
BATCH_BINS = 700  # above this many bins, batches shrink in proportion, to bound memory
WAVE_BATCH_SECONDS = {"cpu": 20.0, "gpu": 160.0}  # for networks that return waves
MOST_TOGETHER = 16  # blocks of short recordings in a batch; more are not faster
FADE_SECONDS = 0.1
FITTED_BLOCKS = 16  # blocks, evenly spread, from which centroids are fitted; their hidden states are kept
FITTED_FRAMES = 4096  # frames drawn at random from these blocks


T = TypeVar("T")


@dataclass(frozen=True)
class RecordingFacts:
    """Measurements of a whole recording: sample counts at the original and at the network's rate, and mean squares.

    ``powers`` (1 + C,), at the network's rate: the mean square of the mean of the channels, then of each channel; large
    constant offsets do not count. ``channel``: the one to take because the channels cancel in their mean, or None.
    """

    samples: int
    network_samples: int
    powers: Tensor
    channel: int | None

    @classmethod
    def of(cls, recording: Recording, rate_hz: int) -> "RecordingFacts":
        """Read ``recording`` once. Raises BadSound if a part of it cannot be used."""
        samples, resampled, energies = 0, 0, torch.zeros(1 + recording.channels, dtype=torch.float64)
        meter = ChannelMeter(recording.channels, rate_hz)

        def count_samples() -> Iterator[Tensor]:
            nonlocal samples
            for chunk in recording.chunks():
                samples += chunk.shape[-1]
                yield chunk

        for chunk in resample_stream(count_samples(), recording.rate_hz, rate_hz):
            resampled += chunk.shape[-1]
            energies += torch.cat([chunk.mean(0, keepdim=True), chunk]).double().square().sum(-1)
            meter.add(chunk.detach().numpy())
        powers = energies / max(resampled, 1) - torch.from_numpy(meter.offsets).square()
        return cls(samples, resampled, powers.float(), meter.channel)


@dataclass
class SeparatedStream:
    """The separation of one recording, as a stream of waves.

    :meth:`chunks` yields the waves. Three attributes are valid only once this generator is exhausted: ``factors``
    (S, C), by which the waves must be multiplied (None if they are right already), ``joins``, the number of joins of
    blocks, and ``undecided_join_times``, the seconds of those at which the order of the sources remained uncertain.
    """

    separator: BlockSeparator
    recording: Recording
    device: torch.device
    facts: RecordingFacts = field(init=False)
    blocks: Blocks = field(init=False)
    conditions: BlockConditions = field(init=False)
    factors: Tensor | None = None
    joins: int = 0
    undecided_join_times: list[float] = field(default_factory=list)
    _encoded: dict[int, Tensor] = field(default_factory=dict)  # results of `encode` for some blocks, by their index

    def __post_init__(self) -> None:
        separator = self.separator
        self.facts = RecordingFacts.of(self.recording, separator.rate_hz)
        seconds = WAVE_BLOCKS if separator.takes_waves else BLOCKS
        self.blocks = Blocks.over(
            self.facts.network_samples, *seconds, rate_hz=separator.rate_hz, hop=separator.stft.hop_length
        )
        self.conditions = separator.conditions(self.facts.powers, self.facts.channel)

    def chunks(self) -> Iterator[Tensor]:
        """Yield waves (S, C, n) at the recording's rate, with as many samples in total as the recording has."""
        separator, facts = self.separator, self.facts
        if facts.samples == 0:
            return
        waves = resample_stream(self._join_blocks(), separator.rate_hz, self.recording.rate_hz)
        # resampling there and back can give a sample more or less: cut or pad the end
        done = 0
        for chunk in waves:
            piece = chunk[..., : facts.samples - done].cpu()
            done += piece.shape[-1]
            yield piece
        if done < facts.samples:
            yield torch.zeros(separator.sources, self.recording.channels, facts.samples - done)

    def _join_blocks(self) -> Iterator[Tensor]:
        """Yield the joined waves (S, C, n) at the network's rate."""
        separator, facts, blocks = self.separator, self.facts, self.blocks
        # with clustering, fit centroids for the whole recording first
        if separator.clusters:
            self.conditions = self._fit_centroids()
        stitcher = Stitcher(
            starts=blocks.starts,
            length=blocks.length,
            samples=facts.network_samples,
            rate_hz=separator.rate_hz,
            hop=separator.stft.hop_length,
            fade=round(FADE_SECONDS * separator.rate_hz),
            power=float(facts.powers.amax()),
            permuted=not separator.clusters and not separator.layout.fixed_order,
            rerun=self._separate_block,
        )
        # join the blocks as they are separated, and sum up the products that the scale factors are computed from
        gram, dots = torch.zeros(()), torch.zeros(())
        for mixture, waves in stitcher.join(self._separate_blocks()):
            if separator.scale_free:
                products = separator.products(waves, mixture)
                gram, dots = gram + products[0].cpu(), dots + products[1].cpu()
            yield waves
        # the last wave has been yielded: the results about the whole recording are known
        if separator.scale_free:
            self.factors = factors(gram, dots).T.float().expand(-1, self.recording.channels)  # (S, C)
        self.joins = len(blocks.starts) - 1
        self.undecided_join_times = [start / separator.rate_hz for start in stitcher.undecided]

    def iter_blocks(self) -> Iterator[Tensor]:
        """Yield the blocks (C, L) at the network's rate."""
        chunks = (chunk.to(self.device) for chunk in self.recording.chunks())
        return cut_blocks(resample_stream(chunks, self.recording.rate_hz, self.separator.rate_hz), self.blocks)

    @property
    def seconds(self) -> float:
        """The duration of the recording."""
        return self.facts.samples / self.recording.rate_hz

    @property
    def is_short(self) -> bool:
        """Whether the blocks do not fill a batch."""
        return len(self.blocks.starts) < self.batch_size

    @property
    def items_per_block(self) -> int:
        """The number of waves that the network sees of a block: one, or the mid and each channel."""
        adds_channels = self.separator.takes_waves or self.separator.options.channels == "each"
        return self.recording.channels + 1 if adds_channels and self.recording.channels > 1 else 1

    @property
    def batch_size(self) -> int:
        """The number of blocks in a batch of the network."""
        seconds = self.blocks.length / self.separator.rate_hz
        return max(1, int(batch_seconds(self.separator, self.device) / seconds) // self.items_per_block)

    def keep_encoded(self, index: int, encoded: Tensor) -> None:
        """Keep the hidden state of a block, so that :meth:`chunks` does not run the network on it again."""
        self._encoded[index] = encoded

    def discard_encoded(self) -> None:
        """Free the hidden states of blocks that will not be separated any more."""
        self._encoded.clear()

    def _encode(self, batch: list[tuple[int, Tensor]]) -> None:
        """Run the network on the blocks of a batch whose hidden states are not known yet."""
        new = {index: block for index, block in batch if index not in self._encoded}
        if new:
            encoded = self.separator.encode(list(new.values()), [self.conditions] * len(new))
            self._encoded.update(zip(new, encoded, strict=True))

    def _separate_block(self, block: Tensor) -> Tensor:
        """Separate a block (C, L) outside of the batches into waves (S, C, L)."""
        return self.separator.finish(block, self.conditions, self.separator.encode([block], [self.conditions])[0])

    def _separate_blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each block (C, L) with its waves (S, C, L)."""
        for batch in batches(enumerate(self.iter_blocks()), self.batch_size, len(self.blocks.starts)):
            self._encode(batch)
            while batch:  # blocks are removed, so that none is in memory while the next batch is cut
                index, block = batch.pop(0)
                yield block, self.separator.finish(block, self.conditions, self._encoded.pop(index))

    def _fit_centroids(self) -> BlockConditions:
        """Return the conditions with centroids for the whole recording, from some frames of some of its blocks.

        The hidden states that this needs are kept for :meth:`chunks`.
        """
        # blocks evenly spread over the recording, and as many frames of each
        separator, conditions, total = self.separator, self.conditions, len(self.blocks.starts)
        count = min(total, FITTED_BLOCKS)
        selected = {round(index * (total - 1) / max(count - 1, 1)) for index in range(count)}
        generator = torch.Generator().manual_seed(separator.seed)
        most = -(-FITTED_FRAMES // len(selected))
        # collect the embeddings and magnitudes of the bins of these frames
        vectors, magnitudes = [], []
        numbered = ((index, block) for index, block in enumerate(self.iter_blocks()) if index in selected)
        for batch in batches(numbered, self.batch_size, len(selected)):
            self._encode(batch)
            for index, block in batch:
                magnitude = separator.model.spectrum(separator.network_input(block, conditions)[0]).abs()  # (N, F)
                frames = torch.randperm(len(magnitude), generator=generator)[:most].sort().values.to(block.device)
                with torch.no_grad():
                    vectors.append(separator.decode(self._encoded[index][:1, frames]).flatten(0, 2))  # (P, E)
                magnitudes.append(magnitude[frames].flatten())
        return replace(conditions, centroids=separator.fit(torch.cat(vectors), torch.cat(magnitudes)))


def batch_seconds(separator: BlockSeparator, device: torch.device) -> float:
    """Return how many seconds of sound a batch of the network has."""
    kind = "cpu" if device.type == "cpu" else "gpu"
    if separator.takes_waves:
        return WAVE_BATCH_SECONDS[kind]
    return BATCH_SECONDS[kind] * min(1.0, BATCH_BINS / (separator.stft.bins * separator.layout.channels))


def encode_together(streams: Sequence[SeparatedStream]) -> None:
    """Run the network on the blocks of several short recordings in common batches, before their :meth:`chunks`.

    The result of a recording does not depend on the others, except for rounding in bfloat16 or on a GPU.
    """
    if len(streams) < 2 or streams[0].separator.takes_waves:
        return
    separator, device = streams[0].separator, streams[0].device
    # blocks of similar length are in one batch, so that there is little padding
    blocks = [(stream, index, block) for stream in streams for index, block in enumerate(stream.iter_blocks())]
    blocks.sort(key=lambda item: -item[2].shape[-1])
    items = max(stream.items_per_block for stream in streams)
    while blocks:
        # the first block is the longest of its batch, so it limits the batch
        seconds = max(blocks[0][2].shape[-1] / separator.rate_hz, 1e-3) * items
        most = max(1, min(MOST_TOGETHER, int(batch_seconds(separator, device) / seconds)))
        batch, blocks = blocks[:most], blocks[most:]
        encoded = separator.encode([block for _, _, block in batch], [stream.conditions for stream, _, _ in batch])
        for (stream, index, _), hidden in zip(batch, encoded, strict=True):
            stream.keep_encoded(index, hidden)


def batches(items: Iterable[T], most: int, total: int) -> Iterator[list[T]]:
    """Yield ``total`` items in as few lists of at most ``most`` as possible, all of nearly the same size."""
    stream, count = iter(items), -(-total // most)
    for index in range(count):
        yield list(islice(stream, (index + 1) * total // count - index * total // count))


def scale(waves: Tensor, by: Tensor | None) -> Tensor:
    """Return waves (S, C, n) multiplied by the factors ``by`` (S, C); unchanged if these are None."""
    return waves if by is None else waves * by.unsqueeze(-1)


def separate_wave(separator: BlockSeparator, wave: Tensor, rate_hz: int, device: torch.device) -> Tensor:
    """Separate a wave (C, T) at any rate into waves (S, C, T) at the same rate."""
    stream = SeparatedStream(separator, WaveRecording(wave, rate_hz), device)
    waves = torch.cat([wave.new_zeros(separator.sources, len(wave), 0), *stream.chunks()], -1)
    return scale(waves, stream.factors)
