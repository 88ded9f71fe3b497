"""Where the candidates of a run stand: on the front, dominated, infeasible, failed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nas import pareto
from nas.devices import devices_in, goals_of, goals_on
from nas.storage.records import Candidate, Run


@dataclass(frozen=True)
class Standing:
    """Every candidate of a run in exactly one of the five lists; `knee` is on the front, if there is one."""

    front: list[Candidate]  # nothing dominates them; ascending in the last objective
    dominated: list[Candidate]
    infeasible: list[Candidate]  # measured, but they break a constraint
    incomplete: list[Candidate]  # a value is missing that an objective or a constraint needs
    failed: list[Candidate]
    knee: Candidate | None

    def word(self, candidate: Candidate) -> str:
        """Where one candidate stands."""
        if self.knee and candidate.key == self.knee.key:
            return "knee of the front"
        lists = {
            "on the front": self.front,
            "dominated": self.dominated,
            "infeasible": self.infeasible,
            "incomplete": self.incomplete,
            "failed": self.failed,
        }
        return next(
            word for word, several in lists.items() if any(one.key == candidate.key for one in several)
        )


def on_device(run: Run, *keys: str) -> Run:
    """The run as it is on the device that these values are of, with the objectives and limits that concern it.

    The run itself where they are of none, or of two.
    """
    devices = devices_in(keys)
    if len(devices) != 1:
        return run
    goals = goals_on(devices[0], goals_of(run))
    return replace(run, objectives=goals.objectives, constraints=goals.constraints)


def standing(run: Run, candidates: Sequence[Candidate]) -> Standing:
    needed = {objective.key for objective in run.objectives} | {limit.key for limit in run.constraints}
    failed, incomplete, infeasible, able = [], [], [], []
    for one in candidates:
        if one.error is not None:
            failed.append(one)
        elif not all(math.isfinite(one.values.get(key, math.nan)) for key in needed):
            incomplete.append(one)
        elif not one.feasible(run.constraints):
            infeasible.append(one)
        else:
            able.append(one)
    front = pareto.front(able, run.objectives, run.constraints)
    on_front = {one.key for one in front}
    dominated = [one for one in able if one.key not in on_front]
    knee = pareto.knee_candidate(front, run.objectives) if front else None
    return Standing(front, dominated, infeasible, incomplete, failed, knee)
