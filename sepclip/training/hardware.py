"""Where and how a run computes: device, precision, threads, allocator; ``auto`` is resolved once, at its start."""

import os
import re
import sys

import torch

from sepclip import startup
from sepclip.config.schema import DEVICE, Config
from sepclip.errors import UserError
from sepclip.parallel import cores

AUTOMATIC = ("device", "precision", "threads", "allocator")  # keys that may be "auto"

_MOST_READERS = 8  # threads or processes
_AMPERE = (8, 0)  # compute capability from which on GPUs have TF32 and bfloat16


def resolve_device(name: str) -> torch.device:
    """Return the device of ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; UserError where it is not there."""
    if name.startswith("mps"):
        raise UserError(
            f"--device {name}: not supported, for Apple's GPUs have no float64 and lack operations on complex spectra; "
            f"use --device cpu"
        )
    if not re.fullmatch(DEVICE, name):
        raise UserError(f"--device {name}: choose auto, cpu, cuda or cuda:N")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            found = f"{count} CUDA device{'s' * (count != 1)}" if count else "no CUDA device, or a CPU build of it"
            raise UserError(f"--device {name}: torch finds {found}; use --device cpu")
    return device


def runs_bf16() -> bool:
    """Whether recurrent layers run in bfloat16 on this processor, be it emulated: oneDNN refuses without AVX512."""
    with_mkldnn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return not with_mkldnn or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def resolve_precision(name: str, device: torch.device) -> str:
    """Return a precision by name; ``auto`` is bf16 where the device computes in it and does not just emulate it.

    Raises UserError for one that the device does not have.
    """
    if name == "fp16" and device.type == "cpu":
        raise UserError("precision fp16: processors do not train in it; use bf16 or fp32")
    if name == "bf16" and device.type == "cpu" and not runs_bf16():
        raise UserError("precision bf16: this processor has no LSTM in it (it takes AVX512); use fp32 or auto")
    if name == "tf32" and (device.type == "cpu" or torch.cuda.get_device_capability(device) < _AMPERE):
        raise UserError("precision tf32: only NVIDIA's GPUs since Ampere (A100, RTX 30) have it; use fp32 or bf16")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= _AMPERE else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def resolved(config: Config) -> Config:
    """Return ``config`` with nothing left to ``auto`` that numbers depend on; UserError where its device is missing."""
    device = resolve_device(config.device)
    keeps = config.allocator == "auto" and startup.keep_memory()
    return config.model_copy(
        update={
            "device": str(device),
            "precision": resolve_precision(config.precision, device),
            "threads": torch.get_num_threads() if config.threads == "auto" else config.threads,
            "allocator": ("keep" if keeps else "system") if config.allocator == "auto" else config.allocator,
        }
    )


def readers(config: Config) -> int:
    """Return how many threads read sound files: on a CPU those that compute, for both take turns; else the cores."""
    return max(1, min(_MOST_READERS, int(config.threads) if config.device == "cpu" else _own_cores()))


def workers(config: Config) -> int:
    """Return how many processes make batches; ``auto`` is none on a CPU, where a step takes all cores itself.

    Raises UserError where they are asked for and the system does not have what they take.
    """
    wanted = config.data.workers
    if sys.platform != "linux":
        if wanted not in ("auto", 0):
            raise UserError(f"data.workers={wanted}: processes that make batches are for Linux; leave it out")
        return 0
    if wanted == "auto":
        return 0 if config.device == "cpu" else min(_MOST_READERS, _own_cores() - 1)
    return wanted


def _own_cores() -> int:
    """Return the cores for each of the processes that torchrun, or a sweep, has started on this machine."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def set_up(config: Config) -> torch.device:
    """Make this process compute as a resolved ``config`` says; returns the device."""
    if config.allocator == "keep":
        startup.keep_memory()
    if torch.get_num_threads() != config.threads:
        torch.set_num_threads(int(config.threads))
    # recurrent layers and convolutions alone: products of embeddings in TF32 would be too rough for their losses
    torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = not config.deterministic  # the shapes of a training do not change
    if config.deterministic:
        # cuBLAS reads this at its first use; without it torch refuses to run cuBLAS deterministically
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if torch.are_deterministic_algorithms_enabled() != config.deterministic:  # setting it imports a compiler: 1 s
        torch.use_deterministic_algorithms(config.deterministic)
    device = resolve_device(config.device)
    resolve_precision(config.precision, device)  # a run may have begun on another machine
    return device
