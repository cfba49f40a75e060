"""Keep glibc from giving memory back to the system between training steps.

By default glibc maps the large temporaries of an LSTM anew at every step and unmaps them after it, and the page faults
cost up to half of the step. Once told not to, it keeps them, for more memory held (docs/RESULTS.md). It must
happen before torch allocates; ``SEPCLIP_MALLOC=system`` leaves the allocator alone.
"""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h of glibc
_KEPT = 2**31 - 1
_TOP_PAD = 64 << 20


def keep_memory() -> bool:
    """Set the allocator up; True where that was done (Linux with glibc, not switched off)."""
    if os.environ.get("SEPCLIP_MALLOC") == "system" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEPT), (_M_TOP_PAD, _TOP_PAD))
    taken = [libc.mallopt(name, value) for name, value in settings]
    return all(taken)
