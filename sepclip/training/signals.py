"""Signals during a training: requests to save, or to save and stop."""

import os
import signal
from types import FrameType, TracebackType

from sepclip.errors import EXIT_INTERRUPTED, EXIT_TERMINATED

_STOPS = {
    signal.SIGINT: EXIT_INTERRUPTED,
    signal.SIGTERM: EXIT_TERMINATED,
    signal.SIGHUP: EXIT_TERMINATED,  # the terminal was closed, or the connection to it lost
}


def hangup_is_ignored() -> bool:
    """Return whether SIGHUP is ignored, as nohup requests for the programs that it starts."""
    return signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def discard_output_of_closed_terminals(streams: list[int]) -> None:
    """Redirect those of the ``streams``, which were terminals, that have been closed: writing to them is an error."""
    for stream in streams:
        if not os.isatty(stream):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


class SignalRequests:
    """Records signals while it is entered, so that the current step is always finished first.

    Ctrl-C, SIGTERM and SIGHUP (unless nohup ignores it) request a stop; SIGUSR1, which batch systems send before the
    time limit, requests a checkpoint without a stop. A second Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self.exit_code = 0  # of the first signal that requested a stop; 0 if there was none
        self.save = False

    def __enter__(self) -> "SignalRequests":
        # handlers only set flags: saving inside of one could interrupt a step halfway through its update
        numbers = [number for number in (*_STOPS, signal.SIGUSR1) if number != signal.SIGHUP or not hangup_is_ignored()]
        self._handlers_before = {number: signal.signal(number, self._record) for number in numbers}
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)

    def _record(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            discard_output_of_closed_terminals(self._terminals)
        if number == signal.SIGUSR1:
            self.save = True
        # a step can take many seconds on a busy CPU; the price of not waiting is the steps since the last checkpoint
        elif self.exit_code and number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            self.exit_code = self.exit_code or _STOPS[signal.Signals(number)]  # a repeated SIGTERM changes nothing
