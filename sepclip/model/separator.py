"""A network with its transform: from mixture waves to masks and separated waves."""

from dataclasses import asdict

import torch
from torch import Tensor, nn

from sepclip.audio.metrics import pairwise_si_sdr
from sepclip.audio.permutation import best_permutation
from sepclip.audio.stft import STFT
from sepclip.model.clustering import KMeans, cluster_masks
from sepclip.model.losses import LOSSES, Signals
from sepclip.model.networks import NETWORKS, NormalisesInput, build_network


def losses_of(network: str) -> list[str]:
    """Return the losses by which ``network`` can be trained."""
    return [name for name, loss in LOSSES.items() if all(map(NETWORKS[network].can_give, loss.heads))]


class Separator(nn.Module):
    """Separates mono mixtures (B, T) at ``rate_hz`` into ``sources`` waves (B, S, T).

    ``input_level_dbfs``: every mixture is brought to this RMS before the network sees it, so that masks do not depend
    on how loud a recording is; the masks then multiply the mixture as it came. None leaves the level alone.
    ``kmeans``: how embeddings become masks; ``seed`` is that of the first weights and of the starts of k-means.
    """

    def __init__(
        self,
        *,
        rate_hz: int,
        sources: int,
        stft: STFT,
        loss: str,
        network: str,
        seed: int,
        input_level_dbfs: float | None,
        kmeans: KMeans = KMeans(),
        **settings: object,
    ):
        super().__init__()
        self.rate_hz, self.sources, self.stft, self.loss = rate_hz, sources, stft, loss
        self.input_level_dbfs = input_level_dbfs
        self.kmeans, self.seed = kmeans, seed
        self.takes_waves = NETWORKS[network].takes_waves
        heads = ["mask" if head == "wave" and not self.takes_waves else head for head in LOSSES[loss].heads]
        self.network = build_network(network, seed, bins=stft.bins, sources=sources, heads=heads, **settings)

    def level_gain(self, mixture: Tensor) -> Tensor:
        """Return the gain (B, 1) that brings each mixture (B, T) to the input level; 1 for silence."""
        rms = mixture.square().mean(-1, keepdim=True).sqrt()
        if self.input_level_dbfs is None:
            return torch.ones_like(rms)
        return torch.where(rms > 0, 10 ** (self.input_level_dbfs / 20) / rms, torch.ones_like(rms))

    def signals(self, mixture: Tensor, sources: Tensor) -> Signals:
        """Return mixtures (B, T) and their sources (B, S, T) at the level of the network, as waves and spectra."""
        gain = self.level_gain(mixture)  # (B, 1)
        mixture, sources = mixture * gain, sources * gain.unsqueeze(-1)
        return Signals(self.stft.forward(mixture), self.stft.forward(sources), mixture, sources)

    @torch.no_grad()
    def input_statistics(self, mixture: Tensor) -> Tensor | None:
        """Return by what the network would normalise mixtures (B, T); None where it takes nothing from a batch."""
        if not isinstance(self.network, NormalisesInput):
            return None
        return self.network.input_statistics(self.stft.forward(mixture * self.level_gain(mixture)).abs())

    def use_input_statistics(self, parts: Tensor) -> None:
        """Let the network normalise by the statistics of all ``parts`` of a batch, stacked."""
        assert isinstance(self.network, NormalisesInput)
        self.network.use_input_statistics(parts)

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
        return self.stft.inverse(masks * spectrum.unsqueeze(1), samples)

    def estimates(self, outputs: dict[str, Tensor], spectrum: Tensor, samples: int) -> Tensor:
        """Return the waves (B, S, T) that the outputs of the network stand for, at the level of ``spectrum``."""
        if "wave" in outputs:
            return outputs["wave"]
        return self.apply_masks(self.masks(outputs, spectrum), spectrum, samples)

    @torch.no_grad()
    def separate(self, mixture: Tensor) -> Tensor:
        """Separate one mixture (C, T) of any level, length and channel count into waves (S, C, T).

        The masks come from the mean of the channels and multiply each of them; where that mean is silent and the
        channels are not (they cancel), from the first channel. A network without masks separates every channel. Where
        the loss left their scale open, the waves are scaled so that they add up to the mixture as nearly as they can.
        Silence gives silence.
        """
        channels, samples = mixture.shape
        if samples == 0:
            return mixture.new_zeros(self.sources, channels, 0)
        mid = mixture.mean(0, keepdim=True)  # (1, T)
        if not mid.any():
            mid = mixture[:1]
        if self.takes_waves:
            return self._separate_channels(mixture, mid).transpose(0, 1)
        levelled = mid * self.level_gain(mid)
        spectrum = self.stft.forward(levelled)  # (1, N, F)
        masks = self.masks(self(levelled, spectrum), spectrum).expand(channels, -1, -1, -1)  # (C, S, N, F)
        waves = self.apply_masks(masks, self.stft.forward(mixture), samples).transpose(0, 1)  # (S, C, T)
        if LOSSES[self.loss].scale_free:  # by one factor for all channels of a source
            waves = add_up(waves.flatten(1).unsqueeze(0), mixture.flatten().unsqueeze(0)).reshape(waves.shape)
        return waves

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
