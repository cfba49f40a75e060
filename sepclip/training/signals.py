"""What signals ask of a training: to save, or to save and stop."""

import signal
from types import FrameType, TracebackType

from sepclip.errors import EXIT_INTERRUPTED, EXIT_TERMINATED

_STOPS = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: EXIT_TERMINATED}


class Requests:
    """Collects signals while it is entered; the step that is under way is finished whatever they ask.

    Ctrl-C and a termination ask to stop, SIGUSR1, which batch systems send before the time is up, to save and go on. A
    second Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self.exit_code = 0  # of the first signal that asked to stop; 0: none has
        self.save = False

    def __enter__(self) -> "Requests":
        self._before = {number: signal.signal(number, self._take) for number in (*_STOPS, signal.SIGUSR1)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.save = True
        elif self.exit_code and number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            self.exit_code = self.exit_code or _STOPS[signal.Signals(number)]
