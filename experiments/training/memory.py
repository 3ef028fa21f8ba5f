"""How this process uses memory."""

import ctypes
import sys


def keep_freed_memory() -> None:
    """Asks the C allocator to keep what is freed: models free large buffers at every step, and giving them back to
    the system each time costs more than the arithmetic. glibc only; elsewhere nothing is done."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            for option, value in ((-4, 0), (-1, 1 << 30), (-2, 1 << 29)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
                mallopt(option, value)
