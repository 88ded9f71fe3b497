"""What evaluations cost beside computing: memory that is given back and fetched again, and the search for garbage.

glibc maps every block of more than 32 MB anew and unmaps it when it is freed, so that the system clears its pages
each time: with batches of 256 images of 28×28 that was 40 % of the processor time of a calibration, with 64 of 64×64
a third of a training's (ours; benchmarks/evaluation_xeon2_202611.md, benchmarks/training_step_xeon2_202611.md).
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of malloc.h
MOST_KEPT = 2**31 - 1  # bytes of free memory at the end of the heap, above which it is given back


def keep_freed_memory() -> None:
    """From now on, for the whole process; it does nothing where the C library is not glibc."""
    if sys.platform == "linux" and (adjust := getattr(ctypes.CDLL(None), "mallopt", None)):
        adjust(TRIM_THRESHOLD, MOST_KEPT)
        adjust(MMAP_MAX, 0)


@contextmanager
def uncollected() -> Iterator[None]:
    """Python does not look for garbage meanwhile; also a decorator.

    Networks come and go here by the thousands of objects, none of which need be looked for. Every look at all that was
    imported takes as long as the evaluation of several small ones (benchmarks/evaluation_xeon2_202611.md).
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
