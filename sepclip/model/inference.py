"""Separating recordings with a trained model, block by block.

:class:`BlockSeparator` runs the network once per block (:meth:`~BlockSeparator.encode`) and computes waves from the
result (:meth:`~BlockSeparator.finish`). :mod:`sepclip.separation.stream` cuts recordings of any length into blocks.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sepclip.audio.channels import ChannelMeter
from sepclip.audio.layout import Layout
from sepclip.audio.misi import refine_phases
from sepclip.audio.scaling import factors
from sepclip.audio.si_sdr import align_to_first
from sepclip.audio.stft import STFT, magnitude
from sepclip.errors import UserError
from sepclip.model.clustering import KMeansSettings, assign, fit_centroids
from sepclip.model.cudnn_settings import set_cudnn
from sepclip.model.losses import LOSSES
from sepclip.model.network_base import MaskNetwork
from sepclip.model.separator import SeparationModel

Channels = Literal["mid", "each"]
MaskSource = Literal["binary", "soft", "network"]  # k-means with binary or soft masks, or the network itself
_FRAMES = 128  # frames decoded at a time; their embeddings of 129 bins and 20 dimensions are 1.3 MB


@dataclass(frozen=True)
class InferenceOptions:
    """How a trained model separates.

    ``misi``: iterations of phase refinement. ``channels``: masks come from the ``mid``, which is the mean of the
    channels, or from ``each`` channel. ``masks``: from k-means, ``binary`` or ``soft``, or from the ``network``; None
    selects the masks that the model is configured for. ``precision``: that of the network, such as ``fp32`` or
    ``bf16``.
    """

    misi: int = 0
    channels: Channels = "mid"
    masks: MaskSource | None = None
    precision: str = "fp32"

    @property
    def bf16(self) -> bool:
        """Whether the network computes in bfloat16."""
        return self.precision == "bf16"


@dataclass(frozen=True)
class BlockConditions:
    """What all blocks of a sound have in common, so that they are separated alike.

    ``gains`` (1 + C,): the gain of the mean of the channels (or of all channels together, if the network takes them
    together), then of each channel. ``channel``: masks come from this channel instead of the mean, because the channels
    cancel. ``centroids`` (S, E): those that embeddings are assigned to; None without clustering.
    """

    gains: Tensor
    channel: int | None
    centroids: Tensor | None = None


class BlockSeparator:
    """Separates blocks of recordings with a trained ``model``, according to the ``options``.

    Raises UserError if the options ask for something that the model does not support.
    """

    def __init__(self, model: SeparationModel, options: InferenceOptions = InferenceOptions()):
        if options.misi and model.takes_waves:
            raise UserError("--misi: the network returns waves, not magnitudes whose phases could be refined")
        self.model, self.options = model, options
        # the loss decides where masks come from, unless the options choose a source
        self.kmeans: KMeansSettings = model.kmeans
        self.clusters = model.clusters  # whether masks come from embeddings by k-means
        if options.masks is not None:
            _require_masks(model, options.masks)
            self.clusters = options.masks != "network"
        if options.masks in ("binary", "soft"):
            self.kmeans = replace(model.kmeans, masks=options.masks)
        # the properties of the model that blocks and streams need
        self.takes_waves, self.seed = model.takes_waves, model.seed
        self.layout: Layout = model.layout
        self.rate_hz, self.sources = model.rate_hz, model.sources
        self.stft: STFT = model.stft

    @property
    def masks_from(self) -> MaskSource:
        """The source of the masks, as in the options; it is ``network`` for a network that returns waves."""
        return self.kmeans.masks if self.clusters else "network"

    def kmeans_settings(self) -> dict[str, object] | None:
        """Return the settings of k-means, to be stored with scores; None without clustering."""
        return asdict(self.kmeans) if self.clusters else None

    @property
    def scale_free(self) -> bool:
        """Whether the loss does not determine the scale of the waves, so that they are scaled to sum to the mixture."""
        return LOSSES[self.model.loss].scale_free

    def conditions(self, powers: Tensor, channel: int | None = None) -> BlockConditions:
        """Return the conditions for a sound from its mean squares ``powers`` (1 + C,): of the mid, and of each channel.

        If the channels cancel, a ``channel`` takes the place of the mid (:class:`sepclip.audio.channels.ChannelMeter`).
        """
        each, joint = powers[1:], self._takes_all(len(powers) - 1)
        channel = None if joint else channel
        if joint:
            main = each.mean()
        elif channel is not None:
            main = each[channel]
        else:
            main = powers[0]
        # level_gain expects waves; a wave of one sample with this RMS has the same gain
        gains = self.model.level_gain(torch.cat([main.reshape(1), each]).sqrt().unsqueeze(-1)).squeeze(-1)
        return BlockConditions(gains, channel)

    def _takes_all(self, channels: int) -> bool:
        """Return whether the network takes all channels of a sound together."""
        return channels == self.layout.channels > 1 and self.options.channels == "mid"

    def network_input(self, block: Tensor, conditions: BlockConditions) -> Tensor:
        """Return the input of the network for a ``block`` (C, T) of a sound: I waves at the input level (I, T).

        That is one wave of all channels if the network was trained with as many channels. Otherwise it is the mid, and
        after it each channel if there are several and they are separated one by one.
        """
        # with all channels together, one gain for all, so that their levels keep their proportion
        if self._takes_all(len(block)):
            return (block * conditions.gains[0].to(block)).reshape(1, -1)  # (1, C T)
        mid = self._mid(block, conditions)  # (1, T)
        adds_channels = (self.takes_waves or self.options.channels == "each") and len(block) > 1
        waves = torch.cat([mid, block]) if adds_channels else mid  # (I, T)
        levelled = waves * conditions.gains[: len(waves)].unsqueeze(-1).to(waves)
        # repeat the wave for a network trained on several channels (no effect for one)
        return levelled.repeat(1, self.layout.channels)

    @staticmethod
    def _mid(channels: Tensor, conditions: BlockConditions) -> Tensor:
        """Return the mean of waves or spectra (C, ...), or one of them if they cancel: (1, ...)."""
        channel = conditions.channel
        return channels.mean(0, keepdim=True) if channel is None else channels[channel : channel + 1]

    @torch.no_grad()
    def encode(self, blocks: Sequence[Tensor], conditions: Sequence[BlockConditions]) -> list[Tensor]:
        """Run the part of the network that gains from large batches on ``blocks`` (C, T), which may be of many sounds.

        The blocks may differ in length if the network returns masks. Returns for each block the hidden state
        (I, N, 2H), or the waves (I, S, T) if the network returns waves.
        """
        # these switches are those of the process: a training, or another separator, may have left them otherwise
        if blocks[0].device.type != "cpu":
            set_cudnn(self.options.precision, equal_shapes=False)
        # pad the inputs of all blocks to the longest, and join them into one batch
        inputs = [self.network_input(block, of_block) for block, of_block in zip(blocks, conditions, strict=True)]
        longest = max(waves.shape[-1] for waves in inputs)
        items = torch.cat([self._pad(waves, longest) for waves in inputs])  # (B I, T)
        frames = [self.stft.frames(waves.shape[-1] // self.layout.channels) for waves in inputs]
        # run the network once for all blocks; the lengths keep the padding out of the hidden states
        with torch.autocast(items.device.type, torch.bfloat16, enabled=self.options.bf16):
            if isinstance(self.model.network, MaskNetwork):
                lengths = [count for count, waves in zip(frames, inputs, strict=True) for _ in waves]
                spectra = magnitude(self.model.spectrum(items))
                outputs = self.model.network.encode(spectra, lengths if len(set(frames)) > 1 else None)
            else:
                outputs = self.model.network(items)["wave"]
        # split the batch into blocks again, without the padding
        parts = torch.split(outputs, [len(waves) for waves in inputs])
        if self.takes_waves:
            return list(parts)
        return [part[:, :count] for part, count in zip(parts, frames, strict=True)]

    def _pad(self, wave: Tensor, longest: int) -> Tensor:
        """Pad each channel of waves (I, T) with zeros at its end, to ``longest`` samples of all channels together."""
        return F.pad(self.model.unfold(wave), (0, (longest - wave.shape[-1]) // self.layout.channels)).flatten(-2)

    def decode(self, encoded: Tensor) -> Tensor:
        """Return embeddings (I, N, F, E) if they are clustered, else masks (I, S, N, F).

        ``encoded`` is the result of :meth:`encode` (I, N, K), or some of its frames.
        """
        # a wave network has its waves already from `encode`, and nothing to decode
        assert isinstance(self.model.network, MaskNetwork)
        with torch.autocast(encoded.device.type, torch.bfloat16, enabled=self.options.bf16):
            return self.model.network.decode(encoded, "embedding" if self.clusters else "mask")

    @torch.no_grad()
    def finish(self, block: Tensor, conditions: BlockConditions, encoded: Tensor) -> Tensor:
        """Return the waves (S, C, T) of a ``block`` (C, T) from its result of :meth:`encode`."""
        # waves: undo the input gain, then order the sources alike in all channels
        if self.takes_waves:
            waves = encoded / conditions.gains[: len(encoded), None, None].to(encoded)  # (I, S, T)
            return (waves if len(waves) == 1 else align_to_first(waves, waves)).transpose(0, 1)
        # masks: per channel if the network saw all channels jointly, otherwise per input (mid, channels)
        masks = torch.stack([self._block_masks(item, conditions) for item in encoded])  # (I, S, N, F)
        by_channel = self.model.unfold(masks)  # (I, S, N, C, F')
        joint = self._takes_all(len(block))
        masks = by_channel[0].movedim(-2, 0) if joint else by_channel.mean(-2)  # (C, S, N, F') or (I, S, N, F')
        spectrum, samples = self.stft.forward(block), block.shape[-1]  # (C, N, F')
        # drop the masks of the mid if each channel has its own; common centroids put the sources in one order already
        if len(encoded) > 1:
            clustered = conditions.centroids is not None
            masks = masks[1:] if clustered else self._order_like_mid(masks, spectrum, conditions, samples)
        # multiply the block at its own level; the masks of a single item apply to all channels
        masked = (masks * spectrum.unsqueeze(1)).transpose(0, 1)  # (S, C, N, F')
        waves = self.stft.inverse(masked, samples)
        return refine_phases(waves, masked.abs(), block, self.stft, self.options.misi) if self.options.misi else waves

    def _block_masks(self, encoded: Tensor, conditions: BlockConditions) -> Tensor:
        """Return the masks (S, N, F) of one item from its result of :meth:`encode` (N, 2H)."""
        if conditions.centroids is None:
            return self.decode(encoded.unsqueeze(0))[0]
        # on a CPU, a few frames at a time, so that their embeddings stay in the cache
        parts = torch.split(encoded, _FRAMES if encoded.device.type == "cpu" else max(1, len(encoded)))
        vectors = (self.decode(part.unsqueeze(0))[0] for part in parts)
        return torch.cat([assign(part, conditions.centroids, self.kmeans.masks) for part in vectors], 1)

    def _order_like_mid(self, masks: Tensor, spectrum: Tensor, conditions: BlockConditions, samples: int) -> Tensor:
        """Return the masks (C, S, N, F) of the channels with the sources in the order of the mid, the first item."""
        if self.layout.fixed_order:
            return masks[1:]
        # waves are compared rather than masks, since masks say nothing in bins without energy
        mid = self._mid(spectrum, conditions)  # (1, N, F)
        waves = self.stft.inverse(masks * torch.cat([mid, spectrum]).unsqueeze(1), samples)  # (I, S, T)
        return align_to_first(waves, masks)

    def fit(self, vectors: Tensor, magnitudes: Tensor) -> Tensor:
        """Return the centroids (S, E) of embeddings ``vectors`` (P, E) of bins with their ``magnitudes`` (P,)."""
        return fit_centroids(vectors, magnitudes, self.sources, settings=self.kmeans, seed=self.seed)

    @torch.no_grad()
    def separate(self, mixture: Tensor) -> Tensor:
        """Separate one mixture (C, T) of any level, length and channel count in one piece into waves (S, C, T).

        If there are as many channels as in the layout, they are separated together. Otherwise the masks come from the
        mean of the channels and multiply each channel; if the network was trained on several channels, the mean of its
        masks is used. If the channels cancel in their mean, the masks come from one of them. A network without masks
        separates every channel. If the loss does not determine the scale of the waves, they are scaled so that their
        sum is as near to the mixture as possible. Silence gives silence.
        """
        channels, samples = mixture.shape
        if samples == 0:
            return mixture.new_zeros(self.sources, channels, 0)
        # run the network on the whole mixture as a single block
        powers = torch.cat([mixture.mean(0, keepdim=True), mixture]).square().mean(-1)
        meter = ChannelMeter(channels, self.rate_hz)
        meter.add(mixture.detach().float().cpu().numpy())
        conditions = self.conditions(powers - torch.from_numpy(meter.offsets).to(powers).square(), meter.channel)
        (encoded,) = self.encode([mixture], [conditions])
        # cluster the embeddings of the first item: of the mid, or of all channels
        if self.clusters:
            spectrum = self.model.spectrum(self.network_input(mixture, conditions)[0])  # (N, F)
            vectors = self.decode(encoded[:1])  # (1, N, F, E)
            conditions = replace(conditions, centroids=self.fit(vectors.flatten(0, 2), spectrum.abs().flatten()))
        waves = self.finish(mixture, conditions, encoded)  # (S, C, T)
        if self.scale_free:
            waves = waves * factors(*self.products(waves, mixture)).T.unsqueeze(-1).to(waves)  # (S, G, 1)
        return waves

    def products(self, waves: Tensor, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inner products of waves (S, C, T) with one another (G, S, S) and with the mixture (C, T), (G, S).

        The scale factors are computed from them. G is 1 for a mask network, because the image of a source would move if
        its channels had different factors; for a network that returns waves it is C. The products of several stretches
        of a sound can be summed.
        """
        # in float64, because they are sums over up to hours of samples
        groups = waves.transpose(0, 1) if self.takes_waves else waves.flatten(1).unsqueeze(0)  # (G, S, T)
        mixtures = mixture.reshape(len(groups), -1, 1).double()  # (G, T, 1)
        return groups.double() @ groups.double().mT, (groups.double() @ mixtures).squeeze(-1)


def _require_masks(model: SeparationModel, source: MaskSource) -> None:
    """Raise UserError if the network of ``model`` was not trained with the head that masks from ``source`` need."""
    # a loss of waves trains the masks of a mask network too
    heads = LOSSES[model.loss].heads
    head = "mask" if source == "network" else "embedding"
    if head not in heads and not (head == "mask" and "wave" in heads):
        has = "masks, no embeddings" if head == "embedding" else "embeddings, no masks"
        raise UserError(f"--masks {source}: a network trained with --loss {model.loss} has {has}")
    if head == "embedding" and model.layout.fixed_order:
        raise UserError(f"--masks {source}: clusters have no order, and the sources of this run have one")
