import errno

import pytest
import torch

from sepclip.cli import _exit_code
from sepclip.errors import EXIT_USER_ERROR, UserError, is_out_of_memory

ERRORS = [
    MemoryError(),
    MemoryError("std::bad_alloc"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("could not create a primitive"),
    RuntimeError("could not create a primitive descriptor for an LSTM forward propagation primitive"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("can't start new thread"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_out_of_memory_is_one_line_in_every_command(error, capsys):
    def run():
        raise error

    assert is_out_of_memory(error)
    assert _exit_code(run) == EXIT_USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory: ")


@pytest.mark.parametrize(
    "error", [RuntimeError("shape '[3]' is invalid"), ImportError("no module"), ValueError("memory")]
)
def test_other_errors_stay_tracebacks(error):
    def run():
        raise error

    assert not is_out_of_memory(error)
    with pytest.raises(type(error)):
        _exit_code(run)


def test_a_real_allocation_that_fails_is_recognised():
    with pytest.raises((MemoryError, RuntimeError)) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


def test_mistakes_of_the_user_keep_their_words(capsys):
    def run():
        raise UserError("not enough memory of names")

    assert _exit_code(run) == EXIT_USER_ERROR
    assert "error: not enough memory of names" in capsys.readouterr().err


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes.",
        "std::bad_alloc",
        "could not create a memory object",
    ],
)
def test_messages_about_memory_are_recognised(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))


def test_other_errors_are_not_out_of_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(RuntimeError("pin_memory thread exited unexpectedly"))
