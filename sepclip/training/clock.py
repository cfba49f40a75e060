"""The clock of a training: its total time, the time since the last checkpoint, and the time spent waiting for data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sepclip.training.state import TrainingState


class Clock:
    """Measures the time of a training and keeps its total in the state, so that a resumed run continues to count.

    All times are in seconds. Call :meth:`end_step` after each step.
    """

    def __init__(self, state: TrainingState):
        # monotonic: a correction of the system clock must not end a run with train.max_minutes
        self._state, now = state, time.monotonic()
        # as if the run had started so long ago: the pause between two commands does not count
        self._start, self._last_save = now - state.progress.seconds, now
        self._step_wait = 0.0  # for the batch of the current step
        self._row_start, self._row_wait = now, 0.0  # since the last row of metrics

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time spent in the block as waiting for data."""
        start = time.monotonic()
        yield
        self._step_wait = time.monotonic() - start
        self._row_wait += self._step_wait

    def end_step(self) -> tuple[float, float]:
        """Update the total time; return the time this step waited for its data, and the time since the last step."""
        # from one step to the next, so that logging, validation and saving count as training time too
        previous, self._state.progress.seconds = self._state.progress.seconds, time.monotonic() - self._start
        return self._step_wait, self._state.progress.seconds - previous

    def waited_share(self) -> float:
        """Return the share of the time since the last call that was spent waiting for data, from 0 to 1."""
        now = time.monotonic()
        share = self._row_wait / max(now - self._row_start, 1e-9)  # two calls may fall into one tick
        self._row_start, self._row_wait = now, 0.0
        return share

    def since_save(self) -> float:
        """Return the time since the last call of :meth:`note_save`, or since the start."""
        return time.monotonic() - self._last_save

    def note_save(self) -> None:
        """Note that a checkpoint was saved just now."""
        self._last_save = time.monotonic()
