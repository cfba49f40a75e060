"""Resampling by torchaudio, which is imported only here.

The wheels of torchaudio contain a compiled part that needs one version of the CUDA libraries. Beside a CPU-only or a
newer torch its import fails, although resampling is plain torch. If the normal import fails, a stand-in for the private
module ``torchaudio._extension`` replaces the compiled part, and the Python part is imported again.
"""

import importlib
import math
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from threading import Lock
from types import ModuleType

import torch
from torch import Tensor

from sepclip.errors import UserError

_ZERO_CROSSINGS, _ROLLOFF = 64, 0.9475937167399596  # the setting known as "kaiser best"
FILTER_SAMPLES = _ZERO_CROSSINGS / _ROLLOFF  # reach of the filter to either side, at the lower rate
MOST_PHASES = 4_000  # in the filter bank; all common pairs of rates need a few hundred at most

_LOADING = Lock()


def _no_alignment(function: object) -> object:
    """Replace torchaudio's decorator that guards its compiled forced alignment, which sepclip does not use."""
    return function


def load_torchaudio() -> ModuleType:
    """Return torchaudio, without its compiled part if that does not load.

    Raises UserError if torchaudio is not installed, or cannot be imported even so.
    """
    # threads that read files ask for it at once, and two that remove half-imported modules would remove each other's
    with _LOADING:
        return _load_torchaudio()


@lru_cache(maxsize=1)
def _load_torchaudio() -> ModuleType:
    try:
        return importlib.import_module("torchaudio")
    except ModuleNotFoundError as error:
        if error.name == "torchaudio":
            raise UserError("torchaudio is not installed: pip install torchaudio") from error
    except (ImportError, OSError, RuntimeError):
        pass
    # remove the half-imported modules, or the second import would return them
    for name in [name for name in list(sys.modules) if name.split(".")[0] == "torchaudio"]:  # others import meanwhile
        del sys.modules[name]
    # the names that torchaudio's Python part reads from its extension module
    stand_in = ModuleType("torchaudio._extension")
    stand_in._IS_TORCHAUDIO_EXT_AVAILABLE = False  # type: ignore[attr-defined]
    stand_in._IS_ALIGN_AVAILABLE = False  # type: ignore[attr-defined]
    stand_in.fail_if_no_align = _no_alignment  # type: ignore[attr-defined]
    sys.modules["torchaudio._extension"] = stand_in
    try:
        return importlib.import_module("torchaudio")
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            f"torchaudio cannot be imported beside this torch ({error}): install a torchaudio of the same release"
        ) from error


def resample(wave: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Return ``wave`` (..., T) resampled to ``to_hz``, with ceil(T to_hz / from_hz) samples.

    The filter is a Kaiser-windowed sinc of 64 zero crossings ("kaiser best"); aliases are below -100 dB. Raises
    UserError for rates whose greatest common divisor is so small that the filters would need gigabytes.
    """
    if from_hz == to_hz or wave.shape[-1] == 0:
        return wave
    if max(from_hz, to_hz) // math.gcd(from_hz, to_hz) > MOST_PHASES:
        raise UserError(f"{from_hz} Hz cannot be resampled to {to_hz} Hz here: resample it with another program first")
    # torchaudio builds one filter for each output phase within a common period of both rates
    resampled: Tensor = load_torchaudio().functional.resample(
        wave.contiguous(),  # torchaudio reshapes by view
        from_hz,
        to_hz,
        lowpass_filter_width=_ZERO_CROSSINGS,
        rolloff=_ROLLOFF,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    )
    return resampled


def resample_stream(chunks: Iterable[Tensor], from_hz: int, to_hz: int) -> Iterator[Tensor]:
    """Resample a stream of ``chunks`` (..., n), so that the result equals that of resampling the whole sound at once.

    The filter is applied to pieces with as many samples before and after them as it reaches. The pieces begin where the
    two rates have a sample at the same moment.
    """
    if from_hz == to_hz:
        yield from chunks
        return
    divisor = math.gcd(from_hz, to_hz)
    old, new = from_hz // divisor, to_hz // divisor
    reach = math.ceil(FILTER_SAMPLES * max(1, old / new) / old + 1) * old  # of the filter, in input samples
    buffer: Tensor | None = None
    lead = 0  # samples at the start of the buffer that are resampled already and kept for the filter alone
    for chunk in chunks:
        buffer = chunk if buffer is None else torch.cat([buffer, chunk], -1)
        # resample all but the end, whose filter reaches samples that have not arrived yet
        ready = (buffer.shape[-1] - reach) // old * old
        if ready > lead:
            yield resample(buffer[..., : ready + reach], from_hz, to_hz)[..., lead // old * new : ready // old * new]
            unneeded = max(0, ready - reach)
            buffer, lead = buffer[..., unneeded:], ready - unneeded
    if buffer is not None:
        yield resample(buffer, from_hz, to_hz)[..., lead // old * new :]
