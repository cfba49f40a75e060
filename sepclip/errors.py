"""The exception for mistakes of the user, and the exit codes of all commands."""

EXIT_USER_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class UserError(Exception):
    """The user's data or settings are wrong. The message says what is wrong, where, and what to do next.

    The command line prints it in red without a traceback and exits with 1; a traceback always means a bug.
    """


class Stopped(Exception):
    """A signal stopped the command after its progress was saved; ``exit_code`` says which signal."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def counted(number: int, noun: str) -> str:
    """Return ``"1 file"`` or ``"2 files"``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
