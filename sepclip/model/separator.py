"""A network with its transform: from mixture waves to masks and separated waves."""

from dataclasses import asdict

import torch
from torch import Tensor, nn

from sepclip.audio.layout import Layout
from sepclip.audio.metrics import pairwise_si_sdr
from sepclip.audio.permutation import best_permutation
from sepclip.audio.stft import STFT
from sepclip.errors import UserError
from sepclip.model.clustering import KMeans, cluster_masks
from sepclip.model.losses import LOSSES, Signals
from sepclip.model.networks import NETWORKS, build_network


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
    """

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
        self.takes_waves = NETWORKS[network].takes_waves
        heads = ["mask" if head == "wave" and not self.takes_waves else head for head in LOSSES[loss].heads]
        bins = stft.bins * layout.channels
        self.network = build_network(network, seed, bins=bins, sources=layout.sources, heads=heads, **settings)

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
        """Return mixtures (B, T) and their sources (B, S, T) at the level of the network, as waves and spectra."""
        gain = self.level_gain(mixture)  # (B, 1)
        mixture, sources = mixture * gain, sources * gain.unsqueeze(-1)
        fixed = self.layout.fixed_order
        return Signals(self.spectrum(mixture), self.spectrum(sources), mixture, sources, fixed_order=fixed)

    def forward(self, wave: Tensor, spectrum: Tensor) -> dict[str, Tensor]:
        """Run the network on levelled mixtures, given as waves (B, T) and as complex spectra (B, N, F).

        Returns the heads that the loss takes; ``wave`` comes from the masks by the inverse transform where the network
        has none of its own.
        """
        outputs: dict[str, Tensor] = self.network(wave if self.takes_waves else spectrum.abs())
        if "wave" in LOSSES[self.loss].heads and not self.takes_waves:
            outputs["wave"] = self.apply_masks(outputs["mask"], spectrum, wave.shape[-1])
        return outputs

    def masks(self, outputs: dict[str, Tensor], spectrum: Tensor) -> Tensor:
        """Return the masks (B, S, N, F) that separate a mixture, from the outputs of the network."""
        if LOSSES[self.loss].separates_by != "embedding":
            return outputs["mask"]
        return cluster_masks(outputs["embedding"], spectrum.abs(), self.sources, settings=self.kmeans, seed=self.seed)

    def clusters_by(self) -> dict[str, object] | None:
        """Return the settings of k-means, to be kept with scores; None where nothing is clustered."""
        clusters = LOSSES[self.loss].separates_by == "embedding"
        return asdict(self.kmeans) if clusters else None

    def apply_masks(self, masks: Tensor, spectrum: Tensor, samples: int) -> Tensor:
        """Multiply the mixture's spectrogram (B, N, F) by ``masks`` and return the waves (B, S, T)."""
        return self.wave(masks * spectrum.unsqueeze(1), samples)

    def estimates(self, outputs: dict[str, Tensor], spectrum: Tensor, samples: int) -> Tensor:
        """Return the waves (B, S, T) that the outputs of the network stand for, at the level of ``spectrum``."""
        if "wave" in outputs:
            return outputs["wave"]
        return self.apply_masks(self.masks(outputs, spectrum), spectrum, samples)

    @torch.no_grad()
    def separate(self, mixture: Tensor) -> Tensor:
        """Separate one mixture (C, T) of any level, length and channel count into waves (S, C, T).

        Channels as in the layout are separated together. Otherwise the masks come from the mean of the channels and
        multiply each of them (masks of several channels by their mean); where the mean of the channels is silent and
        they are not (they cancel), from the first channel. A network without masks separates every channel. Where
        the loss left their scale open, the waves are scaled so that they add up to the mixture as nearly as they can.
        Silence gives silence.
        """
        channels, samples = mixture.shape
        if samples == 0:
            return mixture.new_zeros(self.sources, channels, 0)
        if channels == self.layout.channels > 1:
            return self._separate_together(mixture)
        mid = mixture.mean(0, keepdim=True)  # (1, T)
        if not mid.any():
            mid = mixture[:1]
        if self.takes_waves:
            return self._separate_channels(mixture, mid).transpose(0, 1)
        masks = self._masks_of(mid.expand(self.layout.channels, -1).reshape(1, -1))  # (1, S, N, F)
        masks = self._unfold(masks).mean(-2)  # (1, S, N, F')
        masked = masks * self.stft.forward(mixture).unsqueeze(1)  # (C, S, N, F')
        return self._scaled(self.stft.inverse(masked, samples).transpose(0, 1), mixture)

    def _separate_together(self, mixture: Tensor) -> Tensor:
        """Separate a mixture (C, T) of the channels that the network knows; waves (S, C, T)."""
        folded = mixture.reshape(1, -1)  # (1, C T)
        waves = self.apply_masks(self._masks_of(folded), self.spectrum(folded), folded.shape[1])  # (1, S, C T)
        return self._scaled(waves.reshape(-1, *mixture.shape), mixture)

    def _masks_of(self, mixture: Tensor) -> Tensor:
        """Return the masks (1, S, N, F) of one mixture (1, T) of any level."""
        levelled = mixture * self.level_gain(mixture)
        spectrum = self.spectrum(levelled)  # (1, N, F)
        return self.masks(self(levelled, spectrum), spectrum)

    def _scaled(self, waves: Tensor, mixture: Tensor) -> Tensor:
        """Scale ``waves`` (S, C, T) to add up to ``mixture`` (C, T), where the loss left their scale open."""
        if not LOSSES[self.loss].scale_free:
            return waves
        # by one factor for all channels of a source
        return add_up(waves.flatten(1).unsqueeze(0), mixture.flatten().unsqueeze(0)).reshape(waves.shape)

    def _separate_channels(self, mixture: Tensor, mid: Tensor) -> Tensor:
        """Separate each channel of ``mixture`` (C, T), in the order of sources of ``mid`` (1, T); waves (C, S, T)."""
        waves = self._separate_waves(mixture)  # (C, S, T)
        if len(mixture) == 1:
            return waves
        reference = self._separate_waves(mid).expand_as(waves)  # (C, S, T)
        alike = pairwise_si_sdr(est=waves, ref=reference).nan_to_num(-300, 300, -300)  # (C, est, ref)
        _, order = best_permutation(alike, maximise=True)  # (C, S)
        return waves.take_along_dim(order.unsqueeze(-1), 1)

    def _separate_waves(self, mixture: Tensor) -> Tensor:
        """Separate mixtures (B, T) each by itself by a network of waves; (B, S, T)."""
        gain = self.level_gain(mixture)  # (B, 1)
        waves: Tensor = self.network(mixture * gain)["wave"] / gain.unsqueeze(-1)
        return add_up(waves, mixture) if LOSSES[self.loss].scale_free else waves


def add_up(waves: Tensor, mixture: Tensor) -> Tensor:
    """Scale each of the ``waves`` (B, S, T) so that their sum comes nearest to ``mixture`` (B, T), by least squares."""
    norm = waves.double().norm(dim=-1, keepdim=True)  # (B, S, 1)
    unit = waves.double() / torch.where(norm > 0, norm, torch.ones_like(norm))  # (B, S, T)
    # estimates that are all alike share the mixture; a silent one stays silent
    gram = unit @ unit.mT + 1e-6 * torch.eye(waves.shape[1], dtype=unit.dtype, device=unit.device)  # (B, S, S)
    amounts = torch.cholesky_solve(unit @ mixture.double().unsqueeze(-1), torch.linalg.cholesky(gram))  # (B, S, 1)
    return (amounts * unit).to(waves.dtype)
