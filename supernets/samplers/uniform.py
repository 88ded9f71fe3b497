"""Uniform sampling: every decision with equal chance, one architecture a step.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020. The cost
of what is drawn is bell-shaped: very cheap and very dear architectures are hardly ever trained.
"""

from __future__ import annotations

from random import Random

from search_spaces import SearchSpace
from supernets.cost import Costs
from supernets.samplers.plan import Look, Plan, Stateless


class Uniform(Stateless):
    def __init__(self, space: SearchSpace, costs: Costs, steps: int):
        self.space = space

    @staticmethod
    def check() -> None:
        """It has no settings."""

    def plan(self, step: int, random: Random, look: Look) -> Plan:
        return Plan((self.space.sample(random),))
