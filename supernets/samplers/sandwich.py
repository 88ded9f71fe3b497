"""The sandwich rule: the largest, the smallest and some other architectures in every step.

Yu et al., "BigNAS", ECCV 2020, section 3.1: the largest learns from the labels, all others only from the
largest's predictions on the same images (in-place distillation). A step costs several passes, so it
pays in long trainings rather than in short ones.

It stands around any sampler, which says what lies between the two: BigNAS draws uniformly, AttentiveNAS
(Wang et al., CVPR 2021) by `attentive`. What that sampler learns goes on as without the sandwich.
"""

from __future__ import annotations

from random import Random

from search_spaces import SearchSpace
from supernets.cost import Costs
from supernets.samplers.plan import Look, Plan, Sampler, Wrapper, check_setting, check_switch


class Sandwich(Wrapper):
    """
    Args:
        of: the sampler of what is trained beside the extremes.
        randoms: how often a step asks that sampler; everything that it plans each time is trained.
        smallest: whether the smallest is trained too.
        distil: whether all but the largest learn from the largest, not from the labels.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: Costs,
        steps: int,
        of: Sampler,
        randoms: int = 2,
        smallest: bool = True,
        distil: bool = True,
    ):
        self.check(randoms=randoms, smallest=smallest, distil=distil)
        super().__init__(of)
        self.randoms, self.distil = randoms, distil
        self.ends = (costs.table.largest, costs.table.smallest) if smallest else (costs.table.largest,)

    @staticmethod
    def check(randoms: int = 2, smallest: bool = True, distil: bool = True) -> None:
        check_setting("randoms", randoms, 0, 1000, whole=True)
        check_switch("smallest", smallest)
        check_switch("distil", distil)

    def plan(self, step: int, random: Random, look: Look) -> Plan:
        plans = [self.of.plan(step, random, look) for _ in range(self.randoms)]
        return Plan((*self.ends, *(one for plan in plans for one in plan.architectures)), self.distil)
