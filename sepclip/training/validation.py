"""Validation during training: the mean loss and SI-SDR improvement over fixed excerpts."""

from typing import TypedDict

import torch

from sepclip.audio.si_sdr import si_sdr_improvement
from sepclip.config.schema import Config
from sepclip.mixing.validation_crops import ValidationCrops
from sepclip.model.separator import SeparationModel
from sepclip.training.distributed import ALONE, Ranks
from sepclip.training.state import dtype_of
from sepclip.training.step import compute_loss


class ValidationScores(TypedDict):
    """The means over all validation excerpts, under their names in ``metrics.jsonl``; they may be NaN."""

    valid_loss: float
    valid_si_sdr_improvement: float  # dB


@torch.no_grad()
def validate(
    separator: SeparationModel, crops: ValidationCrops, config: Config, device: torch.device, ranks: Ranks = ALONE
) -> ValidationScores:
    """Return the mean loss and the mean SI-SDR improvement in dB over the validation crops of all processes.

    Crops with a silent source have no SI-SDR and are left out (in a fixed order only that source is); a silent estimate
    counts as -100 dB.
    """
    # the averaged separator is in eval mode anyway, the other one returns to training below
    training = separator.training
    separator.eval()
    # every process fills in the places of its own batches, so that the sums are equal for any number of processes
    found = torch.zeros(3, crops.total, dtype=torch.float64)  # sums of loss and improvement, count of the latter
    for item in crops:
        batch = item.to(device, dtype_of(config))
        result = compute_loss(separator, batch, config)
        estimates = separator.estimates(result.outputs, result.spectrum, batch.mixture.shape[-1])
        fixed = separator.layout.fixed_order
        gains = si_sdr_improvement(est=estimates, ref=batch.sources, mixture=batch.mixture, fixed_order=fixed)  # (K,)
        found[:, batch.first] = torch.tensor([result.loss.sum().item(), gains.sum().item(), len(gains)])
    separator.train(training)
    ranks.sum_tensors([found])
    loss_sum, gain_sum, count = found.sum(1).tolist()
    return {
        "valid_loss": loss_sum / crops.total,
        "valid_si_sdr_improvement": gain_sum / count if count else float("nan"),
    }
