"""A network with its transform: from mixture waves to masks and separated waves."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sepclip.audio.layout import Layout
from sepclip.audio.misi import refine_phases
from sepclip.audio.scaling import factors
from sepclip.audio.si_sdr import like_the_first
from sepclip.audio.stft import STFT, magnitude
from sepclip.errors import UserError
from sepclip.model.clustering import KMeans, assign, cluster_masks, fit_centroids
from sepclip.model.losses import LOSSES, Signals
from sepclip.model.networks import NETWORKS, NormalisesInput, build_network

Channels = Literal["mid", "each"]
MaskSource = Literal["binary", "soft", "network"]  # k-means with masks of either kind, or the network itself


_FRAMES = 128  # whose embeddings of 129 bins and 20 dimensions are 1.3 MB


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


def losses_of(network: str) -> list[str]:
    """Return the losses by which ``network`` can be trained."""
    return [name for name, loss in LOSSES.items() if all(map(NETWORKS[network].can_give, loss.heads))]


def require_trainable(layout: Layout, *, loss: str, network: str) -> None:
    """Raise UserError where ``loss`` or ``network`` cannot learn to separate what ``layout`` says."""
    if layout.fixed_order and LOSSES[loss].separates_by == "embedding":
        fit = [name for name in losses_of(network) if LOSSES[name].separates_by != "embedding"]
        raise UserError(
            f"--loss {loss} separates by clusters, which have no order, and the sources of this data have one "
            f"({', '.join(layout.names)}): choose --loss {' or '.join(fit)}"
        )
    if layout.channels > 1 and NETWORKS[network].takes_waves:
        raise UserError(
            f"model.network {network} takes one channel and this data has {layout.channels}: choose a network of masks "
            f"such as model.network=blstm, or prepare the data with --channels 1"
        )


class Separator(nn.Module):
    """Separates mixtures (B, T) into waves (B, S, T), both as ``layout`` says.

    Where it has several channels, T holds them one after the other, C T' samples, and the bins F of all spectra, masks
    and embeddings do likewise. Only the two transforms here know of it.
    ``input_level_dbfs``: every mixture is brought to this RMS before the network sees it, so that masks do not depend
    on how loud a recording is; the masks then multiply the mixture as it came. None leaves the level alone.
    ``kmeans``: how embeddings become masks; ``seed`` is that of the first weights and of the starts of k-means.

    What only separating takes is set afterwards, by :meth:`set_inference` and :meth:`take_masks`.
    """

    misi = 0
    channels: Channels = "mid"
    bf16 = False

    def __init__(
        self,
        *,
        layout: Layout,
        stft: STFT,
        loss: str,
        network: str,
        seed: int,
        input_level_dbfs: float | None,
        kmeans: KMeans = KMeans(),
        **settings: object,
    ):
        super().__init__()
        require_trainable(layout, loss=loss, network=network)
        self.layout, self.stft, self.loss = layout, stft, loss
        self.rate_hz, self.sources = layout.rate_hz, layout.sources
        self.input_level_dbfs = input_level_dbfs
        self.kmeans, self.seed = kmeans, seed
        self.clusters = LOSSES[loss].separates_by == "embedding"  # whether masks come from embeddings by k-means
        self.takes_waves = NETWORKS[network].takes_waves
        heads = ["mask" if head == "wave" and not self.takes_waves else head for head in LOSSES[loss].heads]
        bins = stft.bins * layout.channels
        self.network: Any = build_network(network, seed, bins=bins, sources=layout.sources, heads=heads, **settings)

    def spectrum(self, wave: Tensor) -> Tensor:
        """Transform waves (..., T) into spectra (..., N, F)."""
        channels = self._unfold(wave)  # (..., C, T')
        return self.stft.forward(channels).movedim(-3, -2).flatten(-2)  # (..., N, F)

    def wave(self, spectrum: Tensor, samples: int) -> Tensor:
        """Transform spectra (..., N, F) back into waves (..., T) of ``samples`` samples."""
        channels = self._unfold(spectrum).movedim(-2, -3)  # (..., C, N, F')
        return self.stft.inverse(channels, samples // self.layout.channels).flatten(-2)  # (..., T)

    def level_gain(self, mixture: Tensor) -> Tensor:
        """Return the gain (B, 1) that brings each mixture (B, T) to the input level; 1 for silence."""
        rms = mixture.square().mean(-1, keepdim=True).sqrt()
        if self.input_level_dbfs is None:
            return torch.ones_like(rms)
        return torch.where(rms > 0, 10 ** (self.input_level_dbfs / 20) / rms, torch.ones_like(rms))

    def _unfold(self, folded: Tensor) -> Tensor:
        """Return samples or bins (..., C K) by channel, (..., C, K)."""
        return folded.reshape(*folded.shape[:-1], self.layout.channels, -1)

    def signals(self, mixture: Tensor, sources: Tensor) -> Signals:
        """Return mixtures (B, T) and their sources (B, S, T) at the level of the network, as waves and spectra.

        No spectra of the sources where the loss takes none: they are two thirds of all.
        """
        gain = self.level_gain(mixture)  # (B, 1)
        mixture, sources = mixture * gain, sources * gain.unsqueeze(-1)
        spectrum = self.spectrum(mixture)
        spectra = self.spectrum(sources) if LOSSES[self.loss].compares_spectra else spectrum[:0]
        return Signals(spectrum, spectra, mixture, sources, fixed_order=self.layout.fixed_order)

    @torch.no_grad()
    def input_statistics(self, mixture: Tensor) -> Tensor | None:
        """Return by what the network would normalise mixtures (B, T); None where it takes nothing from a batch."""
        if not isinstance(self.network, NormalisesInput):
            return None
        return self.network.input_statistics(magnitude(self.spectrum(mixture * self.level_gain(mixture))))

    def use_input_statistics(self, parts: Tensor) -> None:
        """Let the network normalise by the statistics of all ``parts`` of a batch, stacked."""
        assert isinstance(self.network, NormalisesInput)
        self.network.use_input_statistics(parts)

    def forward(self, wave: Tensor, spectrum: Tensor, magnitudes: Tensor | None = None) -> dict[str, Any]:
        """Run the network on levelled mixtures, given as waves (B, T) and as complex spectra (B, N, F).

        ``magnitudes``: those of the spectra, where they are known.
        Returns the heads that the loss takes, embeddings as a :class:`RawEmbedding`; ``wave`` comes from the masks by
        the inverse transform where the network has none of its own.
        """
        if magnitudes is None and not self.takes_waves:
            magnitudes = magnitude(spectrum)
        outputs: dict[str, Any] = self.network(wave if self.takes_waves else magnitudes)
        if "wave" in LOSSES[self.loss].heads and not self.takes_waves:
            outputs["wave"] = self.apply_masks(outputs["mask"], spectrum, wave.shape[-1])
        return outputs

    def masks(self, outputs: dict[str, Any], spectrum: Tensor) -> Tensor:
        """Return the masks (B, S, N, F) that separate a mixture, from the outputs of the network."""
        if not self.clusters:
            return outputs["mask"]  # type: ignore[no-any-return]
        vectors = outputs["embedding"].unit()
        return cluster_masks(vectors, spectrum.abs(), self.sources, settings=self.kmeans, seed=self.seed)

    def clusters_by(self) -> dict[str, object] | None:
        """Return the settings of k-means, to be kept with scores; None where nothing is clustered."""
        return asdict(self.kmeans) if self.clusters else None

    def apply_masks(self, masks: Tensor, spectrum: Tensor, samples: int) -> Tensor:
        """Multiply the mixture's spectrogram (B, N, F) by ``masks`` and return the waves (B, S, T)."""
        return self.wave(masks * spectrum.unsqueeze(1), samples)

    def estimates(self, outputs: dict[str, Any], spectrum: Tensor, samples: int) -> Tensor:
        """Return the waves (B, S, T) that the outputs of the network stand for, at the level of ``spectrum``."""
        if "wave" in outputs:
            return outputs["wave"]  # type: ignore[no-any-return]
        return self.apply_masks(self.masks(outputs, spectrum), spectrum, samples)

    def set_inference(self, *, misi: int = 0, channels: Channels = "mid", bf16: bool = False) -> None:
        """Choose how to separate.

        ``misi``: iterations of phase refinement. ``channels``: masks from the ``mid``, the mean of the channels, or
        from ``each`` by itself. ``bf16``: the network computes in bfloat16. Raises UserError for phase refinement of a
        network that has no magnitudes.
        """
        if misi and self.takes_waves:
            raise UserError("--misi: the network gives waves and no magnitudes whose phases could be refined")
        self.misi, self.channels, self.bf16 = misi, channels, bf16

    def take_masks(self, source: MaskSource) -> None:
        """Take masks from k-means, ``binary`` or ``soft``, or from the ``network``; UserError where it has no such."""
        heads = LOSSES[self.loss].heads
        head = "mask" if source == "network" else "embedding"
        if head not in heads and not (head == "mask" and "wave" in heads):
            has = "masks, no embeddings" if head == "embedding" else "embeddings, no masks"
            raise UserError(f"--masks {source}: a network trained with --loss {self.loss} has {has} of its own")
        if head == "embedding" and self.layout.fixed_order:
            raise UserError(f"--masks {source}: clusters have no order, and the sources of this run have one")
        self.clusters = source != "network"
        if source != "network":
            self.kmeans = replace(self.kmeans, masks=source)

    @property
    def masks_from(self) -> MaskSource:
        """Where the masks come from, as :meth:`take_masks` takes it; a network of waves counts as ``network``."""
        return self.kmeans.masks if self.clusters else "network"

    @property
    def scale_free(self) -> bool:
        """Whether the loss left the scale of the waves open, so that they are scaled to add up to the mixture."""
        return LOSSES[self.loss].scale_free

    def view(self, powers: Tensor) -> View:
        """Return how to look at a sound whose mean of channels and channels have the mean squares ``powers`` (1 + C,).

        Where the mean of the channels is silent and they are not (they cancel), the first channel takes its place.
        """
        each, together = powers[1:], self._together(len(powers) - 1)
        by_first = not together and not powers[0] > 0
        first = each.mean() if together else each[0] if by_first else powers[0]
        gains = self.level_gain(torch.cat([first.reshape(1), each]).sqrt().unsqueeze(-1)).squeeze(-1)
        return View(gains, by_first)

    def _together(self, channels: int) -> bool:
        """Tell whether the network takes all channels of a sound at once."""
        return channels == self.layout.channels > 1 and self.channels == "mid"

    def looked_at(self, block: Tensor, view: View) -> Tensor:
        """Return what the network sees of a ``block`` (C, T) of a sound, levelled: waves (I, T).

        All channels together where it knows as many; else the mean of the channels, and each of them too where there
        are several and they are separated by themselves.
        """
        if self._together(len(block)):
            return (block * view.gains[0].to(block)).reshape(1, -1)
        mid = block[:1] if view.by_first else block.mean(0, keepdim=True)  # (1, T)
        by_each = (self.takes_waves or self.channels == "each") and len(block) > 1
        seen = torch.cat([mid, block]) if by_each else mid  # (I, T)
        levelled = seen * view.gains[: len(seen)].unsqueeze(-1).to(seen)
        return levelled.repeat(1, self.layout.channels)

    @torch.no_grad()
    def encode(self, blocks: Sequence[Tensor], views: Sequence[View]) -> list[Tensor]:
        """Run the part of the network that is worth a batch on ``blocks`` (C, T), of any sounds.

        They may be of different lengths where the network gives masks. Returns for each what the network sees,
        (I, N, 2H), or its waves (I, S, T) where it gives these.
        """
        seen = [self.looked_at(block, view) for block, view in zip(blocks, views, strict=True)]  # (I, T) each
        longest = max(wave.shape[-1] for wave in seen)
        items = torch.cat([self._padded(wave, longest) for wave in seen])  # (B I, T)
        frames = [self.stft.frames(wave.shape[-1] // self.layout.channels) for wave in seen]
        with torch.autocast(items.device.type, torch.bfloat16, enabled=self.bf16):
            if self.takes_waves:
                outputs = self.network(items)["wave"]
            else:
                by_item = [count for count, wave in zip(frames, seen, strict=True) for _ in wave]
                spectra = magnitude(self.spectrum(items))
                outputs = self.network.encode(spectra, by_item if len(set(frames)) > 1 else None)
        parts = outputs.split([len(wave) for wave in seen])
        if self.takes_waves:
            return list(parts)
        return [part[:, :count] for part, count in zip(parts, frames, strict=True)]

    def _padded(self, wave: Tensor, longest: int) -> Tensor:
        """Return waves (I, T) with zeros behind each channel, up to ``longest`` samples of all of them."""
        return F.pad(self._unfold(wave), (0, (longest - wave.shape[-1]) // self.layout.channels)).flatten(-2)

    def decode(self, encoded: Tensor) -> dict[str, Tensor]:
        """Return what the masks come from, from what :meth:`encode` gave (I, N, 2H) or any frames of it."""
        head = "embedding" if self.clusters else "mask"
        with torch.autocast(encoded.device.type, torch.bfloat16, enabled=self.bf16):
            return self.network.decode(encoded, (head,))  # type: ignore[no-any-return]

    @torch.no_grad()
    def finish(self, block: Tensor, view: View, encoded: Tensor) -> Tensor:
        """Return the waves (S, C, T) of a ``block`` (C, T), from what :meth:`encode` gave for it."""
        if self.takes_waves:
            waves = encoded / view.gains[: len(encoded), None, None].to(encoded)  # (I, S, T)
            return (waves if len(waves) == 1 else like_the_first(waves, waves)).transpose(0, 1)
        masks = torch.stack([self._block_masks(item, view) for item in encoded])  # (I, S, N, F)
        by_channel = self._unfold(masks)  # (I, S, N, C, F')
        together = self._together(len(block))
        masks = by_channel[0].movedim(-2, 0) if together else by_channel.mean(-2)  # (C, S, N, F') or (I, S, N, F')
        spectrum, samples = self.stft.forward(block), block.shape[-1]  # (C, N, F')
        if len(encoded) > 1:
            masks = masks[1:] if view.centroids is not None else self._in_one_order(masks, spectrum, view, samples)
        masked = (masks * spectrum.unsqueeze(1)).transpose(0, 1)  # (S, C, N, F')
        waves = self.stft.inverse(masked, samples)
        return refine_phases(waves, masked.abs(), block, self.stft, self.misi) if self.misi else waves

    def _block_masks(self, encoded: Tensor, view: View) -> Tensor:
        """Return the masks (S, N, F) of what :meth:`encode` gave for an item, (N, 2H)."""
        if view.centroids is None:
            return self.decode(encoded.unsqueeze(0))["mask"][0]
        # on a CPU a few frames at a time, so that their embeddings stay in the cache
        parts = torch.split(encoded, _FRAMES if encoded.device.type == "cpu" else max(1, len(encoded)))
        vectors = (self.decode(part.unsqueeze(0))["embedding"][0] for part in parts)
        return torch.cat([assign(part, view.centroids, self.kmeans.masks) for part in vectors], 1)

    def _in_one_order(self, masks: Tensor, spectrum: Tensor, view: View, samples: int) -> Tensor:
        """Return the masks (C, S, N, F) of the channels in the order of their mean's, the first of ``masks``."""
        if self.layout.fixed_order:
            return masks[1:]
        mid = spectrum[:1] if view.by_first else spectrum.mean(0, keepdim=True)  # (1, N, F)
        waves = self.stft.inverse(masks * torch.cat([mid, spectrum]).unsqueeze(1), samples)  # (I, S, T)
        return like_the_first(waves, masks)

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
            spectrum = self.spectrum(self.looked_at(mixture, view)[0])  # (N, F)
            vectors = self.decode(encoded[:1])["embedding"]  # (1, N, F, E)
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
