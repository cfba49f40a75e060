"""One training step: loss, gradient, clipping, and the optimizer's move."""

import math
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from sepclip import clip
from sepclip.config.schema import Config
from sepclip.errors import UserError
from sepclip.mixing.batches import Batch
from sepclip.model.losses import LOSSES
from sepclip.model.network_base import NetworkOutputs
from sepclip.model.separator import SeparationModel
from sepclip.terminal import warn
from sepclip.training.distributed import ALONE, Ranks
from sepclip.training.host_copy import HostCopy
from sepclip.training.profiling import stage
from sepclip.training.state import TrainingState

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}  # precisions that are left to autocast
_MOST_SKIPPED = 100  # in a row, the same limit as that of the clip rules


@dataclass(frozen=True)
class ForwardResult:
    """The loss (B,) of a batch, the outputs of the network, and the mixtures' spectra (B, N, F) at its level."""

    loss: Tensor
    outputs: NetworkOutputs
    spectrum: Tensor


def compute_loss(separator: SeparationModel, batch: Batch, config: Config) -> ForwardResult:
    """Run the network on a batch and compute its loss; spectra are made here, on the batch's device."""
    with stage("STFT"):
        signals = separator.signals(batch.mixture, batch.sources)
    half = _HALF.get(config.precision)
    with stage("forward"), torch.autocast(signals.mixture.device.type, half, enabled=half is not None):
        outputs = separator(signals.mixture_wave, signals.mixture, signals.magnitude)
    with stage("loss"):
        loss = LOSSES[config.loss.name](outputs, signals, config.loss)
    return ForwardResult(loss, outputs, signals.mixture)


def mean_loss(separator: SeparationModel, batch: Batch, config: Config) -> Tensor:
    """Return the loss of a batch, whose gradient is the one of a training step."""
    return compute_loss(separator, batch, config).loss.mean()


@dataclass(frozen=True)
class StepResult:
    """The result of one step: the loss of each excerpt of all processes, and what the clip rule did."""

    losses: list[float]
    clipped: clip.Step
    skip_reason: str = ""  # why the step was skipped; empty if it was not

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are finite."""
        return math.isfinite(fmean(self.losses)) and math.isfinite(self.clipped.norm)


def take_step(state: TrainingState, batch: Batch, config: Config, ranks: Ranks = ALONE) -> StepResult:
    """Take one training step, record it in the state and return its result.

    A skipped step leaves weights, moments and running statistics as they were. Raises UserError if training cannot
    continue.
    """
    # copied at every step, since only the gradient shows whether the step is skipped; running statistics are small
    buffers_before = [buffer.clone() for buffer in state.separator.buffers()]
    # a function of the step number, which a skipped step advances as well
    for group in state.optimizer.param_groups:
        group["lr"] = state.learning_rate
    losses = _gradient(state, batch, config, ranks)  # (B,)
    # clip the true gradient: under float16 it is scaled until here
    with stage("clip"):
        state.scaler.unscale_(state.optimizer)
        result = _clip(state, losses, config)  # every rank sees the whole gradient: same norm, same history
    # of a skipped step no gradient is left, and the optimizer moves nothing
    with stage("optimizer"):
        state.scaler.step(state.optimizer)
        state.scaler.update()
    if result.skip_reason:
        for buffer, value in zip(state.separator.buffers(), buffers_before, strict=True):
            buffer.copy_(value)
    state.progress.step += 1
    if state.average is not None:
        state.average.update(state.separator, state.step)  # n counts skipped steps too, as the schedule does
    state.recent.append([fmean(result.losses), result.clipped.norm, result.clipped.threshold])
    return result


def _gradient(state: TrainingState, batch: Batch, config: Config, ranks: Ranks) -> Tensor:
    """Leave the gradient of the mean loss over all excerpts of the step in ``grad``; return their losses (B,)."""
    state.optimizer.zero_grad(set_to_none=True)
    parts = batch.split(config.train.accumulate)
    if len(parts) > 1 or ranks.size > 1:
        _share_statistics(state.separator, parts, ranks, config.train.accumulate)
    # each process fills in the losses of its own excerpts, and the sum over all of them completes the vector
    losses = torch.zeros(batch.total or len(batch.mixture), device=batch.mixture.device, dtype=batch.mixture.dtype)
    for part in parts:
        loss = compute_loss(state.separator, part, config).loss
        # weighted by the part's fraction of the excerpts, the gradients of all parts add up to that of the mean
        mean = loss.mean() if part.fraction == 1 else loss.mean() * part.fraction
        with stage("backward"):
            state.scaler.scale(mean).backward()  # type: ignore[no-untyped-call]
        losses[part.first : part.first + len(loss)] = loss.detach()
    # the losses travel with the gradients; parameters without one are the same on all ranks
    ranks.sum_tensors([p.grad for p in state.separator.parameters() if p.grad is not None] + [losses])
    return losses


def _share_statistics(separator: SeparationModel, parts: list[Batch], ranks: Ranks, most: int) -> None:
    """Let every part of the step be normalised by the statistics of the whole; ``most``: parts of a process."""
    found = [separator.input_statistics(part.mixture) for part in parts]
    own = [statistics for statistics in found if statistics is not None]
    if own:
        if ranks.size > 1:  # those of a process with fewer excerpts than parts: all must gather alike
            own += [torch.zeros_like(own[0])] * (most - len(own))
        separator.use_input_statistics(ranks.gather(torch.stack(own)))


def _clip(state: TrainingState, losses: Tensor, config: Config) -> StepResult:
    """Clip the gradient, or drop it if the step must be skipped; UserError after too many skipped steps in a row."""
    # started before the rule, whose wait for the norms is the only one of a step: the losses arrive with them
    losses_on_host = HostCopy(losses)
    try:
        clipped = state.clip(state.separator.named_parameters())
    except clip.TooManySkipped as error:
        raise UserError(f"training stopped at step {state.step + 1}: {error}; lower the learning rate") from error
    loss_values = losses_on_host.tolist()
    skip_reason = clipped.skipped or _refusal(fmean(loss_values), clipped.norm, config.train.skip_norm)
    refused = bool(skip_reason) and not clipped.skipped
    state.count_refused(refused)
    # the rule drops the gradient of the steps that it skips; do the same here
    if refused:
        for parameter in state.separator.parameters():
            parameter.grad = None
        if state.skipped_in_a_row >= _MOST_SKIPPED:
            count = state.skipped_in_a_row
            raise UserError(
                f"training stopped at step {state.step + 1}: {count} steps in a row were skipped: {skip_reason}"
            )
    if skip_reason and state.skipped_in_a_row == 1:  # a warning for the first of a series only
        warn(f"step {state.step + 1}: skipped, {skip_reason}")
    return StepResult(loss_values, clipped, skip_reason)


def _refusal(loss: float, norm: float, skip_norm: float | None) -> str:
    """Return why a step must be skipped although the clip rule accepts its gradient; empty if it need not be."""
    if not math.isfinite(loss):
        return "loss is not finite"
    if skip_norm is not None and norm > skip_norm:
        return f"gradient norm {norm:.3g} is above train.skip_norm={skip_norm:g}"
    return ""
