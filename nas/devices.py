"""Several devices in one run: which of its numbers are of which device, and a front for each.

A value that is measured on a device with a name has it in its key, `latency_ms@tablet`, and so have the objectives and
constraints on it. All others, accuracy and MACs, are of every device.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nas import pareto
from nas.storage.records import Candidate, Constraint, Objective, Run

AT = "@"
TIMED = "latency_ms"  # what a device is named for; another @, as in recall@10, is a person's own


@dataclass(frozen=True)
class Goals:
    """What a search, or a front, is about."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()
    focus: tuple[Constraint, ...] = ()


@dataclass(frozen=True)
class DeviceFront:
    """The candidates that nothing dominates by what is measured on one device."""

    device: str  # its name in the experiment
    goals: Goals
    candidates: tuple[Candidate, ...]  # in ascending order of the last objective

    @property
    def knee(self) -> Candidate | None:
        """The best compromise on this device; None where nothing is on the front."""
        if not self.candidates:
            return None
        return pareto.knee_candidate(self.candidates, self.goals.objectives)


def on(key: str, device: str) -> str:
    """The key, or the name of an objective, on a device of that name: `latency_ms@tablet`; as it is without one."""
    return f"{key}{AT}{device}" if device else key


def device_of(key: str) -> str:
    """The name of the device that a value of this key was measured on; empty where it names none."""
    what, _, device = key.partition(AT)
    return device if what == TIMED else ""


def is_latency(key: object) -> bool:
    """Whether a value of this key is a latency, on whatever device."""
    return isinstance(key, str) and key.partition(AT)[0] == TIMED


def devices_in(keys: Iterable[str]) -> tuple[str, ...]:
    """The names of the devices that keys are of, each once, in order."""
    return tuple(dict.fromkeys(name for name in map(device_of, keys) if name))


def goals_on(device: str, goals: Goals) -> Goals:
    """Those of the goals that concern a device: its own, and those of every device."""

    def kept(several: Sequence) -> tuple:
        return tuple(one for one in several if device_of(one.key) in ("", device))

    return Goals(kept(goals.objectives), kept(goals.constraints), kept(goals.focus))


def goals_of(run: Run) -> Goals:
    """What a run is about, on all of its devices together."""
    return Goals(run.objectives, run.constraints, run.focus)


def fronts(run: Run, candidates: Sequence[Candidate]) -> list[DeviceFront]:
    """The front of each device that the run's objectives or constraints name; none where they name none.

    A candidate is on a device's front if nothing that was measured there, with what is of every device, dominates it;
    limits on other devices do not count.
    """
    return fronts_of(goals_of(run), candidates)


def fronts_of(goals: Goals, candidates: Sequence[Candidate]) -> list[DeviceFront]:
    """As `fronts`, of what is not a run."""
    names = devices_in(one.key for one in (*goals.objectives, *goals.constraints))
    return [_front(name, goals_on(name, goals), candidates) for name in names]


def anything_found(run: Run, candidates: Sequence[Candidate]) -> bool:
    """Whether a candidate keeps all constraints; where each device has a search of its own, those on one device."""
    if pareto.front(candidates, run.objectives, run.constraints):
        return True
    apart = json.loads(run.experiment).get("search", {}).get("per_device", False)
    return apart and any(one.candidates for one in fronts(run, candidates))


def _front(device: str, goals: Goals, candidates: Sequence[Candidate]) -> DeviceFront:
    return DeviceFront(device, goals, tuple(pareto.front(candidates, goals.objectives, goals.constraints)))
