"""The exception for mistakes of the user, and the exit codes of all commands."""

import errno

EXIT_USER_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
# parts of the messages, in lower case: torch on a GPU and on a CPU, C++, oneDNN, cuBLAS, Python's threads, the loader
_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate",
    "bad_alloc",
    "bad alloc",
    "could not create a primitive",
    "could not create a memory",
    "alloc_failed",
    "can't start new thread",
    "failed to map segment",
)


class UserError(Exception):
    """The user's data or settings are wrong. The message says what is wrong, where, and what to do next.

    The command line prints it in red without a traceback and exits with 1; a traceback always means a bug.
    """


class Stopped(Exception):
    """A signal stopped the command after its progress was saved; ``exit_code`` says which signal."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out: numpy, torch, CUDA, oneDNN and C++ all say so differently."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError | ImportError) and any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)


def counted(number: int, noun: str) -> str:
    """Return ``"1 file"`` or ``"2 files"``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
