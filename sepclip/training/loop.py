"""The training loop."""

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Any

import torch

from sepclip import clip
from sepclip.audio.metrics import si_sdr_improvement
from sepclip.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, Stopped, UserError
from sepclip.mixing.augmentation import Augmentation
from sepclip.mixing.dataset import Batch, ValidationCrops, training_data
from sepclip.mixing.mixture import MixtureSet
from sepclip.model.losses import LOSSES
from sepclip.model.separator import Separator
from sepclip.settings import Config
from sepclip.terminal import say, warn
from sepclip.training import checkpoint
from sepclip.training.dynamics import Watch
from sepclip.training.feed import Feed
from sepclip.training.journal import Journal, cut_metrics, finite, last_with
from sepclip.training.profiling import VALIDATION, profiling, stage
from sepclip.training.run import DYNAMICS, METRICS, TRACE, Run
from sepclip.training.state import TrainingState, build_separator

_SHOWN_PARTS = 3  # of the layers or tensors most often clipped, in a row of metrics.jsonl


def compute_loss(separator: Separator, batch: Batch, config: Config) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return the loss (B,) of a batch and what the network gave; spectra are made here, on the batch's device."""
    with stage("STFT"):
        signals = separator.signals(batch.mixture, batch.sources)
    device = signals.mixture.device.type
    with stage("forward"), torch.autocast(device, torch.bfloat16, enabled=config.precision == "bf16"):
        outputs = separator(signals.mixture_wave, signals.mixture)
    with stage("loss"):
        loss = LOSSES[config.loss.name](outputs, signals, config.loss.settings())
    return loss, {"outputs": outputs, "mixture": signals.mixture}


def mean_loss(separator: Separator, batch: Batch, config: Config) -> torch.Tensor:
    """Return the loss of a batch, whose gradient is the one of a training step."""
    return compute_loss(separator, batch, config)[0].mean()


def training_step(state: TrainingState, batch: Batch, config: Config) -> tuple[float, clip.Step]:
    """Do one step; returns the loss of the batch and what the clip rule did."""
    state.optimizer.zero_grad(set_to_none=True)
    loss = mean_loss(state.separator, batch, config)
    with stage("backward"):
        loss.backward()  # type: ignore[no-untyped-call]
    with stage("clip"):
        clipped = state.clip(state.separator.named_parameters())
    with stage("optimizer"):
        state.optimizer.step()
    if config.optimizer.schedule == "cosine":
        state.schedule.step()
    state.step += 1
    return loss.item(), clipped


@torch.no_grad()
def validate(separator: Separator, crops: ValidationCrops, config: Config, device: torch.device) -> dict[str, float]:
    """Return the mean loss and the mean SI-SDR improvement in dB over the validation crops.

    Crops with a silent source have no SI-SDR and do not count (in a fixed order its other sources do); a silent
    estimate counts as -100 dB.
    """
    separator.eval()
    losses, gains = [], []
    for item in crops:
        batch = item.to(device)
        loss, made = compute_loss(separator, batch, config)
        losses.append(loss)
        estimates = separator.estimates(made["outputs"], made["mixture"], batch.mixture.shape[-1])
        fixed = separator.layout.fixed_order
        gains.append(
            si_sdr_improvement(est=estimates, ref=batch.sources, mixture=batch.mixture, fixed_order=fixed)  # (K,)
        )
    separator.train()
    return {
        "valid_loss": torch.cat(losses).mean().item(),
        "valid_si_sdr_improvement": torch.cat(gains).mean().item(),
    }


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect the exit code of the first Ctrl-C or termination; a second Ctrl-C stops at once."""
    asked: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_TERMINATED)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(run: Run, data: MixtureSet, *, profile: bool = False) -> dict[str, Any]:
    """Train a run from where it stands to its last step; returns the summary.

    ``profile`` looks at where the time of a few steps goes. Raises Stopped after Ctrl-C or a termination, with all
    saved, and UserError where training cannot go on.
    """
    with run.alone(), stop_signals() as asked:
        return _train(run, data, asked, run.path / TRACE if profile else None)


def _train(run: Run, data: MixtureSet, asked: list[int], trace: Path | None) -> dict[str, Any]:
    """Train until the last step, or until a signal has ``asked`` to stop."""
    config, device = run.config, torch.device(run.config.device)
    separator = build_separator(config, data.layout)
    settings = config.data
    segment = separator.stft.samples(settings.segment_frames)
    batches = training_data(
        data,
        segment=segment,
        batch_size=settings.batch_size,
        dynamic=settings.dynamic,
        seed=config.seed,
        memory_gib=settings.memory_gib,
        excerpts=settings.excerpts,
        augmentation=Augmentation(settings.speed, settings.noise_snr_db),
    )
    crops = ValidationCrops(data, segment, settings.batch_size, settings.valid_excerpts)
    steps = config.train.steps or config.train.epochs * batches.steps_per_epoch
    valid_every = config.train.valid_every or batches.steps_per_epoch
    state = TrainingState.start(config, separator, device, steps)
    found = checkpoint.find(run.checkpoint_path("last"))
    if found:
        checkpoint.load(found, state)
        if state.step >= steps:
            return {"already": True, **summary(state, run)}
        say(f"resuming {run.path} at step {state.step} of {steps}")
    cut_metrics(run.path / METRICS, state.step)
    watch = Watch(run.path / DYNAMICS, config.dynamics, state)
    separator.train()

    with (
        Journal(run.path / METRICS, steps, state.step) as journal,
        Feed(batches.batch, steps, device, torch.float32) as feed,
        profiling(trace) as step_done,
    ):
        began, saved = time.monotonic() - state.seconds, time.monotonic()
        while state.step < steps:
            with stage("data"):
                batch = feed.batch(state.step)
            with watch.step(partial(mean_loss, separator, batch, config)):
                take_step(state, batch, config)
            state.seconds = time.monotonic() - began
            last = state.step == steps
            at_validation = last or state.step % valid_every == 0
            if last or state.step % config.train.log_every == 0:
                journal.record(progress_row(state))
            if at_validation:
                with stage(VALIDATION):
                    scores = validate(separator, crops, config, device)
                journal.record({"step": state.step, **{name: finite(value) for name, value in scores.items()}})
                if state.note_validation(scores["valid_loss"], scores["valid_si_sdr_improvement"]):
                    checkpoint.save(run.checkpoint_path("best"), state)
            journal.advance(state.step)
            step_done()
            if at_validation or asked or time.monotonic() - saved > config.train.save_every_seconds:
                checkpoint.save(run.checkpoint_path("last"), state)
                saved = time.monotonic()
            if asked and not last:
                raise Stopped(f"saved at step {state.step} of {steps}: the same command resumes", asked[0])
    return {"already": False, **summary(state, run)}


def take_step(state: TrainingState, batch: Batch, config: Config) -> None:
    """Do one step and note in the state what it did; UserError where training cannot go on."""
    try:
        loss, clipped = training_step(state, batch, config)
    except clip.TooManySkipped as error:
        raise UserError(f"training stopped at step {state.step + 1}: {error}; lower the learning rate") from error
    if clipped.skipped and state.clip.skipped_in_a_row == 1:
        warn(f"step {state.step}: skipped, {clipped.skipped}")
    state.recent.append([loss, clipped.norm, clipped.threshold])


def progress_row(state: TrainingState) -> dict[str, Any]:
    """Return the row of ``metrics.jsonl`` over the steps since the last one, and forget them.

    Means of loss and gradient norm, the last threshold, the share of all steps so far that were clipped, and the layers
    or tensors that were most often, where each has its own threshold.
    """
    losses, norms, thresholds = zip(*state.recent, strict=True)
    usable = [norm for norm in norms if math.isfinite(norm)]
    elapsed = state.seconds - state.recent_since
    row: dict[str, Any] = {
        "step": state.step,
        "loss": finite(fmean(losses)),
        "grad_norm": fmean(usable) if usable else None,
        "threshold": finite(thresholds[-1]),
        "clipped_share": state.clip.clipped / state.clip.steps,
        "skipped": state.clip.skipped,
        "learning_rate": state.learning_rate,
        "seconds": round(state.seconds, 3),
        "steps_per_second": round(len(losses) / elapsed, 3) if elapsed > 0 else None,
    }
    shares = state.clip.shares()
    if shares:
        row["most_clipped"] = dict(list(shares.items())[:_SHOWN_PARTS])
    state.recent, state.recent_since = [], state.seconds
    return row


def summary(state: TrainingState, run: Run) -> dict[str, Any]:
    """Return where a run stands, for people and for ``--json``; gradient norm and threshold as last recorded."""
    last = last_with(run.path / METRICS, "grad_norm")
    return {
        "steps": state.step,
        "seconds": round(state.seconds, 1),
        "best_step": state.best_step,
        "best_valid_si_sdr_improvement": state.best_score,
        "clip": repr(state.clip),
        "grad_norm": last.get("grad_norm"),
        "threshold": last.get("threshold"),
        "clipped_share": state.clip.clipped / max(state.clip.steps, 1),
        "skipped_steps": state.clip.skipped,
        "clipped_share_of": state.clip.shares(),
    }
