"""Stopping between two steps, so that the same command goes on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nas.exit_codes import INTERRUPTED


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and a termination ask to stop between two steps; a second one stops at once."""
    asked = []

    def handler(number: int, frame) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        print("nas: stopping after this step; once more to stop at once", file=sys.stderr, flush=True)

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handler) for number in signals]
    try:
        yield lambda: bool(asked)
    finally:
        for number, old in zip(signals, before, strict=True):
            signal.signal(number, old)


def interrupted() -> int:
    """Say that it goes on; the exit code."""
    print("nas: stopped; everything is saved, and the same command goes on from here", file=sys.stderr)
    return INTERRUPTED
