"""Uniform over cost: a bin of cost with equal chance, then an architecture of about that cost.

What cheap and dear architectures lack under uniform sampling per decision they get here: every bin of equal
width in the cost is trained equally often. `cost_bins` says how an architecture is drawn from a bin, and why
a bin that holds too few is merged with its neighbour; bins that were merged share one turn.
"""

from __future__ import annotations

from random import Random

from search_spaces import SearchSpace
from supernets.cost import Costs
from supernets.samplers.cost_bins import cost_bins
from supernets.samplers.plan import Look, Plan, Stateless, check_cost, check_setting


class UniformCost(Stateless):
    """
    Args:
        cost: macs, parameters, bytes or latency_ms.
        bins: how many bins of equal width in that cost; sparse ones are merged.
    """

    def __init__(self, space: SearchSpace, costs: Costs, steps: int, cost: str = "macs", bins: int = 8):
        self.check(cost=cost, bins=bins)
        self.bins = cost_bins(space, costs.of(cost), bins, (costs.table.smallest, costs.table.largest))

    @staticmethod
    def check(cost: str = "macs", bins: int = 8) -> None:
        check_cost(cost)
        check_setting("bins", bins, 1, 1000, whole=True)

    def plan(self, step: int, random: Random, look: Look) -> Plan:
        return Plan((self.bins.sample(random.randrange(len(self.bins)), random),))
