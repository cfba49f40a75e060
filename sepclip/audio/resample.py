"""Change of sampling rate by torchaudio, imported here alone.

The wheels of torchaudio carry a compiled part that wants CUDA libraries of one version; beside a CPU-only or a newer
torch its import fails, although resampling is plain torch. Where the plain import fails, a stand-in for the private
module ``torchaudio._extension`` takes the place of the compiled part, and the Python part is imported again.
"""

import importlib
import math
import sys
from functools import lru_cache
from types import ModuleType

from torch import Tensor

from sepclip.errors import UserError

_ZERO_CROSSINGS, _ROLLOFF = 64, 0.9475937167399596  # the setting known as "kaiser best"
FILTER_SAMPLES = _ZERO_CROSSINGS / _ROLLOFF  # to either side of a sample, at the lower of the two rates
MOST_PHASES = 4_000  # of the filter bank; all usual rates need a few hundred at most


def _no_alignment(function: object) -> object:
    """Stand for torchaudio's guard of its compiled forced alignment, which sepclip does not use."""
    return function


@lru_cache(maxsize=1)
def load_torchaudio() -> ModuleType:
    """Return torchaudio, without its compiled part where that does not load.

    Raises UserError when torchaudio is not installed, or fails even so.
    """
    try:
        return importlib.import_module("torchaudio")
    except ModuleNotFoundError as error:
        if error.name == "torchaudio":
            raise UserError("torchaudio is not installed: pip install torchaudio") from error
    except (ImportError, OSError, RuntimeError):
        pass
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]  # half-imported
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
    """Resample ``wave`` (..., T) to ``to_hz``; the result has ceil(T to_hz / from_hz) samples.

    A Kaiser-windowed sinc of 64 zero crossings (the setting known as "kaiser best"), for an alias below -100 dB.
    Raises UserError for rates with so small a common divisor that the filters would need gigabytes.
    """
    if from_hz == to_hz or wave.shape[-1] == 0:
        return wave
    if max(from_hz, to_hz) // math.gcd(from_hz, to_hz) > MOST_PHASES:
        raise UserError(f"a rate of {from_hz} Hz cannot be brought to {to_hz} Hz here: resample it by another program")
    resampled: Tensor = load_torchaudio().functional.resample(
        wave.contiguous(),
        from_hz,
        to_hz,
        lowpass_filter_width=_ZERO_CROSSINGS,
        rolloff=_ROLLOFF,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    )
    return resampled
