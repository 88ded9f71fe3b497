"""Objectives, constraints and focus as a person writes them in Python: `{"accuracy": "maximize", "latency_ms":
"minimize"}`, `{"latency_ms": {"max": 2.0}}` and `{"latency_ms": [0.5, 1.5]}`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, get_args, get_type_hints

from nas.devices import device_of, on
from nas.storage.records import Constraint, Objective
from search_spaces.strict import check_keys, unknown

GOALS = get_args(get_type_hints(Objective)["goal"])
UNITS = ("ns", "us", "ms", "s", "h", "mJ", "J", "mW", "W", "B", "kB", "MB", "GB")  # that a key may end in


def objectives_of(given: Mapping[str, str] | Sequence[Objective]) -> tuple[Objective, ...]:
    """One objective or more; a key such as `latency_ms` is the latency in milliseconds, `latency_ms@phone` that on a
    device of that name, any other has no unit.

    Raises:
        ValueError: no objective, one twice, or a goal that is none.
    """
    several = [_objective(*pair) for pair in given.items()] if isinstance(given, Mapping) else given
    if not isinstance(several, Sequence) or not several or not _all(several, Objective):
        raise ValueError(
            f'objectives is {given!r}; write for example {{"accuracy": "maximize", "latency_ms": "minimize"}}'
        )
    keys = [one.key for one in several]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"objectives lists {twice[0]} twice; list it once")
    return tuple(several)


def constraints_of(given: Mapping[str, Mapping[str, float]] | Sequence[Constraint]) -> tuple[Constraint, ...]:
    """Limits on objectives, or on other values that are measured for them.

    Raises:
        ValueError: what is no limit, or a limit that nothing can keep.
    """
    if isinstance(given, Mapping):
        return tuple(_constraint(*pair) for pair in given.items())
    if not isinstance(given, Sequence) or not _all(given, Constraint):
        raise ValueError(f'constraints is {given!r}; write for example {{"latency_ms": {{"max": 2.0}}}}')
    return tuple(given)


def focus_of(
    given: Mapping[str, Sequence[float | None]] | Sequence[Constraint], objectives: Sequence[Objective]
) -> tuple[Constraint, ...]:
    """The region of the objectives that matters, `{"latency_ms": [1, 3]}`; an end that is None is open.

    Raises:
        ValueError: what is no objective, or no pair of ends.
    """
    if not isinstance(given, Mapping):
        if not isinstance(given, Sequence) or not _all(given, Constraint):
            raise ValueError(f'focus is {given!r}; write for example {{"latency_ms": [1, 3]}}')
        return tuple(given)
    keys = [one.key for one in objectives]
    for key, ends in given.items():
        if key not in keys:
            raise unknown(f"focus.{key}", key, keys)
        if not _are_ends(ends):
            raise ValueError(
                f"focus: {key} is {ends!r}; write its two ends, such as [1, 3], the first below the second, or None "
                "for one that is open"
            )
    return tuple(Constraint(key, *map(_plain, ends)) for key, ends in given.items())


def _are_ends(ends: Any) -> bool:
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        return False
    numbers = [end for end in ends if end is not None]
    return bool(numbers) and all(map(is_finite, numbers)) and numbers == sorted(set(numbers))


def keys_of(objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> tuple[str, ...]:
    """What must be measured: the objectives, and what else is limited."""
    return tuple(dict.fromkeys([one.key for one in (*objectives, *constraints)]))


def _objective(key: Any, goal: Any) -> Objective:
    if not isinstance(key, str) or not key:
        raise ValueError(f"an objective is called {key!r}; its name must be text")
    if goal not in GOALS:
        raise unknown(f"objectives: {key} is to {goal!r}, which", goal, GOALS)
    device = device_of(key)
    name, _, unit = key.removesuffix(on("", device) if device else "").rpartition("_")
    if not name or unit not in UNITS:
        return Objective(key, key, "", goal)
    return Objective(on(name, device) if device else name, key, unit, goal)


def _constraint(key: Any, limits: Any) -> Constraint:
    if not isinstance(key, str) or not key:
        raise ValueError(f"a constraint is on {key!r}; the name of what it limits must be text")
    where = f"constraints: {key}"
    if not isinstance(limits, Mapping) or not limits:
        raise ValueError(f'{where} is {limits!r}; write {{"max": ...}} or {{"min": ...}}')
    check_keys(where, limits, ("min", "max"))
    for side, limit in limits.items():
        if not is_finite(limit):
            raise ValueError(f"{where}.{side} is {limit!r}; it must be a finite number")
    if limits.get("min", -math.inf) > limits.get("max", math.inf):
        raise ValueError(f"{where}: min {limits['min']:g} is above max {limits['max']:g}")
    return Constraint(key, **{side: float(limit) for side, limit in limits.items()})


def _plain(number: Any) -> Any:
    """What JSON holds, of a number of numpy."""
    return number.item() if hasattr(number, "item") else number


def is_finite(value: Any) -> bool:
    """Whether it is a finite number, of Python or of numpy."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _all(several: Iterable[Any], kind: type) -> bool:
    return all(isinstance(one, kind) for one in several)
