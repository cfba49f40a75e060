"""Separating recordings with a trained model, block by block.

:class:`BlockSeparator` runs the network once over a block (:meth:`~BlockSeparator.encode`) and makes waves of what it
gave (:meth:`~BlockSeparator.finish`); :mod:`sepclip.separation.stream` cuts recordings of any length into blocks.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sepclip.audio.layout import Layout
from sepclip.audio.misi import refine_phases
from sepclip.audio.scaling import factors
from sepclip.audio.si_sdr import align_to_first
from sepclip.audio.stft import STFT, magnitude
from sepclip.errors import UserError
from sepclip.model.clustering import KMeansSettings, assign, fit_centroids
from sepclip.model.losses import LOSSES
from sepclip.model.network_base import MaskNetwork
from sepclip.model.separator import SeparationModel

Channels = Literal["mid", "each"]
MaskSource = Literal["binary", "soft", "network"]  # k-means with masks of either kind, or the network itself
_FRAMES = 128  # whose embeddings of 129 bins and 20 dimensions are 1.3 MB


@dataclass(frozen=True)
class InferenceOptions:
    """How a trained model separates.

    ``misi``: iterations of phase refinement. ``channels``: masks come from the ``mid``, the mean of the channels, or
    from ``each`` channel. ``masks``: from k-means, ``binary`` or ``soft``, or from the ``network``; None as the model
    is configured. ``precision``: that of the network, such as ``fp32`` or ``bf16``.
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
class View:
    """How a network looks at a sound: the same for all blocks of it, so that all are separated alike.

    ``gains`` (1 + C,): of the mean of the channels (of all together, where the network takes them so) and of each of
    them. ``by_first``: the masks come from the first channel, for the channels cancel. ``centroids`` (S, E): what
    embeddings are assigned to; None where none are.
    """

    gains: Tensor
    by_first: bool
    centroids: Tensor | None = None


class BlockSeparator:
    """Separates blocks of recordings by a trained ``model``, as its ``options`` say.

    Raises UserError if the model cannot give what the options ask for.
    """

    def __init__(self, model: SeparationModel, options: InferenceOptions = InferenceOptions()):
        if options.misi and model.takes_waves:
            raise UserError("--misi: the network gives waves and no magnitudes whose phases could be refined")
        self.model, self.options = model, options
        self.kmeans: KMeansSettings = model.kmeans
        self.clusters = model.clusters  # whether masks come from embeddings by k-means
        if options.masks is not None:
            _require_masks(model, options.masks)
            self.clusters = options.masks != "network"
        if options.masks in ("binary", "soft"):
            self.kmeans = replace(model.kmeans, masks=options.masks)
        self.takes_waves, self.seed = model.takes_waves, model.seed
        self.layout: Layout = model.layout
        self.rate_hz, self.sources = model.rate_hz, model.sources
        self.stft: STFT = model.stft

    @property
    def masks_from(self) -> MaskSource:
        """Where the masks come from, as in the options; a network of waves counts as ``network``."""
        return self.kmeans.masks if self.clusters else "network"

    def clusters_by(self) -> dict[str, object] | None:
        """Return the settings of k-means, to be kept with scores; None if nothing is clustered."""
        return asdict(self.kmeans) if self.clusters else None

    @property
    def scale_free(self) -> bool:
        """Whether the loss left the scale of the waves open, so that they are scaled to add up to the mixture."""
        return LOSSES[self.model.loss].scale_free

    def view(self, powers: Tensor) -> View:
        """Return how to look at a sound whose mean of channels and channels have the mean squares ``powers`` (1 + C,).

        Where the mean of the channels is silent and they are not (they cancel), the first channel takes its place.
        """
        each, together = powers[1:], self._together(len(powers) - 1)
        by_first = not together and not powers[0] > 0
        first = each.mean() if together else each[0] if by_first else powers[0]
        gains = self.model.level_gain(torch.cat([first.reshape(1), each]).sqrt().unsqueeze(-1)).squeeze(-1)
        return View(gains, by_first)

    def _together(self, channels: int) -> bool:
        """Tell whether the network takes all channels of a sound at once."""
        return channels == self.layout.channels > 1 and self.options.channels == "mid"

    def network_input(self, block: Tensor, view: View) -> Tensor:
        """Return what the network sees of a ``block`` (C, T) of a sound, levelled: waves (I, T).

        All channels together where it knows as many; else the mean of the channels, and each of them too where there
        are several and they are separated by themselves.
        """
        if self._together(len(block)):
            return (block * view.gains[0].to(block)).reshape(1, -1)
        mid = block[:1] if view.by_first else block.mean(0, keepdim=True)  # (1, T)
        by_each = (self.takes_waves or self.options.channels == "each") and len(block) > 1
        seen = torch.cat([mid, block]) if by_each else mid  # (I, T)
        levelled = seen * view.gains[: len(seen)].unsqueeze(-1).to(seen)
        return levelled.repeat(1, self.layout.channels)

    @torch.no_grad()
    def encode(self, blocks: Sequence[Tensor], views: Sequence[View]) -> list[Tensor]:
        """Run the part of the network that is worth a batch on ``blocks`` (C, T), of any sounds.

        They may be of different lengths where the network gives masks. Returns for each what the network sees,
        (I, N, 2H), or its waves (I, S, T) where it gives these.
        """
        seen = [self.network_input(block, view) for block, view in zip(blocks, views, strict=True)]  # (I, T) each
        longest = max(wave.shape[-1] for wave in seen)
        items = torch.cat([self._padded(wave, longest) for wave in seen])  # (B I, T)
        frames = [self.stft.frames(wave.shape[-1] // self.layout.channels) for wave in seen]
        with torch.autocast(items.device.type, torch.bfloat16, enabled=self.options.bf16):
            if isinstance(self.model.network, MaskNetwork):
                by_item = [count for count, wave in zip(frames, seen, strict=True) for _ in wave]
                spectra = magnitude(self.model.spectrum(items))
                outputs = self.model.network.encode(spectra, by_item if len(set(frames)) > 1 else None)
            else:
                outputs = self.model.network(items)["wave"]
        parts = torch.split(outputs, [len(wave) for wave in seen])
        if self.takes_waves:
            return list(parts)
        return [part[:, :count] for part, count in zip(parts, frames, strict=True)]

    def _padded(self, wave: Tensor, longest: int) -> Tensor:
        """Return waves (I, T) with zeros behind each channel, up to ``longest`` samples of all of them."""
        return F.pad(self.model.unfold(wave), (0, (longest - wave.shape[-1]) // self.layout.channels)).flatten(-2)

    def decode(self, encoded: Tensor) -> Tensor:
        """Return what the masks come from, for what :meth:`encode` gave (I, N, K) or any frames of it.

        That is embeddings (I, N, F, E) if they are clustered, else the masks (I, S, N, F).
        """
        assert isinstance(self.model.network, MaskNetwork)
        with torch.autocast(encoded.device.type, torch.bfloat16, enabled=self.options.bf16):
            return self.model.network.decode(encoded, "embedding" if self.clusters else "mask")

    @torch.no_grad()
    def finish(self, block: Tensor, view: View, encoded: Tensor) -> Tensor:
        """Return the waves (S, C, T) of a ``block`` (C, T), from what :meth:`encode` gave for it."""
        if self.takes_waves:
            waves = encoded / view.gains[: len(encoded), None, None].to(encoded)  # (I, S, T)
            return (waves if len(waves) == 1 else align_to_first(waves, waves)).transpose(0, 1)
        masks = torch.stack([self._block_masks(item, view) for item in encoded])  # (I, S, N, F)
        by_channel = self.model.unfold(masks)  # (I, S, N, C, F')
        together = self._together(len(block))
        masks = by_channel[0].movedim(-2, 0) if together else by_channel.mean(-2)  # (C, S, N, F') or (I, S, N, F')
        spectrum, samples = self.stft.forward(block), block.shape[-1]  # (C, N, F')
        if len(encoded) > 1:
            masks = masks[1:] if view.centroids is not None else self._in_one_order(masks, spectrum, view, samples)
        masked = (masks * spectrum.unsqueeze(1)).transpose(0, 1)  # (S, C, N, F')
        waves = self.stft.inverse(masked, samples)
        return refine_phases(waves, masked.abs(), block, self.stft, self.options.misi) if self.options.misi else waves

    def _block_masks(self, encoded: Tensor, view: View) -> Tensor:
        """Return the masks (S, N, F) of what :meth:`encode` gave for an item, (N, 2H)."""
        if view.centroids is None:
            return self.decode(encoded.unsqueeze(0))[0]
        # on a CPU a few frames at a time, so that their embeddings stay in the cache
        parts = torch.split(encoded, _FRAMES if encoded.device.type == "cpu" else max(1, len(encoded)))
        vectors = (self.decode(part.unsqueeze(0))[0] for part in parts)
        return torch.cat([assign(part, view.centroids, self.kmeans.masks) for part in vectors], 1)

    def _in_one_order(self, masks: Tensor, spectrum: Tensor, view: View, samples: int) -> Tensor:
        """Return the masks (C, S, N, F) of the channels in the order of their mean's, the first of ``masks``."""
        if self.layout.fixed_order:
            return masks[1:]
        mid = spectrum[:1] if view.by_first else spectrum.mean(0, keepdim=True)  # (1, N, F)
        waves = self.stft.inverse(masks * torch.cat([mid, spectrum]).unsqueeze(1), samples)  # (I, S, T)
        return align_to_first(waves, masks)

    def fit(self, vectors: Tensor, loudness: Tensor) -> Tensor:
        """Return the centroids (S, E) from embeddings (P, E) of the bins of a sound, of magnitude ``loudness`` (P,)."""
        return fit_centroids(vectors, loudness, self.sources, settings=self.kmeans, seed=self.seed)

    @torch.no_grad()
    def separate(self, mixture: Tensor) -> Tensor:
        """Separate one mixture (C, T) of any level, length and channel count in one piece into waves (S, C, T).

        Channels as in the layout are separated together. Otherwise the masks come from the mean of the channels and
        multiply each of them (masks of several channels by their mean); where the mean of the channels is silent and
        they are not (they cancel), from the first channel. A network without masks separates every channel. Where
        the loss left their scale open, the waves are scaled so that they add up to the mixture as nearly as they can.
        Silence gives silence.
        """
        channels, samples = mixture.shape
        if samples == 0:
            return mixture.new_zeros(self.sources, channels, 0)
        view = self.view(torch.cat([mixture.mean(0, keepdim=True), mixture]).square().mean(-1))
        (encoded,) = self.encode([mixture], [view])
        if self.clusters:
            spectrum = self.model.spectrum(self.network_input(mixture, view)[0])  # (N, F)
            vectors = self.decode(encoded[:1])  # (1, N, F, E)
            view = replace(view, centroids=self.fit(vectors.flatten(0, 2), spectrum.abs().flatten()))
        waves = self.finish(mixture, view, encoded)  # (S, C, T)
        if self.scale_free:
            waves = waves * factors(*self.products(waves, mixture)).T.unsqueeze(-1).to(waves)  # (S, G, 1)
        return waves

    def products(self, waves: Tensor, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """Return all products of waves (S, C, T) with one another (G, S, S) and with the mixture (C, T), (G, S).

        G: the factors that follow are the same for all channels of a source, or the image would move; a network of
        waves has one for each channel. What several stretches of a sound give is summed.
        """
        apart = waves.transpose(0, 1) if self.takes_waves else waves.flatten(1).unsqueeze(0)  # (G, S, T)
        whole = mixture.reshape(len(apart), -1, 1).double()  # (G, T, 1)
        return apart.double() @ apart.double().mT, (apart.double() @ whole).squeeze(-1)


def _require_masks(model: SeparationModel, source: MaskSource) -> None:
    """Raise UserError if the network of ``model`` was not trained to give what masks from ``source`` take."""
    heads = LOSSES[model.loss].heads
    head = "mask" if source == "network" else "embedding"
    if head not in heads and not (head == "mask" and "wave" in heads):
        has = "masks, no embeddings" if head == "embedding" else "embeddings, no masks"
        raise UserError(f"--masks {source}: a network trained with --loss {model.loss} has {has} of its own")
    if head == "embedding" and model.layout.fixed_order:
        raise UserError(f"--masks {source}: clusters have no order, and the sources of this run have one")
