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
from sepclip.training.profiling import stage
from sepclip.training.state import TrainingState

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}  # precisions that are autocast's
_MOST_REFUSED = 100  # in a row, as of a clip rule


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
class Done:
    """What a step did: the loss of every excerpt of all processes, what the clip rule did, why it was not done."""

    losses: list[float]
    clipped: clip.Step
    refused: str = ""

    @property
    def finite(self) -> bool:
        """Whether loss and gradient were."""
        return math.isfinite(fmean(self.losses)) and math.isfinite(self.clipped.norm)


def take_step(state: TrainingState, batch: Batch, config: Config, ranks: Ranks = ALONE) -> Done:
    """Do one step and note in the state what it did; UserError where training cannot go on.

    A step that is refused leaves weights, moments and running statistics as they were.
    """
    before = [buffer.clone() for buffer in state.separator.buffers()]
    for group in state.optimizer.param_groups:
        group["lr"] = state.learning_rate
    losses = _gradient(state, batch, config, ranks)
    with stage("clip"):
        state.scaler.unscale_(state.optimizer)
        done = _clip(state, losses, config)
    with stage("optimizer"):
        state.scaler.step(state.optimizer)
        state.scaler.update()
    if done.refused:
        for buffer, value in zip(state.separator.buffers(), before, strict=True):
            buffer.copy_(value)
    state.progress.step += 1
    if state.average is not None:
        state.average.update(state.separator, state.step)
    state.recent.append([fmean(done.losses), done.clipped.norm, done.clipped.threshold])
    return done


def _gradient(state: TrainingState, batch: Batch, config: Config, ranks: Ranks) -> Tensor:
    """Leave the gradient of the mean loss over all excerpts of the step in ``grad``; return their losses (B,)."""
    state.optimizer.zero_grad(set_to_none=True)
    parts = batch.split(config.train.accumulate)
    if len(parts) > 1 or ranks.size > 1:
        _share_statistics(state.separator, parts, ranks, config.train.accumulate)
    losses = torch.zeros(batch.total or len(batch.mixture), device=batch.mixture.device, dtype=batch.mixture.dtype)
    for part in parts:
        loss = compute_loss(state.separator, part, config).loss
        mean = loss.mean() if part.share == 1 else loss.mean() * part.share
        with stage("backward"):
            state.scaler.scale(mean).backward()  # type: ignore[no-untyped-call]
        losses[part.first : part.first + len(loss)] = loss.detach()
    ranks.add_up([p.grad for p in state.separator.parameters() if p.grad is not None] + [losses])
    return losses


def _share_statistics(separator: SeparationModel, parts: list[Batch], ranks: Ranks, most: int) -> None:
    """Let every part of the step be normalised by the statistics of the whole; ``most``: parts of a process."""
    found = [separator.input_statistics(part.mixture) for part in parts]
    own = [statistics for statistics in found if statistics is not None]
    if own:
        if ranks.size > 1:  # those of a process with fewer excerpts than parts: all must gather alike
            own += [torch.zeros_like(own[0])] * (most - len(own))
        separator.use_input_statistics(ranks.gather(torch.stack(own)))


def _clip(state: TrainingState, losses: Tensor, config: Config) -> Done:
    """Clip the gradient, and drop it where the step is not to be done."""
    try:
        clipped = state.clip(state.separator.named_parameters())
    except clip.TooManySkipped as error:
        raise UserError(f"training stopped at step {state.step + 1}: {error}; lower the learning rate") from error
    found: list[float] = losses.tolist()  # after the rule, which has waited for the device already
    most, refused = config.train.skip_norm, clipped.skipped
    if not refused and not math.isfinite(fmean(found)):
        refused = "loss is not finite"
    elif not refused and most is not None and clipped.norm > most:
        refused = f"gradient norm {clipped.norm:.3g} is above train.skip_norm={most:g}"
    mine = state.progress
    if not refused or clipped.skipped:
        mine.refused_in_a_row = 0
    else:
        mine.refused, mine.refused_in_a_row = mine.refused + 1, mine.refused_in_a_row + 1
        for parameter in state.separator.parameters():
            parameter.grad = None
        if mine.refused_in_a_row >= _MOST_REFUSED:
            raise UserError(f"training stopped at step {state.step + 1}: {_MOST_REFUSED} steps in a row: {refused}")
    if refused and state.clip.skipped_in_a_row + mine.refused_in_a_row == 1:
        warn(f"step {state.step + 1}: skipped, {refused}")
    return Done(found, clipped, refused)
