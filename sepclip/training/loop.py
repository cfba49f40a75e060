"""The training loop."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sepclip.config.schema import Config
from sepclip.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, Stopped, UserError
from sepclip.mixing.batches import Batches, ValidationCrops, training_data
from sepclip.mixing.dynamic_voices import Augmentation
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.model.separator import SeparationModel
from sepclip.terminal import say
from sepclip.training import checkpoint
from sepclip.training.diagnosis import NonFinite, Watchdog, memory_told
from sepclip.training.distributed import ALONE, Ranks
from sepclip.training.dynamics import Watch
from sepclip.training.feed import Feed
from sepclip.training.hardware import readers, set_up, workers
from sepclip.training.profiling import VALIDATION, profiling, stage
from sepclip.training.run import DYNAMICS, METRICS, TRACE, Run
from sepclip.training.run_log import RunLog, finite, progress_row, summary
from sepclip.training.signals import Requests
from sepclip.training.state import TrainingState, build_separator, dtype_of, seed_dropout
from sepclip.training.step import mean_loss, take_step
from sepclip.training.validation import validate


def train(run: Run, data: MixtureSet, ranks: Ranks = ALONE, *, profile: bool = False) -> dict[str, Any]:
    """Train a run from where it stands to its last step; returns the summary.

    ``profile`` looks at where the time of a few steps goes. Raises Stopped after Ctrl-C or a termination, with all
    saved, and UserError where training cannot go on.
    """
    with run.alone() if ranks.first else nullcontext(), Requests() as requests, memory_told(run.config):
        training = Training.prepare(run, data, ranks)
        already = training.ended
        if not already:
            _train(training, requests, run.path / TRACE if profile and ranks.first else None)
        return {"already": already, **summary(training.state, run.path / METRICS)}


def _train(training: "Training", requests: Requests, trace: Path | None = None) -> None:
    """Train until the end, or until a signal has asked to stop."""
    run, ranks, state, config = training.run, training.ranks, training.state, training.run.config
    watch = Watch(run.path / DYNAMICS, config.dynamics, state)
    nonfinite, watchdog, clock = NonFinite(run.path, config, ranks), Watchdog(config), Clock(state)
    separator = state.separator.train()
    with (
        training.feed() as feed,  # first: its processes are forked before the screen has a thread
        RunLog(run.path / METRICS if ranks.first else None, training.steps, state.step) as journal,
        profiling(trace) as step_done,
    ):
        while not training.ended:
            seed_dropout(config.seed, state.step, ranks.rank)
            with stage("data"), clock.waiting():
                batch = feed.batch(state.step)
            with watch.step(partial(mean_loss, separator, batch, config)):
                done = take_step(state, batch, config, ranks)
            nonfinite.look(done, batch, state)
            watchdog.look(state, done, *clock.tick())
            stop, save = training.agree(requests, clock)

            validates = training.ended or state.step % training.valid_every == 0
            if validates or state.step % config.train.log_every == 0:
                journal.record(progress_row(state, clock.waited_share()))
            if validates:
                with stage(VALIDATION):
                    scores = validate(state.eval_separator, training.crops, config, state.device, ranks)
                journal.record({"step": state.step, **{name: finite(value) for name, value in scores.items()}})
                if state.note_validation(*scores.values(), by=config.train.best_by):
                    training.save("best")
            journal.advance(state.step)
            if validates or stop or save:
                journal.flush()
                training.save("last", config.train.keep)
                clock.saved()
            step_done()
            if stop and not training.ended:
                raise Stopped(f"saved at step {state.step} of {training.steps}: the same command resumes", stop)


def _told(config: Config, steps: int, separator: SeparationModel) -> str:
    """Return what is to be trained, so that a default that was not meant is seen at once."""
    parameters = sum(one.numel() for one in separator.parameters() if one.requires_grad)
    return (
        f"{steps:,} steps of {config.data.batch_size} excerpts, {config.model.network} with {parameters:,} parameters, "
        f"--loss {config.loss.name} --clip {config.clip}, on {config.device} in {config.precision}"
    )


@dataclass
class Training:
    """What a training works with, and where it ends."""

    run: Run
    ranks: Ranks
    state: TrainingState
    batches: Batches
    crops: ValidationCrops
    steps: int
    valid_every: int
    time_up: bool = False

    @classmethod
    def prepare(cls, run: Run, data: MixtureSet, ranks: Ranks) -> "Training":
        """Put all together, as the last checkpoint left it where there is one."""
        config = run.config
        device = ranks.device(set_up(config))
        if config.dynamics.every is not None and (ranks.size > 1 or config.train.accumulate > 1):
            raise UserError("--dynamics: only for trainings of one process, with train.accumulate=1")
        separator = build_separator(config, data.layout)
        segment, settings = separator.stft.samples(config.data.segment_frames), config.data
        batches = training_data(
            data,
            segment=segment,
            batch_size=settings.batch_size,
            dynamic=settings.dynamic,
            seed=config.seed,
            memory_gib=settings.memory_gib,
            excerpts=settings.excerpts,
            share=ranks.share,
            augmentation=Augmentation(settings.speed, settings.noise_snr_db),
            readers=1 if workers(config) else readers(config),
            shared=workers(config) > 0,
        )
        crops = ValidationCrops(
            data, segment, settings.batch_size, settings.valid_excerpts, ranks.share, readers(config)
        )
        steps = config.train.steps or config.train.epochs * batches.steps_per_epoch
        found = checkpoint.find(run.checkpoint_path("last"))
        if not found:
            run.begin_from(separator)
        state = TrainingState.start(config, separator, device, steps)
        training = cls(run, ranks, state, batches, crops, steps, config.train.valid_every or batches.steps_per_epoch)
        if found:
            checkpoint.load(found, state)
            training.time_up = training._time_is_up()
            if not training.ended:
                say(f"resuming {run.path} at step {state.step} of {steps}")
        else:
            say(f"training {run.path}: {_told(config, steps, separator)}")
        training._require_agreement()
        return training

    @property
    def ended(self) -> bool:
        """Whether the last step is done, the time is up, or validations no longer get better."""
        patience, mine = self.run.config.train.early_stopping, self.state.progress
        return mine.step >= self.steps or self.time_up or (patience is not None and mine.since_best >= patience)

    def feed(self) -> Feed:
        """Return what gives the batches from where the training stands."""
        config, state = self.run.config, self.state
        return Feed(
            self.batches.batch,
            self.steps,
            state.device,
            dtype_of(config),
            first=state.step,
            processes=workers(config),
        )

    def agree(self, requests: Requests, clock: "Clock") -> tuple[int, bool]:
        """Return the exit code of a wish to stop, 0 for none, and whether to save: the same in all processes."""
        due = self.run.config.train.saves_at(self.state.step, clock.since_saved())
        codes = (EXIT_INTERRUPTED, EXIT_TERMINATED)
        flags = [*(requests.exit_code == code for code in codes), requests.save or due, self._time_is_up()]
        interrupted, terminated, save, self.time_up = self.ranks.any(flags)
        requests.save = False
        return next((code for code, set_ in zip(codes, (interrupted, terminated), strict=True) if set_), 0), save

    def save(self, which: str, keep: int = 1) -> None:
        """Save a checkpoint, by the first process, after all agree on what it holds."""
        self._require_agreement()
        if self.ranks.first:
            checkpoint.save(self.run.checkpoint_path(which), self.state, keep)

    def _require_agreement(self) -> None:
        if self.ranks.size > 1:
            weights = sum(parameter.double().abs().sum().item() for parameter in self.state.separator.parameters())
            latest = self.state.recent[-1] if self.state.recent else [0.0, 0.0, 0.0]
            self.ranks.require_same([float(self.state.step), weights, *latest])

    def _time_is_up(self) -> bool:
        most = self.run.config.train.max_minutes
        return most is not None and self.state.progress.seconds >= 60 * most


class Clock:
    """Keeps the time of a training in its state, that since the last checkpoint, and that spent waiting for data."""

    def __init__(self, state: TrainingState):
        self._state, now = state, time.monotonic()
        self._began, self._saved = now - state.progress.seconds, now
        self._waited = 0.0  # for the batch at hand
        self._row_began, self._row_waited = now, 0.0  # since the last row

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as spent waiting."""
        began = time.monotonic()
        yield
        self._waited = time.monotonic() - began
        self._row_waited += self._waited

    def tick(self) -> tuple[float, float]:
        """Take the time at the end of a step; returns the seconds waited for its data, and those since the last."""
        before, self._state.progress.seconds = self._state.progress.seconds, time.monotonic() - self._began
        return self._waited, self._state.progress.seconds - before

    def waited_share(self) -> float:
        """Return the share of the time spent waiting since the last call."""
        now = time.monotonic()
        share = self._row_waited / max(now - self._row_began, 1e-9)
        self._row_began, self._row_waited = now, 0.0
        return share

    def since_saved(self) -> float:
        """Return the seconds since :meth:`saved`."""
        return time.monotonic() - self._saved

    def saved(self) -> None:
        """Note that a checkpoint was saved just now."""
        self._saved = time.monotonic()
