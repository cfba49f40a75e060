"""What a user can be told: one exception for their mistakes, and the exit codes of every command."""

EXIT_USER_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class UserError(Exception):
    """The user's data or settings are wrong. The message says what, where and what to do next.

    The command line prints it in red without a traceback and exits with 1; a traceback always means a bug.
    """


def counted(number: int, noun: str) -> str:
    """Return ``"1 file"`` or ``"2 files"``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
