"""Process settings that make work on a CPU faster and must be made before torch is imported (docs/RESULTS.md).

``keep_memory``: by default, glibc maps the large temporaries of an LSTM in every step and unmaps them afterwards; the
page faults take up to half of the step. With these settings the process keeps the memory and reuses it, at the price of
a larger footprint. The waves of a mixture in preparation have that size too.

``spin_briefly``: an LSTM step has thousands of barriers, at which the threads of GNU OpenMP spin. If another program
uses one of the cores, they waste whole time slices, and a step takes many times as long. Short spins cost next to
nothing on an idle machine.
"""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h of glibc
_NEVER = 2**31 - 1  # bytes free at the top before memory is returned; the largest int
_TOP_PAD = 64 << 20  # bytes by which the heap grows
_SPINS = "1000"


def keep_memory() -> bool:
    """Make glibc keep freed memory. Return False without glibc, or if SEPCLIP_MALLOC is ``system``."""
    if os.environ.get("SEPCLIP_MALLOC") == "system" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _TOP_PAD))
    accepted = [libc.mallopt(name, value) for name, value in settings]
    return all(accepted)


def spin_briefly() -> None:
    """Make the threads of GNU OpenMP spin briefly, unless the environment already says how they should wait."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = _SPINS
