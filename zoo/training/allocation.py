"""Memory of the C library, held on to while training on a CPU."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)
_KEPT_BYTES = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have glibc reuse freed memory instead of giving it back to the system; of other C libraries, change nothing.

    Activations of every step are as large as those of the step before. By default each is mapped again, and the system
    clears it page by page: a third of a training step of EfficientNet-Lite2 at 128 pixels on a CPU. The process then
    keeps the most memory that it has used.

    Returns:
        Whether it was changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _KEPT_BYTES))
