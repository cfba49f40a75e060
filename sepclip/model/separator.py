"""A network with its transform, for training: from mixtures and their sources to the quantities that a loss compares.

:mod:`sepclip.model.inference` separates recordings with a trained model.
"""

import torch
from torch import Tensor, nn

from sepclip.audio.layout import Layout
from sepclip.audio.stft import STFT, magnitude
from sepclip.errors import UserError
from sepclip.model.clustering import KMeansSettings, cluster_masks
from sepclip.model.losses import LOSSES, Signals
from sepclip.model.network_base import Head, MaskNetwork, NetworkOutputs, NormalisesInput, WaveNetwork, unit_vectors
from sepclip.model.networks import NETWORKS, build_network


def losses_of(network: str) -> list[str]:
    """Return the names of the losses that ``network`` can be trained with."""
    return [name for name, loss in LOSSES.items() if all(map(NETWORKS[network].supports, loss.heads))]


def require_trainable(layout: Layout, *, loss: str, network: str) -> None:
    """Raise UserError if ``loss`` or ``network`` cannot learn to separate mixtures of this ``layout``."""
    # clusters have no order, and only the order distinguishes vocals from drums
    if layout.fixed_order and LOSSES[loss].separates_by == "embedding":
        suitable = [name for name in losses_of(network) if LOSSES[name].separates_by != "embedding"]
        raise UserError(
            f"--loss {loss} separates by clusters, which have no order, and the sources of this data have one "
            f"({', '.join(layout.names)}): choose --loss {' or '.join(suitable)}"
        )
    # several channels are joined along the bins, which a network of waves does not have
    if layout.channels > 1 and NETWORKS[network].takes_waves:
        raise UserError(
            f"model.network {network} takes one channel and this data has {layout.channels}: choose a mask network "
            f"such as model.network=blstm, or prepare the data with --channels 1"
        )


class SeparationModel(nn.Module):
    """A network with its transform, for mixtures (B, T) of sources (B, S, T), both in the given ``layout``.

    If the layout has several channels, they follow one another along T = C T', and likewise along the bins F of all
    spectra, masks and embeddings. Only the two transforms of this class separate them again.
    ``input_level_dbfs``: every mixture is brought to this RMS before the network sees it, so that masks do not depend
    on the level of a recording; the masks then multiply the mixture at its own level. None leaves the level alone.
    ``settings``: those of the ``network``. ``kmeans``: how embeddings become masks. ``seed``: that of the initial
    weights and of the starts of k-means. Raises UserError if ``loss`` or ``network`` does not suit the layout.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        stft: STFT,
        loss: str,
        network: str,
        settings: object,
        seed: int,
        input_level_dbfs: float | None,
        kmeans: KMeansSettings,
    ):
        super().__init__()
        require_trainable(layout, loss=loss, network=network)
        self.layout, self.stft, self.loss = layout, stft, loss
        self.rate_hz, self.sources = layout.rate_hz, layout.sources
        self.input_level_dbfs = input_level_dbfs
        self.kmeans, self.seed = kmeans, seed
        self.clusters = LOSSES[loss].separates_by == "embedding"  # whether masks come from embeddings by k-means
        self.takes_waves = NETWORKS[network].takes_waves
        # a mask network gets its waves from masks in `forward`, so it needs the head `mask` for a loss of waves
        heads: list[Head] = ["mask" if head == "wave" and not self.takes_waves else head for head in LOSSES[loss].heads]
        bins = stft.bins * layout.channels
        self.network: MaskNetwork | WaveNetwork = build_network(
            network, seed, bins=bins, sources=layout.sources, heads=heads, settings=settings
        )

    def spectrum(self, wave: Tensor) -> Tensor:
        """Transform waves (..., T) into spectra (..., N, F)."""
        channels = self.unfold(wave)  # (..., C, T')
        # the bins of all channels of a frame become one row, so that a network sees them together
        return self.stft.forward(channels).movedim(-3, -2).flatten(-2)  # (..., N, F)

    def wave(self, spectrum: Tensor, samples: int) -> Tensor:
        """Transform spectra (..., N, F) back into waves (..., T) of ``samples`` samples."""
        channels = self.unfold(spectrum).movedim(-2, -3)  # (..., C, N, F')
        return self.stft.inverse(channels, samples // self.layout.channels).flatten(-2)  # (..., T)

    def level_gain(self, mixture: Tensor) -> Tensor:
        """Return the gain (B, 1) that brings each mixture (B, T) to the input level; 1 for silence."""
        rms = mixture.square().mean(-1, keepdim=True).sqrt()  # (B, 1), over all channels together
        if self.input_level_dbfs is None:
            return torch.ones_like(rms)
        return torch.where(rms > 0, 10 ** (self.input_level_dbfs / 20) / rms, torch.ones_like(rms))

    def unfold(self, folded: Tensor) -> Tensor:
        """Split samples or bins (..., C K) into channels (..., C, K)."""
        return folded.reshape(*folded.shape[:-1], self.layout.channels, -1)

    def signals(self, mixture: Tensor, sources: Tensor) -> Signals:
        """Return mixtures (B, T) and their sources (B, S, T) at the input level, as waves and spectra."""
        # the gain of the mixture for its sources too, so that they still add up to it
        gain = self.level_gain(mixture)  # (B, 1)
        mixture, sources = mixture * gain, sources * gain.unsqueeze(-1)
        spectrum = self.spectrum(mixture)
        # with two sources, their spectra are two thirds of the transforms of a step: only for losses that need them
        source_spectra = self.spectrum(sources) if LOSSES[self.loss].compares_spectra else spectrum[:0]
        return Signals(spectrum, source_spectra, mixture, sources, fixed_order=self.layout.fixed_order)

    @torch.no_grad()
    def input_statistics(self, mixture: Tensor) -> Tensor | None:
        """Return the statistics that normalise mixtures (B, T); None if the network does not use those of a batch."""
        if not isinstance(self.network, NormalisesInput):
            return None
        return self.network.input_statistics(magnitude(self.spectrum(mixture * self.level_gain(mixture))))

    def use_input_statistics(self, parts: Tensor) -> None:
        """Make the network normalise its input by the statistics of all ``parts`` of a batch, stacked."""
        assert isinstance(self.network, NormalisesInput)
        self.network.use_input_statistics(parts)

    def forward(self, wave: Tensor, spectrum: Tensor, magnitudes: Tensor | None = None) -> NetworkOutputs:
        """Run the network on mixtures at the input level, as waves (B, T) and as complex spectra (B, N, F).

        ``magnitudes``: those of the spectra, if they are known. Returns the heads that the loss needs. A mask network
        returns ``wave`` by the inverse transform of the masked spectra.
        """
        if magnitudes is None and not self.takes_waves:
            magnitudes = magnitude(spectrum)
        # the only call of the network in training
        outputs: NetworkOutputs = self.network(wave if self.takes_waves else magnitudes)
        # within the graph, so that the loss of the waves has a gradient with respect to the masks
        if "wave" in LOSSES[self.loss].heads and not self.takes_waves:
            outputs["wave"] = self.apply_masks(outputs["mask"], spectrum, wave.shape[-1])
        return outputs

    def masks(self, outputs: NetworkOutputs, spectrum: Tensor) -> Tensor:
        """Return the masks (B, S, N, F) that separate a mixture, from the outputs of the network."""
        if not self.clusters:
            return outputs["mask"]
        # for validation; BlockSeparator finds one set of centroids for all blocks of a recording
        return cluster_masks(
            unit_vectors(outputs["embedding"]), spectrum.abs(), self.sources, settings=self.kmeans, seed=self.seed
        )

    def apply_masks(self, masks: Tensor, spectrum: Tensor, samples: int) -> Tensor:
        """Multiply the mixture's spectrogram (B, N, F) by ``masks`` and return the waves (B, S, T)."""
        # the phase of the mixture is kept
        return self.wave(masks * spectrum.unsqueeze(1), samples)

    def estimates(self, outputs: NetworkOutputs, spectrum: Tensor, samples: int) -> Tensor:
        """Return the waves (B, S, T) that follow from the outputs of the network, at the level of ``spectrum``."""
        if "wave" in outputs:
            return outputs["wave"]
        return self.apply_masks(self.masks(outputs, spectrum), spectrum, samples)

    @property
    def scale_free(self) -> bool:
        """Whether the loss does not determine the scale of the waves, so that they are scaled to sum to the mixture."""
        return LOSSES[self.loss].scale_free
