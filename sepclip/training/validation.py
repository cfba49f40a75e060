"""The validation of a separator in training: mean loss and SI-SDR improvement over fixed excerpts."""

import torch

from sepclip.audio.metrics import pairwise_si_sdr, si_sdr
from sepclip.audio.permutation import best_permutation
from sepclip.mixing.dataset import ValidationCrops
from sepclip.model.separator import Separator
from sepclip.settings import Config
from sepclip.training.distributed import ALONE, Ranks
from sepclip.training.state import dtype_of
from sepclip.training.step import compute_loss


@torch.no_grad()
def validate(
    separator: Separator, crops: ValidationCrops, config: Config, device: torch.device, ranks: Ranks = ALONE
) -> dict[str, float]:
    """Return the mean loss and the mean SI-SDR improvement in dB over the validation crops of all processes.

    Crops with a silent source have no SI-SDR and do not count; a silent estimate counts as -100 dB.
    """
    training = separator.training
    separator.eval()
    # every process fills in its own places, so that the sums are the same for any number of them
    found = torch.zeros(3, len(crops.recipes), dtype=torch.float64)  # loss, improvement, whether it has one
    for item in crops:
        batch = item.to(device, dtype_of(config))
        loss, made = compute_loss(separator, batch, config)
        estimates = separator.estimates(made["outputs"], made["mixture"], batch.mixture.shape[-1])
        pairwise = pairwise_si_sdr(est=estimates, ref=batch.sources)  # (B, est, ref)
        usable = ~(batch.sources == batch.sources[..., :1]).all(-1).any(-1)  # (B,)
        best, _ = best_permutation(pairwise.nan_to_num(-100).clamp(-100, 100), maximise=True)
        before = si_sdr(est=batch.mixture.unsqueeze(1).expand_as(batch.sources), ref=batch.sources)  # (B, S)
        gains = best - before.clamp(-100, 100).mean(-1)  # (B,)
        rows = torch.stack([loss, torch.where(usable, gains, torch.zeros_like(gains)), usable.to(loss.dtype)])
        found[:, batch.first : batch.first + len(loss)] = rows.cpu()
    separator.train(training)
    ranks.add_up([found])
    loss_sum, gain_sum, count = found.sum(1).tolist()
    return {
        "valid_loss": loss_sum / len(crops.recipes),
        "valid_si_sdr_improvement": gain_sum / count if count else float("nan"),
    }
