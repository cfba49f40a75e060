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
from torch.nn import functional

from sepclip.errors import UserError

_ZERO_CROSSINGS, _ROLLOFF, _BETA = 64, 0.9475937167399596, 14.769656459379492  # the setting known as "kaiser best"
FILTER_SAMPLES = _ZERO_CROSSINGS / _ROLLOFF  # reach of the filter to either side, at the lower rate
MOST_PHASES = 4_000  # in the filter bank; all common pairs of rates need a few hundred at most
_TABLE_PHASES = 2048  # of the filter for odd pairs of rates; interpolation between them has an error below -130 dB
_TABLE_VALUES = 1 << 19  # samples times taps that are multiplied at a time

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

    The filter is a Kaiser-windowed sinc of 64 zero crossings ("kaiser best"); aliases are below -100 dB.
    """
    if from_hz == to_hz or wave.shape[-1] == 0:
        return wave
    if max(from_hz, to_hz) // math.gcd(from_hz, to_hz) > MOST_PHASES:
        return _resample_by_table(wave, from_hz, to_hz)
    # torchaudio builds one filter for each output phase within a common period of both rates
    resampled: Tensor = load_torchaudio().functional.resample(
        wave.contiguous(),  # torchaudio reshapes by view
        from_hz,
        to_hz,
        lowpass_filter_width=_ZERO_CROSSINGS,
        rolloff=_ROLLOFF,
        resampling_method="sinc_interp_kaiser",
        beta=_BETA,
    )
    return resampled


@lru_cache(maxsize=8)
def _filter_table(ratio: float) -> Tensor:
    """Return the filter (P + 1, 2 W) at the phases 0 to 1 between two input samples, by the formula of torchaudio.

    ``ratio`` is the input rate divided by the output rate. Column W - 1 is that of the input sample at phase 0.
    """
    cutoff = _ROLLOFF / max(1.0, ratio)  # times half the input rate
    width = math.ceil(_ZERO_CROSSINGS / cutoff) + 1
    phases = torch.arange(_TABLE_PHASES + 1, dtype=torch.float64)[:, None] / _TABLE_PHASES  # (P + 1, 1)
    offsets = torch.arange(1 - width, width + 1, dtype=torch.float64)  # (2 W)
    times = ((offsets - phases) * cutoff).clamp(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)  # (P + 1, 2 W)
    beta = torch.tensor(_BETA, dtype=torch.float64)
    window = torch.special.i0(beta * (1 - (times / _ZERO_CROSSINGS).square()).sqrt()) / torch.special.i0(beta)
    table: Tensor = torch.sinc(times) * window * cutoff
    return table


def _resample_by_table(wave: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Resample as :func:`resample`, for rates with a small common divisor, whose filter bank would take gigabytes.

    The filter of each output sample is interpolated between the two nearest phases of a table.
    """
    table = _filter_table(from_hz / to_hz).to(wave)
    taps = table.shape[1]
    rows = wave.reshape(-1, wave.shape[-1])  # (R, T)
    total = -(-wave.shape[-1] * to_hz // from_hz)
    padded = functional.pad(rows, (taps // 2 - 1, taps // 2 + 1))
    windows = padded.unfold(-1, taps, 1)  # (R, T + 1, 2 W), without copying
    pieces = []
    block = max(1, _TABLE_VALUES // (taps * len(rows)))
    for start in range(0, total, block):
        # in whole numbers, since floats would lose the phase after hours
        position = torch.arange(start, min(start + block, total), device=wave.device) * from_hz
        phase = (position % to_hz).to(wave.dtype) / to_hz * _TABLE_PHASES  # (B,)
        index = phase.long().clamp(max=_TABLE_PHASES - 1)
        inputs = windows[:, position // to_hz]  # (R, B, 2 W)
        at, after = ((inputs * table.index_select(0, index + step)).sum(-1) for step in (0, 1))
        pieces.append(torch.lerp(at, after, phase - index))
    return torch.cat(pieces, -1).reshape(*wave.shape[:-1], total)


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
