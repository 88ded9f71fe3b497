"""Memory that large tensors leave is used again, which the C library would not do by itself.

glibc maps every block of more than 32 MB anew and unmaps it when it is freed, so that the system clears its pages
each time: with batches of 256 images of 28×28 that was 40 % of the processor time of a calibration, with 64 of 64×64
a third of a training's (ours; benchmarks/evaluation_xeon2_202611.md, benchmarks/training_step_xeon2_202611.md).
"""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of malloc.h
MOST_KEPT = 2**31 - 1  # bytes of free memory at the end of the heap, above which it is given back


def keep_freed_memory() -> None:
    """From now on, for the whole process; it does nothing where the C library is not glibc."""
    if sys.platform == "linux" and (adjust := getattr(ctypes.CDLL(None), "mallopt", None)):
        adjust(TRIM_THRESHOLD, MOST_KEPT)
        adjust(MMAP_MAX, 0)
