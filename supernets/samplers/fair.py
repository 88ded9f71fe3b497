"""Strict fairness: in every step each option of each decision is trained equally often.

Chu, Zhang, Xu, "FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural Architecture Search", ICCV
2021, section 3. For each decision the options are dealt out to the m architectures of a step in a random
order; their gradients are added, one optimiser step is made. m is the most options that any decision has,
so a step costs m passes.

The paper's decisions all have m options and always arise. Ours need not:

- Of n < m options each gets m // n turns, and m % n that are drawn get one more.
- A decision that arises in only k of the m architectures, such as a block's beyond the depth of some, is
  dealt out to those k: there too the turns of two options differ by at most one. But where k < n some options
  get no turn in the step, and how often the decision arises is up to others: the last blocks of a stage are
  trained less than the first.
- In cells, where the two paths of a block are sorted, this holds for each path as it is dealt out: the turns
  of an operator in a block, both paths together, differ from another's by at most two.

Fair to options is not fair to cost: the cost of what is trained is bell-shaped as with `uniform`.
"""

from __future__ import annotations

from random import Random

import numpy as np

from search_spaces import SearchSpace
from supernets.cost import Costs
from supernets.samplers.plan import Look, Plan, Stateless


class Fair(Stateless):
    """The plan holds every architecture as often as it was dealt, since the turns count repeated ones too."""

    def __init__(self, space: SearchSpace, costs: Costs, steps: int):
        self.space = space
        self.models = max((len(decision.options) for decision in space.decisions), default=1)

    @staticmethod
    def check() -> None:
        """It has no settings."""

    def plan(self, step: int, random: Random, look: Look) -> Plan:
        decisions = self.space.decisions
        vectors = np.zeros((self.models, len(decisions)), np.int64)
        dealt, arising = np.zeros_like(vectors, bool), np.ones_like(vectors, bool)
        while (dealt != arising).any():  # a few rounds: whether a decision arises hangs on ones before it
            for place in np.flatnonzero((dealt != arising).any(axis=0)):
                there = arising[:, place]
                vectors[there, place] = deal(there.sum(), len(decisions[place].options), random)
            dealt, arising = arising, self.space.canonical(vectors) > 0
        return Plan(tuple(self.space.decode(vector) for vector in vectors.tolist()))


def deal(turns: int, options: int, random: Random) -> list[int]:
    """The numbers of the options, from 1, in random order: each as often as another, or once more."""
    each, more = divmod(turns, options)
    dealt = [*range(1, options + 1)] * each + random.sample(range(1, options + 1), more)
    random.shuffle(dealt)
    return dealt
