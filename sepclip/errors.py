"""The exception for mistakes of the user, and the exit codes of all commands."""

EXIT_USER_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
# in lower case: CUDA and its driver, cuBLAS, cuDNN and cuFFT; then the allocators of torch, C++ and oneDNN on a CPU
_OUT_OF_MEMORY = (
    "out of memory",
    "status_alloc_failed",
    "cufft_alloc_failed",
    "can't allocate memory",
    "not enough memory",
    "bad alloc",
    "bad_alloc",
    "could not create a memory",
    "cannot allocate memory",
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
    """Return whether an error of Python, torch or a library of a GPU says that there is not enough memory."""
    # by the message, because only some of torch's errors have a type of their own. "memory" alone is not enough: an
    # illegal memory access of a GPU is a bug, and its context cannot be used any more
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(words in message for words in _OUT_OF_MEMORY)


def counted(number: int, noun: str) -> str:
    """Return ``"1 file"`` or ``"2 files"``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
