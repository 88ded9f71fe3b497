"""The sandwich rule: the largest, the smallest and some random architectures in every step.

Yu et al., "BigNAS", ECCV 2020, section 3.1: the largest learns from the labels, all others only from the
largest's predictions on the same images (in-place distillation). A step costs several passes, so it
pays in long trainings rather than in short ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from search_spaces import SearchSpace
from supernets.cost import Costs
from supernets.samplers.plan import Look, Plan, Probe, check_setting


class Sandwich:
    """
    Args:
        randoms: how many random architectures a step trains beside the two extremes.
    """

    def __init__(self, space: SearchSpace, costs: Costs, steps: int, randoms: int = 2):
        self.check(randoms)
        self.space = space
        self.randoms = randoms
        self.largest, self.smallest = costs.table.largest, costs.table.smallest

    @staticmethod
    def check(randoms: int = 2) -> None:
        check_setting("randoms", randoms, 0, 1000, whole=True)

    def plan(self, step: int, random: Random, look: Look) -> Plan:
        drawn = [self.space.sample(random) for _ in range(self.randoms)]
        return Plan((self.largest, self.smallest, *drawn), distil=True)

    def update(self, step: int, random: Random, probe: Probe) -> None:
        """It learns nothing."""

    def observables(self) -> Mapping[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass
