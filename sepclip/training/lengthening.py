"""The end of a training, and a run that continues after its end as if it had been longer from the start.

Two things of a shorter run are not in the course of a longer one: the validation that ends it, unless one was due, and
the fall of the learning rate with ``hold``. The first changes nothing that a longer run continues from; the checkpoint
before the second is kept as ``hold``, with the best one at that step as ``hold-best``.
"""

from dataclasses import replace
from pathlib import Path

from sepclip.config.schema import Train
from sepclip.terminal import say, warn
from sepclip.training import checkpoint
from sepclip.training.state import EARLY_STOPPING, STEPS, TIME, Progress

BEST, LAST, HOLD, HOLD_BEST = "best", "last", "hold", "hold-best"
COUNTED_BEST = "best-counted"  # the best one before the validation that ended the training, if that was better


def end_reason(progress: Progress, steps: int, settings: Train, *, time_up: bool = False) -> str:
    """Return why a training of ``steps`` steps has ended, or an empty string if it has not."""
    if progress.step >= steps:
        return STEPS
    if settings.early_stopping is not None and progress.since_best >= settings.early_stopping:
        return EARLY_STOPPING
    minutes = settings.max_minutes
    return TIME if time_up or (minutes is not None and progress.seconds >= 60 * minutes) else ""


def return_to_course(checkpoints: Path, steps: int, settings: Train) -> None:
    """Remove from the checkpoints of a run what is not in the course of one of ``steps`` steps.

    A kill at any moment leaves a state from which this can be repeated. An ended run stays as it is.
    """
    last = checkpoint.find(checkpoints / LAST)
    if last is None or end_reason(progress := checkpoint.load_progress(last), steps, settings):
        return
    # first: the run has not ended any more, whatever happens to the files below
    checkpoint.write_progress(last, replace(progress, ended=""))
    best = checkpoint.find(checkpoints / BEST)
    if best is None or checkpoint.load_progress(best).ended in (STEPS, EARLY_STOPPING, TIME):
        checkpoint.copy(checkpoints / COUNTED_BEST, checkpoints / BEST)
    checkpoint.remove(checkpoints / COUNTED_BEST)
    if progress.falls_to in (0, steps):
        return
    hold = checkpoint.find(checkpoints / HOLD)
    if hold is None:
        warn(
            f"{checkpoints / HOLD} is missing: the run continues with weights from a fall of the learning rate over "
            f"{progress.falls_to} steps, and differs from a run of {steps} steps"
        )
        return
    step = checkpoint.load_progress(hold).step
    say(f"continuing from step {step} instead of {progress.step}: from there the learning rate fell")
    checkpoint.drop_later(checkpoints / LAST, step)
    checkpoint.copy(checkpoints / HOLD_BEST, checkpoints / BEST)
    # last, since it says that the rest is done
    checkpoint.copy(checkpoints / HOLD, checkpoints / LAST)


def keep_counted_best(checkpoints: Path) -> None:
    """Keep the best checkpoint, which the validation that ends the training will replace."""
    best = checkpoint.find(checkpoints / BEST)
    if best is not None and checkpoint.load_progress(best).ended not in (STEPS, EARLY_STOPPING, TIME):
        checkpoint.copy(checkpoints / BEST, checkpoints / COUNTED_BEST)
