"""What has to be set before torch is imported, for work on a CPU (figures in docs/RESULTS.md).

``keep_memory``: by default glibc maps the large temporaries of an LSTM anew at every step and unmaps them after it, and
the page faults cost up to half of the step. Once told not to, it keeps them, for more memory held. The waves of a
mixture that is prepared are of that size too.

``spin_briefly``: an LSTM step has thousands of barriers, at which the threads of GNU OpenMP spin. With another program
on one of the cores they spin away whole time slices, and a step takes many times as long. Short spins cost next to
nothing on a quiet machine.
"""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h of glibc
_KEPT = 2**31 - 1
_TOP_PAD = 64 << 20
_SPINS = "1000"


def keep_memory() -> bool:
    """Set the allocator up; True where that was done (Linux with glibc, and SEPCLIP_MALLOC is not ``system``)."""
    if os.environ.get("SEPCLIP_MALLOC") == "system" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEPT), (_M_TOP_PAD, _TOP_PAD))
    taken = [libc.mallopt(name, value) for name, value in settings]
    return all(taken)


def spin_briefly() -> None:
    """Let GNU OpenMP's threads spin briefly, unless the environment already says how they wait."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = _SPINS
