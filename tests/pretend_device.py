"""A pretended accelerator for tests on a CPU: tensors that are on ``pretend:0`` and keep their data on the CPU.

    with pretended() as device:
        batch = batch.to(DEVICE)
        ...
    assert sum(device.waits.values()) <= 1

It refuses and counts what usually breaks or slows the first run on a GPU:

- An operation on tensors of both devices raises, except with a CPU tensor without dimensions, a copy, or an index.
- ``device.waits`` counts what makes the host wait for the device, by operation and by the line of sepclip that called
  it; ``device.launches`` counts the kernels in the same way. Neither is a time.
- A copy to the CPU with ``non_blocking=True`` contains NaN (or the largest integer) until the host has waited.
- Autocast casts matrix products to its dtype, and recurrent layers to float16 whatever its dtype is, as cuDNN's do.
- Operations that CUDA refuses under ``torch.use_deterministic_algorithms`` raise.

It is built on torch's support for backends in Python, which is private and newer than the oldest torch that sepclip
supports: ``AVAILABLE`` says whether it is there. The first call of :func:`pretended` registers the device for the rest
of the process, which changes nothing for other devices.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

import sepclip

NAME = "pretend"
AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
WHY_NOT = f"torch {torch.__version__} has no backends in Python, on which the pretended device is built"
_PACKAGE = str(Path(sepclip.__file__).parent)
# operations that wait for the device, because their result on the host or its size depends on its values
_WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "_linalg_check_errors",
    "linalg_eigh",
    "repeat_interleave",
    "_unique2",
    "unique_dim",
}
# operations that may take tensors of both devices; the lengths of packed sequences are on the CPU
_MIXING = {"copy_", "_to_copy", "_pack_padded_sequence", "_pad_packed_sequence"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# allocations, and results that a GPU gives without a kernel
_WITHOUT_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "is_pinned"}
_NOT_DETERMINISTIC = {"cumsum", "cumsum_", "kthvalue", "median", "histc", "bincount", "scatter_reduce", "put_"}
# what autocast computes in its own dtype on a GPU, as far as sepclip uses it
_LOW_PRECISION = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv1d", "conv_transpose1d")


class Device:
    """What happened on the device: ``waits`` of the host and ``launches`` of kernels, by operation and line."""

    def __init__(self) -> None:
        self.waits: Counter[tuple[str, str]] = Counter()
        self.launches: Counter[tuple[str, str]] = Counter()
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []  # not yet arrived: destination, and value

    def wait(self, name: str) -> None:
        """Count a wait of the host, and complete all copies."""
        self.waits[name, _line()] += 1
        self.complete()

    def complete(self) -> None:
        """Complete all copies that do not block."""
        copies, self._copies = self._copies, []
        for destination, value in copies:
            destination.copy_(value)

    def copy_later(self, value: torch.Tensor) -> torch.Tensor:
        """Return a copy of ``value`` that has its content only after the next wait."""
        worst = float("nan") if value.is_floating_point() or value.is_complex() else torch.iinfo(value.dtype).max
        destination = torch.full_like(value, worst)
        self._copies.append((destination, value.clone()))
        return destination

    @property
    def idle(self) -> bool:
        """Whether all copies are complete."""
        return not self._copies


device_log = Device()  # of the innermost `pretended`


def _line() -> str:
    """Return the file and line of sepclip that called the present operation."""
    frame = sys._getframe(1)
    while frame.f_back and not frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    name = frame.f_code.co_filename
    return f"{name.removeprefix(_PACKAGE + '/')}:{frame.f_lineno}" if name.startswith(_PACKAGE) else "elsewhere"


class Pretended(torch.Tensor):
    """A tensor on the device; ``host`` is the tensor on the CPU with its values."""

    host: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> "Pretended":
        host = host.resolve_conj()  # a wrapper cannot have the bit that marks a lazy conjugate
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, host.size(), host.stride(), host.storage_offset(), dtype=host.dtype, device=torch.device(NAME, 0)
        )
        tensor.host = host
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})

    def tolist(self) -> Any:
        """Wait, and return the values; torch's own method does not know subclasses."""
        device_log.wait("tolist")
        return self.host.tolist()

    def record_stream(self, stream: Any) -> None:
        """Do nothing: memory is not reused."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Pretended":
        if id(self) not in memo:
            copy = Pretended(self.host.detach().clone()).requires_grad_(self.requires_grad)
            copy.__dict__.update({name: value for name, value in self.__dict__.items() if name != "host"})
            memo[id(self)] = copy
        return memo[id(self)]

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({self.host!r})"


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation of the device on the CPU, with its checks and counts."""
    name = operation.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    _check(name, operation, args, tensors)
    to = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
    _count(name, operation, args, kwargs, tensors, to)
    # an operation in place returns the very tensor that it was given
    owners = {id(tensor.host if isinstance(tensor, Pretended) else tensor): tensor for tensor in tensors}
    args, kwargs = tree_map(lambda leaf: leaf.host if isinstance(leaf, Pretended) else leaf, (args, kwargs))
    if to is not None:
        kwargs["device"] = "cpu"
    if name == "_to_copy":
        copy = args[0].to(kwargs.get("dtype") or args[0].dtype, copy=True)
        if to != "cpu":
            return Pretended(copy)
        return device_log.copy_later(copy) if kwargs.get("non_blocking") else copy
    stays = name in {"_pack_padded_sequence", "_pad_packed_sequence"}

    def wrap(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or (stays and leaf.dtype is torch.int64):
            return leaf
        return owners[id(leaf)] if id(leaf) in owners else Pretended(leaf)

    return tree_map(wrap, operation(*args, **kwargs))


def _check(name: str, operation: Any, args: Any, tensors: list[torch.Tensor]) -> None:
    """Raise AssertionError for what a GPU refuses."""
    others = [tensor for tensor in tensors if not isinstance(tensor, Pretended)]
    ours = len(tensors) > len(others)
    strays = [tensor for tensor in others if tensor.dim()]
    if operation._schema.is_mutable and others and others[0] is args[0]:
        strays.append(others[0])  # written to, so that its lack of dimensions does not help
    if name in _INDEXING:
        strays = [] if isinstance(args[0], Pretended) else strays
    assert not (ours and strays and name not in _MIXING), (
        f"{name} on {NAME} and on the CPU ({tuple(strays[0].shape)}), {_line()}"
    )
    if torch.are_deterministic_algorithms_enabled() and name in _NOT_DETERMINISTIC:
        assert not any(tensor.is_floating_point() for tensor in tensors), f"{name} is not deterministic, {_line()}"


def _count(
    name: str, operation: Any, args: Any, kwargs: dict[str, Any], tensors: list[torch.Tensor], to: str | None
) -> None:
    """Count the wait and the launch of an operation, if it is one."""
    leaves = tree_leaves(args[1]) if name in _INDEXING else []
    mask = any(isinstance(leaf, torch.Tensor) and leaf.dtype is torch.bool for leaf in leaves)
    if mask and name.startswith(("index_put", "_index_put")):
        mask = args[2].numel() != 1  # a single value is filled in without a look at the mask
    fetched = name == "_to_copy" and to == "cpu" and not kwargs.get("non_blocking")
    fetched |= name == "copy_" and not isinstance(args[0], Pretended)
    if mask or fetched or name in _WAITING:
        device_log.wait(name)
    is_view = any(result.alias_info and not result.alias_info.is_write for result in operation._schema.returns)
    if not is_view and name not in _WITHOUT_KERNEL and any(isinstance(tensor, Pretended) for tensor in tensors):
        device_log.launches[name, _line()] += 1


class _Recurrent(torch.autograd.Function):
    """cuDNN's recurrent layers: a kernel forward and two backward; in float16 if ``half`` is set."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., torch.Tensor], half: bool, *tensors: Pretended) -> Pretended:
        device_log.launches["recurrent", _line()] += 1
        # the products are computed in float32, as cuDNN accumulates them; only what is stored is rounded
        stored = [tensor.host.detach().half() if half else tensor.host.detach() for tensor in tensors]
        ctx.inputs = [tensor.to(_computed(tensor.dtype)).requires_grad_() for tensor in stored]
        with torch.enable_grad():
            ctx.output = run(*ctx.inputs)
        ctx.stored, ctx.dtypes = stored[0].dtype, [tensor.dtype for tensor in tensors]
        return Pretended(ctx.output.detach().to(ctx.stored))

    @staticmethod
    def backward(ctx: Any, *gradients: Pretended) -> tuple[Any, ...]:
        device_log.launches["recurrent backward", _line()] += 2
        found = torch.autograd.grad(ctx.output, ctx.inputs, gradients[0].host.to(ctx.output.dtype))
        # gradients pass through the dtype in which the layer stores its values: in float16, small ones become zero
        results = [Pretended(g.to(ctx.stored).to(dtype)) for g, dtype in zip(found, ctx.dtypes, strict=True)]
        return (None, None, *results)


def _computed(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _recurrent_kernel(function: Callable[..., Any], *, packed: bool, half: bool) -> Callable[..., Any]:
    """Return the kernel of ``torch.lstm`` or ``torch.gru``, for a batch of equal lengths or a ``packed`` one."""

    def kernel(data: Any, *rest: Any) -> Any:
        sizes, (initial, weights, *options) = rest[: int(packed)], rest[int(packed) :]
        states = [initial] if isinstance(initial, torch.Tensor) else list(initial)

        def run(data: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
            state = tensors[0] if isinstance(initial, torch.Tensor) else tensors[: len(states)]
            output: torch.Tensor = function(data, *sizes, state, tensors[len(states) :], *options)[0]
            return output

        with torch.autocast(NAME, enabled=False):
            return (_Recurrent.apply(run, half, data, *states, *weights), *states)

    return kernel


def _low_precision_kernel(operation: Any) -> Callable[..., Any]:
    """Return the kernel of autocast for an operation: the operation itself on tensors of the dtype of autocast."""

    def cast(leaf: Any) -> Any:
        low = isinstance(leaf, Pretended) and leaf.is_floating_point()
        return leaf.to(torch.get_autocast_dtype(NAME)) if low else leaf

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(NAME, enabled=False):
            return operation(*tree_map(cast, args), **tree_map(cast, kwargs))

    return kernel


class _Event:
    """An event of the device: it has happened once all copies are complete."""

    def record(self, stream: Any = None) -> None:
        pass

    def wait(self, stream: Any = None) -> None:
        pass

    def synchronize(self) -> None:
        if not device_log.idle:
            device_log.wait("event")


class _Stream:
    def __init__(self, device: Any = None):
        self.device = device

    def record_event(self) -> _Event:
        return _Event()

    def wait_event(self, event: _Event) -> None:
        pass

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _Module:
    """What ``torch.cuda`` is for a GPU: the functions of it that sepclip and torch call."""

    Event, Stream = _Event, _Stream
    generator = torch.Generator()

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def set_device(self, device: Any) -> None:
        assert torch.device(device).index in (None, 0)

    def manual_seed_all(self, seed: int) -> None:
        self.generator.manual_seed(seed)

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return self.generator.get_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        self.generator.set_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def current_stream(self, device: Any = None) -> _Stream:
        return _Stream(device)

    def stream(self, stream: _Stream) -> _Stream:
        return stream


_libraries: list[torch.library.Library] = []  # kernels are unregistered with their library


def _register() -> None:
    """Register the device and its kernels with torch, once per process."""
    if _libraries:
        return
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    everything = torch.library.Library("_", "IMPL")
    aten = torch.library.Library("aten", "IMPL")
    _libraries.extend([everything, aten])
    # of tensors of the device, subclasses of torch.Tensor, __torch_dispatch__ is called; this is for new tensors
    everything.fallback(_create, "PrivateUse1")
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in _LOW_PRECISION:
        operation = getattr(torch.ops.aten, name).default
        aten.impl(name, _low_precision_kernel(operation), "AutocastPrivateUse1")
    for function in (torch.lstm, torch.gru):
        for overload, packed in (("input", False), ("data", True)):
            for key, half in (("AutogradPrivateUse1", False), ("AutocastPrivateUse1", True)):
                kernel = _recurrent_kernel(function, packed=packed, half=half)
                aten.impl(f"{function.__name__}.{overload}", kernel, key)


def _create(operation: Any, *args: Any, **kwargs: Any) -> Any:
    return _run(operation, args, kwargs)


@contextmanager
def pretended() -> Iterator[Device]:
    """Make the device available in the block, and yield its counts, which begin at zero."""
    global device_log
    _register()
    plain, pin, before = torch.tensor, torch.Tensor.pin_memory, device_log

    def tensor(data: Any, *, dtype: Any = None, device: Any = None, **options: Any) -> torch.Tensor:
        # torch.tensor fills its memory without asking the dispatcher
        host = plain(data, dtype=dtype, **options)
        return host if device is None or torch.device(device).type == "cpu" else host.to(device)

    torch.tensor = tensor
    torch.Tensor.pin_memory = lambda self, *_: self.clone()  # type: ignore[method-assign]
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    device_log = Device()
    try:
        with torch.autograd.set_multithreading_enabled(False):
            yield device_log
    finally:
        torch.tensor, torch.Tensor.pin_memory, device_log = plain, pin, before  # type: ignore[method-assign]
        torch.__future__.set_overwrite_module_params_on_conversion(False)
