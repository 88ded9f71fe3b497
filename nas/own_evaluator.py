"""A person's own function of an architecture, as the search needs it: whatever it does, there is a candidate."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nas.storage.records import Candidate
from search_spaces import architecture_from_json
from search_spaces.strict import unknown

LONGEST = 500  # characters of an error

log = logging.getLogger(__name__)

Interval = tuple[float, float]
Given = float | tuple[float, float, float]  # a number, or an uncertain one within its 95 % interval


@dataclass(frozen=True)
class OwnEvaluator:
    """
    Args:
        evaluate: `architecture -> {key: number}`, or `{key: (low, number, high)}` where it is uncertain.
        keys: what it must return, no more and no less: the objectives, and what else is limited.
    """

    evaluate: Callable[[Any], Mapping[str, Given]]
    keys: tuple[str, ...]

    def __call__(self, architecture: Any) -> Candidate:
        """The candidate; with an error if the function raises, exits, or returns what is not asked for. It gets an
        architecture of its own, so whatever it does to that is its own too."""
        begun = time.perf_counter()
        candidate = Candidate(architecture.key, architecture.to_json())
        try:
            own = architecture_from_json(candidate.architecture)
            values, intervals = checked(_returned(self.evaluate, own), self.keys)
            candidate = replace(candidate, values=values, intervals=intervals)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a candidate that fails or exits must not end the search
            log.info("candidate %s failed", candidate.key, exc_info=True)
            candidate = replace(candidate, error=_in_a_line(error))
        return replace(candidate, seconds=time.perf_counter() - begun)


def checked(
    returned: Any, keys: Sequence[str], got: str = "evaluate returned"
) -> tuple[dict[str, float], dict[str, Interval]]:
    """The numbers that were asked for, in the order of `keys`, and the intervals of those that are uncertain; `got`
    begins the errors.

    Raises:
        ValueError: one is missing, one is too many, one is no finite number, or outside of its interval.
    """
    if not isinstance(returned, Mapping):
        example = ", ".join(f'"{key}": ...' for key in keys)
        raise ValueError(f"{got} {_short(returned)}; it must be {{{example}}}")
    if missing := [key for key in keys if key not in returned]:
        raise ValueError(f"{got} no {missing[0]}, only {', '.join(map(str, returned)) or 'nothing'}")
    if extra := [key for key in returned if key not in keys]:
        raise unknown(f"{got} {extra[0]!r}, which", extra[0], keys)
    values, intervals = {}, {}
    for key in keys:
        given, said = returned[key], f"{got} {_short(returned[key])} for {key}"
        if not isinstance(given, tuple | list):
            values[key] = _number(given, said)
            continue
        ends = [_number(one, f"{said}, with {_short(one)}") for one in given]
        if len(ends) != 3 or ends != sorted(ends):
            raise ValueError(f"{said}; an uncertain value is (low, value, high), in ascending order")
        values[key], intervals[key] = ends[1], (ends[0], ends[2])
    return values, intervals


def _returned(function: Callable, architecture: Any) -> Any:
    """What the function returns. A process that it forked ends where the function does: else it would go on with the
    search, beside this one."""
    process, status = os.getpid(), 1
    try:
        return function(architecture)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
    finally:
        if os.getpid() != process:
            os._exit(status)


def _in_a_line(error: BaseException) -> str:
    """What was raised, in text that any store can hold."""
    try:
        text = str(error)
    except Exception:  # even that is a stranger's code
        text = "its message cannot be shown"
    line = " ".join(text.split()) or "no message"
    return f"{type(error).__name__}: {line}"[:LONGEST].replace("\0", "�").encode(errors="replace").decode()


def _number(value: Any, said: str) -> float:
    # numpy makes floats of dates and complex numbers too
    kind = getattr(getattr(value, "dtype", None), "kind", "f")
    real = hasattr(value, "__float__") and not isinstance(value, bool) and kind in "iuf"
    try:
        number = float(value) if real and getattr(value, "shape", ()) == () else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{said}; it must be a finite number")
    return number


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return f"{text[:80]} ({type(value).__name__})"
