"""A network with its transform: from mixture waves to masks and separated waves."""

from dataclasses import asdict

import torch
from torch import Tensor, nn

from sepclip.audio.stft import STFT
from sepclip.model.clustering import KMeans, cluster_masks
from sepclip.model.losses import LOSSES
from sepclip.model.networks import build_network


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
        heads = LOSSES[loss].heads
        self.network = build_network(network, seed, bins=stft.bins, sources=sources, heads=heads, **settings)

    def level_gain(self, mixture: Tensor) -> Tensor:
        """Return the gain (B, 1) that brings each mixture (B, T) to the input level; 1 for silence."""
        rms = mixture.square().mean(-1, keepdim=True).sqrt()
        if self.input_level_dbfs is None:
            return torch.ones_like(rms)
        return torch.where(rms > 0, 10 ** (self.input_level_dbfs / 20) / rms, torch.ones_like(rms))

    def forward(self, spectrum: Tensor) -> dict[str, Tensor]:
        """Run the network on the complex spectrogram (B, N, F) of a levelled mixture."""
        outputs: dict[str, Tensor] = self.network(spectrum.abs())
        return outputs

    def masks(self, outputs: dict[str, Tensor], spectrum: Tensor) -> Tensor:
        """Return the masks (B, S, N, F) that separate a mixture, from the outputs of the network."""
        if LOSSES[self.loss].separates_by == "mask":
            return outputs["mask"]
        return cluster_masks(outputs["embedding"], spectrum.abs(), self.sources, settings=self.kmeans, seed=self.seed)

    def clusters_by(self) -> dict[str, object] | None:
        """Return the settings of k-means, to be kept with scores; None where nothing is clustered."""
        clusters = LOSSES[self.loss].separates_by == "embedding"
        return asdict(self.kmeans) if clusters else None

    def apply_masks(self, masks: Tensor, spectrum: Tensor, samples: int) -> Tensor:
        """Multiply the mixture's spectrogram (B, N, F) by ``masks`` and return the waves (B, S, T)."""
        return self.stft.inverse(masks * spectrum.unsqueeze(1), samples)

    @torch.no_grad()
    def separate(self, mixture: Tensor) -> Tensor:
        """Separate one mixture (C, T) of any level, length and channel count into waves (S, C, T).

        The masks come from the mean of the channels and multiply each of them; where that mean is silent and the
        channels are not (they cancel), from the first channel. Silence gives silence.
        """
        channels, samples = mixture.shape
        if samples == 0:
            return mixture.new_zeros(self.sources, channels, 0)
        mid = mixture.mean(0, keepdim=True)  # (1, T)
        if not mid.any():
            mid = mixture[:1]
        spectrum = self.stft.forward(mid * self.level_gain(mid))  # (1, N, F)
        masks = self.masks(self(spectrum), spectrum).expand(channels, -1, -1, -1)  # (C, S, N, F)
        return self.apply_masks(masks, self.stft.forward(mixture), samples).transpose(0, 1)
