"""The training loop."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from sepclip.audio.stft import STFT
from sepclip.config.schema import Config
from sepclip.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, Stopped, UserError
from sepclip.mixing.batches import Batches, training_data
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.validation_crops import ValidationCrops
from sepclip.model.separator import SeparationModel
from sepclip.terminal import say, warn
from sepclip.training import checkpoint
from sepclip.training.clock import Clock
from sepclip.training.diagnosis import NonFiniteReporter, ProgressMonitor, out_of_memory_as_user_error
from sepclip.training.distributed import ALONE, Ranks
from sepclip.training.dynamics import DynamicsRecorder
from sepclip.training.feed import Feed
from sepclip.training.hardware import configure_torch, describe_precision, reader_count, worker_count
from sepclip.training.lengthening import (
    BEST,
    HOLD,
    HOLD_BEST,
    LAST,
    end_reason,
    keep_counted_best,
    return_to_course,
)
from sepclip.training.profiling import VALIDATION, profiling, stage
from sepclip.training.run import DYNAMICS, METRICS, TRACE, Run
from sepclip.training.run_log import (
    RunLog,
    TrainingSummary,
    progress_row,
    training_summary,
    validation_row,
    was_validated,
)
from sepclip.training.signals import SignalRequests
from sepclip.training.state import UNKNOWN, TrainingState, build_separator, dtype_of, seed_dropout
from sepclip.training.step import mean_loss, take_step
from sepclip.training.validation import validate
from sepclip.training.watchdog import ZeroGradientWatchdog


class TrainingResult(TrainingSummary):
    """The summary of a training, and whether there was nothing left to train."""

    already: bool


def train(
    run: Run, data: MixtureSet, ranks: Ranks = ALONE, *, profile: bool = False, fresh_clip: bool = False
) -> TrainingResult:
    """Train a run from its last checkpoint, or from the start, to its last step; return the summary.

    ``profile`` measures the stages of a few steps; ``fresh_clip`` drops the history of the clip rule. Raises Stopped
    after Ctrl-C or a termination, with everything saved, and UserError if training cannot continue.
    """
    lock = run.lock() if ranks.first else nullcontext()
    with lock, SignalRequests() as signals, out_of_memory_as_user_error(run.config):
        if ranks.first:
            run.tidy()
        training = Training.prepare(run, data, ranks, fresh_clip=fresh_clip)
        already = training.finished
        if not already:
            _train(training, signals, run.path / TRACE if profile and ranks.first else None)
        # the best checkpoint knows a validation that only ended the training
        best = checkpoint.find(run.checkpoint_path(BEST)) if ranks.first else None
        progress = checkpoint.load_progress(best) if best else training.state.progress
        summary = training_summary(training.state, run.path / METRICS, progress, training.end_reason)
        return {"already": already, **summary}


def _train(training: "Training", signals: SignalRequests, trace: Path | None = None) -> None:
    """Train until the end, or raise Stopped once a signal has requested it; ``trace``: where to write a profile."""
    run, ranks, state, config = training.run, training.ranks, training.state, training.run.config
    recorder = DynamicsRecorder(run.path / DYNAMICS, config.dynamics, state)
    nonfinite, monitor, clock = NonFiniteReporter(run.path, config, ranks), ProgressMonitor(config), Clock(state)
    separator = state.separator.train()
    watchdog = ZeroGradientWatchdog(separator)
    with (
        # must come first: it forks processes, which is unsafe once RunLog's display thread runs
        training.feed() as feed,
        RunLog(run.path / METRICS if ranks.first else None, training.steps, state, training.valid_every) as log,
        profiling(trace) as end_profiled_step,
    ):
        state.progress.ended = ""
        while not training.ended:
            # once: keep the checkpoint before the learning rate falls, from which a longer run continues
            if state.step >= state.schedule.held_steps and not state.progress.falls_to:
                log.flush()
                training.save_before_fall()

            # each step: fetch the batch and seed dropout; both depend only on seed and step: a resumed run repeats them
            seed_dropout(config.seed, state.step, ranks.rank)
            with stage("data"), clock.waiting():
                batch = feed.batch(state.step)

            # each step: loss, gradient, clipping, update; and, every `dynamics.every` steps, the smoothness of the loss
            with recorder.record_step(partial(mean_loss, separator, batch, config)):
                result = take_step(state, batch, config, ranks)

            # each step: report what goes wrong
            nonfinite.check(result, batch, state)
            if not result.skip_reason:
                watchdog.note()
            monitor.check(state, result, *clock.end_step())

            # each step: agree with the other processes whether to stop, save or end
            action = training.agree(signals, clock)

            # every `train.log_every` steps, and before each validation: a row of means since the last row
            validates = state.step % training.valid_every == 0
            if validates or state.step % config.train.log_every == 0:
                log.record(progress_row(state, clock.waited_share()))
                watchdog.report()

            # every `train.valid_every` steps: validate, adapt the learning rate, keep the best weights
            if validates:
                loss, gain = training.validate(log)
                if state.note_validation(loss, gain, by=config.train.best_by):
                    training.save(BEST)
            log.advance(state.step)

            # after each validation, every `train.save_every`, and on a signal: save, the rows of the log first
            if (validates or action.exit_code or action.save) and not training.ended:
                log.flush()
                training.save(LAST, config.train.keep)
                clock.note_save()
            end_profiled_step()
            if action.exit_code and not training.ended:
                raise Stopped(
                    f"saved at step {state.step} of {training.steps}: the same command resumes", action.exit_code
                )
        _finish(training, log, clock)


def _finish(training: "Training", log: RunLog, clock: Clock) -> None:
    """Validate unless the last step did, and save the end of a training; a longer run continues as without this."""
    state, config, ranks = training.state, training.run.config, training.ranks
    counted, recent = state.progress, (state.recent, state.recent_since)
    if state.step % training.valid_every:
        if state.recent:
            log.record(progress_row(state, clock.waited_share()))
        loss, gain = training.validate(log)
        best = state.progress_if_best(loss, gain, by=config.train.best_by)
        if best is not None:
            if ranks.first:
                keep_counted_best(training.run.checkpoints)
            state.progress = replace(best, ended=training.end_reason)
            training.save(BEST)
    # plateau, early stopping and the next row of the log do not see this validation
    state.progress, (state.recent, state.recent_since) = counted, recent
    state.progress.ended = training.end_reason
    log.flush()
    training.save(LAST, config.train.keep)


def _description(config: Config, steps: int, separator: SeparationModel, device: torch.device) -> str:
    """Return a line about what will be trained, so that an unintended default is noticed at once."""
    parameters = sum(parameter.numel() for parameter in separator.parameters() if parameter.requires_grad)
    return (
        f"{steps:,} steps of {config.data.batch_size} excerpts, {config.model.network} with {parameters:,} parameters, "
        f"--loss {config.loss.name} --clip {config.clip}, on {config.device} in "
        f"{describe_precision(config.precision, separator, device)}"
    )


@dataclass(frozen=True)
class StepAction:
    """What all processes do after a step."""

    exit_code: int  # with which to stop; 0: continue
    save: bool


@dataclass
class Training:
    """The run, state and data of a training, and where it ends."""

    run: Run
    ranks: Ranks
    state: TrainingState
    batches: Batches
    crops: ValidationCrops
    steps: int
    valid_every: int
    time_up: bool = False
    finished: bool = False  # ended, with its last validation, before this command

    @classmethod
    def prepare(cls, run: Run, data: MixtureSet, ranks: Ranks, *, fresh_clip: bool = False) -> "Training":
        """Build the data and the state of a training, and load its last checkpoint if there is one.

        Raises UserError if the settings, the data or the checkpoint do not allow it to train.
        """
        config = run.config
        device = ranks.device(configure_torch(config))
        if config.dynamics.every is not None and (ranks.size > 1 or config.train.accumulate > 1):
            raise UserError("--dynamics: only for trainings of one process, with train.accumulate=1")
        separator = build_separator(config, data.layout)
        batches, crops = _open_data(config, data, separator.stft, ranks)
        steps = config.train.steps or config.train.epochs * batches.steps_per_epoch
        valid_every = config.train.valid_every or batches.steps_per_epoch
        # before the checkpoint is read: what a shorter run left that a longer one does not have
        if ranks.first:
            return_to_course(run.checkpoints, steps, config.train)
        ranks.any([False])  # a barrier
        # load another run's weights first: the state copies them as the start of its weight average
        last = checkpoint.find(run.checkpoint_path(LAST))
        if not last:
            run.load_initial_weights(separator)
        state = TrainingState.start(config, separator, device, steps)
        training = cls(run, ranks, state, batches, crops, steps, valid_every)
        if last:
            checkpoint.load(last, state, fresh_clip=fresh_clip)
            training.time_up = training._time_is_up()
            training.finished = training.ended and (
                was_validated(run.path / METRICS, state.step)
                if state.progress.ended == UNKNOWN
                else bool(state.progress.ended)
            )
            training._say_how_it_continues()
        else:
            say(f"training {run.path}: {_description(config, steps, separator, device)}")
        training._require_agreement()
        return training

    @property
    def ended(self) -> bool:
        """Whether the last step is finished, the time is up, or validations no longer improve."""
        return bool(self.end_reason)

    @property
    def end_reason(self) -> str:
        """Why the training has ended; empty if it has not."""
        return end_reason(self.state.progress, self.steps, self.run.config.train, time_up=self.time_up)

    def _say_how_it_continues(self) -> None:
        """Print where a run resumes, or that it has more steps than its configuration says."""
        state = self.state
        if not self.ended:
            say(f"resuming {self.run.path} at step {state.step} of {self.steps}")
            if state.step > state.schedule.held_steps and not state.progress.falls_to:
                held = state.schedule.held_steps
                warn(
                    f"the learning rate falls from step {state.step} on, not {held}: the run differs from one that had "
                    f"{self.steps} steps from the start"
                )
        elif state.step > self.steps:
            say(f"{self.run.path} has {state.step} steps already, more than {self.steps}: it ends with them")

    def feed(self) -> Feed:
        """Return the feed of batches that starts at the next step."""
        config, state = self.run.config, self.state
        return Feed(
            self.batches.batch,
            self.steps,
            state.device,
            dtype_of(config),
            first=state.step,
            processes=worker_count(config),
            longest=self.batches.longest,
        )

    def agree(self, signals: SignalRequests, clock: Clock) -> StepAction:
        """Return what was requested in any process, the same for all; also note whether the time is up.

        The clocks of the processes differ, and a signal may reach only one of them. A process that stopped on its own
        would leave the others hanging in the next all-reduce.
        """
        due = self.run.config.train.saves_at(self.state.step, clock.since_save())
        flags = {
            "interrupted": signals.exit_code == EXIT_INTERRUPTED,
            "terminated": signals.exit_code == EXIT_TERMINATED,
            "save": signals.save or due,
            "time_up": self._time_is_up(),
        }
        agreed = dict(zip(flags, self.ranks.any(list(flags.values())), strict=True))
        signals.save = False
        self.time_up = agreed["time_up"]
        exit_code = EXIT_INTERRUPTED if agreed["interrupted"] else EXIT_TERMINATED if agreed["terminated"] else 0
        return StepAction(exit_code, agreed["save"])

    def validate(self, log: RunLog) -> tuple[float, float]:
        """Validate the weights and record the scores; return the loss and the SI-SDR improvement in dB."""
        state = self.state
        with stage(VALIDATION):
            scores = validate(state.eval_separator, self.crops, self.run.config, state.device, self.ranks)
        log.record(validation_row(state.step, scores))
        return scores["valid_loss"], scores["valid_si_sdr_improvement"]

    def save(self, which: str, keep: int = 1) -> None:
        """Save a checkpoint from the first process, after checking that the state of all processes is the same."""
        self._require_agreement()
        if self.ranks.first:
            checkpoint.save(self.run.checkpoint_path(which), self.state, keep)

    def save_before_fall(self) -> None:
        """Save the checkpoint from which a longer run continues, and the best one at this step."""
        if self.ranks.first:
            checkpoint.copy(self.run.checkpoint_path(BEST), self.run.checkpoint_path(HOLD_BEST))
        self.save(HOLD)
        self.state.progress.falls_to = self.steps

    def _require_agreement(self) -> None:
        """Raise UserError if step, sum of the weights or the last loss, norm and threshold differ between processes."""
        if self.ranks.size > 1:
            weights = sum(parameter.double().abs().sum().item() for parameter in self.state.separator.parameters())
            latest = self.state.recent[-1] if self.state.recent else [0.0, 0.0, 0.0]
            self.ranks.require_same([float(self.state.step), weights, *latest])

    def _time_is_up(self) -> bool:
        max_minutes = self.run.config.train.max_minutes
        return max_minutes is not None and self.state.progress.seconds >= 60 * max_minutes


def _open_data(config: Config, data: MixtureSet, transform: STFT, ranks: Ranks) -> tuple[Batches, ValidationCrops]:
    """Return the batches to train on and the crops to validate on; ``transform`` says how long a frame is."""
    segment = transform.samples(config.data.segment_frames)
    settings, readers, workers = config.data, reader_count(config), worker_count(config)
    batches = training_data(
        data,
        segment=segment,
        batch_size=settings.batch_size,
        dynamic=settings.dynamic,
        seed=config.seed,
        memory_gib=settings.memory_gib,
        excerpts=settings.excerpts,
        share=ranks.share,
        augmentation=settings.augmentation(),
        readers=1 if workers else readers,  # worker processes already read in parallel
        shared_memory=workers > 0,
        segments=[(transform.samples(frames), share) for frames, share in settings.segments or ()],
    )
    crops = ValidationCrops(data, segment, settings.batch_size, settings.valid_excerpts, ranks.share, readers)
    return batches, crops
