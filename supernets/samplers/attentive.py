"""Attentive sampling: of some architectures of about one cost, train the best or the worst.

Wang et al., "AttentiveNAS: Improving Neural Architecture Search via Attentive Sampling", CVPR 2021, section
3. A target cost is drawn as often as uniform sampling meets it; `candidates` architectures of that cost are
drawn and ranked by their loss on the step's own images, without gradient; only the first (BestUp) or the last
(WorstUp) is trained. The paper does so within the sandwich: `{name: sandwich, of: attentive}`.

Beside its training pass a step costs a forward pass for each candidate. The paper tables what an
architecture of a given cost looks like from uniform samples; ours come from the wider pool of `cost_bins`.
"""

from __future__ import annotations

from random import Random

import numpy as np

from search_spaces import SearchSpace
from supernets.cost import Costs
from supernets.samplers.cost_bins import cost_bins, uniform_vectors
from supernets.samplers.plan import Look, Plan, Stateless, check_cost, check_one_of, check_setting

PRIOR = 5000  # uniform draws whose costs make the histogram
PICKS = {"best": min, "worst": max}


class Attentive(Stateless):
    """
    Args:
        cost: macs, parameters, bytes or latency_ms.
        bins: how many bins of equal width in that cost the target is drawn from; sparse ones are merged.
        candidates: how many architectures of the target cost are ranked.
        pick: best, the one of least loss, or worst.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: Costs,
        steps: int,
        cost: str = "macs",
        bins: int = 50,
        candidates: int = 3,
        pick: str = "best",
    ):
        self.check(cost=cost, bins=bins, candidates=candidates, pick=pick)
        self.candidates, self.pick = candidates, PICKS[pick]
        self.bins = cost_bins(space, costs.of(cost), bins, (costs.table.smallest, costs.table.largest))
        drawn = space.canonical(uniform_vectors(space, PRIOR, np.random.default_rng(0)))
        counts = np.bincount(self.bins.bin_of(self.bins.cost(drawn)), minlength=len(self.bins))
        self.prior = counts / PRIOR

    @staticmethod
    def check(cost: str = "macs", bins: int = 50, candidates: int = 3, pick: str = "best") -> None:
        check_cost(cost)
        check_setting("bins", bins, 1, 1000, whole=True)
        check_setting("candidates", candidates, 1, 1000, whole=True)
        check_one_of("pick", pick, PICKS)

    def plan(self, step: int, random: Random, look: Look) -> Plan:
        [target] = random.choices(range(len(self.bins)), self.prior)
        drawn = [self.bins.sample(target, random) for _ in range(self.candidates)]
        return Plan((self.pick(drawn, key=look),))
