"""Device, precision, threads and allocator of a run; ``auto`` is resolved once, when the run starts."""

import os
import re
import sys

import torch
from torch import nn

from sepclip import startup
from sepclip.config.schema import DEVICE, Config
from sepclip.errors import UserError
from sepclip.model import recurrence
from sepclip.model.cudnn_settings import set_cudnn
from sepclip.model.networks import NETWORKS
from sepclip.model.separator import SeparationModel
from sepclip.parallel import cores

AUTOMATIC = ("device", "precision", "threads", "allocator")  # keys that may be "auto"

_MOST_READERS = 8  # threads or processes
_AMPERE = (8, 0)  # the lowest compute capability of GPUs with TF32 and bfloat16


def resolve_device(name: str) -> torch.device:
    """Return the device of ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Raises UserError if there is no such device."""
    if name.startswith("mps"):
        raise UserError(
            f"--device {name}: not supported, since Apple's GPUs lack float64 and operations on complex spectra; "
            f"use --device cpu"
        )
    if not re.fullmatch(DEVICE, name):
        raise UserError(f"--device {name}: choose auto, cpu, cuda or cuda:N")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    # the device may be named by a configuration from another machine
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            devices = f"{count} CUDA device{'s' * (count != 1)}" if count else "no CUDA device, or is a CPU build"
            raise UserError(f"--device {name}: torch finds {devices}; use --device cpu")
    return device


def runs_bf16() -> bool:
    """Return whether recurrent layers run in bfloat16 on this CPU, if only emulated: oneDNN refuses without AVX512."""
    with_mkldnn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return not with_mkldnn or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def resolve_precision(name: str, device: torch.device, network: str = "blstm") -> str:
    """Return a precision by name; ``auto`` is the fastest one in which ``network`` trains well on the device.

    That is bf16 if the device has it in hardware and the network gains from it; otherwise, on a GPU, TF32 if there is
    any, and else fp32. Raises UserError for a precision that the device does not support.
    """
    if name == "fp16" and device.type == "cpu":
        raise UserError("precision fp16: CPUs do not train in it; use bf16 or fp32")
    if name == "bf16" and device.type == "cpu" and not runs_bf16():
        raise UserError("precision bf16: this CPU cannot run an LSTM in it (that needs AVX512); use fp32 or auto")
    if name == "tf32" and (device.type == "cpu" or torch.cuda.get_device_capability(device) < _AMPERE):
        raise UserError("precision tf32: only NVIDIA GPUs since Ampere (A100, RTX 30) have it; use fp32 or bf16")
    if name != "auto":
        return name
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) < _AMPERE:
            return "fp32"
        return "bf16" if NETWORKS[network].module.gains_from_bf16 else "tf32"
    # bfloat16 only in hardware, where a step takes 0.7 of the time of float32 (docs/RESULTS.md)
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def resolve_hardware(config: Config) -> Config:
    """Return ``config`` with a value for each ``auto`` that results depend on; UserError if its device is missing."""
    # fixed here and saved: on another device or with other threads sums differ in the last bit, and so would the run
    device = resolve_device(config.device)
    keeps_memory = config.allocator == "auto" and startup.keep_memory()
    return config.model_copy(
        update={
            "device": str(device),
            "precision": resolve_precision(config.precision, device, config.model.network),
            "threads": torch.get_num_threads() if config.threads == "auto" else config.threads,
            "allocator": ("keep" if keeps_memory else "system") if config.allocator == "auto" else config.allocator,
        }
    )


def reader_count(config: Config) -> int:
    """Return the number of threads that read audio files.

    On a CPU as many as compute, since reading and computing take turns; on a GPU one for each core.
    """
    return max(1, min(_MOST_READERS, int(config.threads) if config.device == "cpu" else _cores_per_process()))


def worker_count(config: Config) -> int:
    """Return the number of processes that make batches; ``auto`` is 0 on a CPU, where a step uses all cores itself.

    Raises UserError if there should be some on another system than Linux.
    """
    workers = config.data.workers
    if sys.platform != "linux":
        if workers not in ("auto", 0):
            raise UserError(f"data.workers={workers}: processes that make batches need Linux; leave the setting out")
        return 0
    if workers == "auto":
        # one core is left to the training itself, whose Python would otherwise wait for a batch process
        return 0 if config.device == "cpu" else min(_MOST_READERS, _cores_per_process() - 1)
    return workers


def _cores_per_process() -> int:
    """Return the number of cores for each of the processes that torchrun, or a sweep, has started on this machine."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def configure_torch(config: Config) -> torch.device:
    """Apply allocator, threads, precision and determinism of a resolved ``config`` to this process; return its device.

    Raises UserError if this machine does not have the device or the precision.
    """
    # allocator first, since it only affects memory that is allocated later
    if config.allocator == "keep":
        startup.keep_memory()
    if torch.get_num_threads() != config.threads:
        torch.set_num_threads(int(config.threads))
    set_cudnn(config.precision, equal_shapes=not config.deterministic)
    if config.deterministic:
        # cuBLAS reads this at its first use; without it torch refuses to run cuBLAS deterministically
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if torch.are_deterministic_algorithms_enabled() != config.deterministic:  # setting it imports a compiler: 1 s
        torch.use_deterministic_algorithms(config.deterministic)
    device = resolve_device(config.device)
    resolve_precision(config.precision, device)  # the run may have been started on another machine
    use_as_current(device)
    return device


def use_as_current(device: torch.device) -> None:
    """Make a GPU with a number the current one of this thread, so that nothing is allocated on the first GPU."""
    # every thread starts with the first GPU as its current one, where pinned memory alone takes hundreds of MB
    if device.type != "cpu" and device.index is not None:
        torch.get_device_module(device).set_device(device)


def describe_precision(precision: str, separator: SeparationModel, device: torch.device) -> str:
    """Return the ``precision`` of a training, and that of recurrent layers if it is another one."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in separator.modules())
    if precision != "bf16" or device.type == "cpu" or not recurrent:
        return precision
    if recurrence.takes_bf16(device):
        return "bf16 (recurrent layers too)"
    tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= _AMPERE
    return f"bf16 (recurrent layers in {'tf32' if tf32 else 'fp32'}, since cuDNN does not run them in bf16)"
