"""Signals during a training: requests to save, or to save and stop."""

import signal
from types import FrameType, TracebackType

from sepclip.errors import EXIT_INTERRUPTED, EXIT_TERMINATED

_STOPS = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: EXIT_TERMINATED}


class SignalRequests:
    """Records signals while it is entered, so that the current step is always finished first.

    Ctrl-C and SIGTERM request a stop; SIGUSR1, which batch systems send before the time limit, requests a checkpoint
    without a stop. A second Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self.exit_code = 0  # of the first signal that requested a stop; 0 if there was none
        self.save = False

    def __enter__(self) -> "SignalRequests":
        # handlers only set flags: saving inside of one could interrupt a step halfway through its update
        self._handlers_before = {number: signal.signal(number, self._record) for number in (*_STOPS, signal.SIGUSR1)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)

    def _record(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.save = True
        # a step can take many seconds on a busy CPU; the price of not waiting is the steps since the last checkpoint
        elif self.exit_code and number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            self.exit_code = self.exit_code or _STOPS[signal.Signals(number)]  # a repeated SIGTERM changes nothing
