"""Regularised evolution: the best of a few drawn from the population has a mutated child, and the oldest dies.

E. Real, A. Aggarwal, Y. Huang, Q. V. Le, "Regularized Evolution for Image Classifier Architecture Search",
AAAI 2019, algorithm 1. Several objectives: the best is drawn from what nothing among the few dominates.
"""

from __future__ import annotations

import numpy as np

from nas.searchers.ranks import ranks
from nas.searchers.rounds import Rounds, Told, count_setting
from search_spaces import SearchSpace

CHILDREN = 4  # of a round, which are evaluated side by side


class RegularisedEvolution(Rounds):
    """
    Args:
        population: architectures that are alive; the paper has 100, for 20,000 evaluations.
        sample: how many of them are drawn for each child; the paper has 25.
    """

    def __init__(
        self, space: SearchSpace, objectives: int, seed: int = 0, population: int = 24, sample: int = 8
    ):
        super().__init__(space, objectives, seed)
        self.population = count_setting("population", population, 4)
        self.sample = count_setting("sample", sample, 1)
        if sample > population:
            raise ValueError(
                f"search.searcher.sample is {sample}; it must not exceed the population of {population}"
            )
        self.alive = self.nothing()  # the oldest first

    def propose(self) -> tuple[np.ndarray, int]:
        if not len(self.alive):
            first = [self.moves.ends, self.moves.draw(2 * self.population, self.random)]
            return np.concatenate(first), self.population
        wanted = np.concatenate([self._child() for _ in range(3 * CHILDREN)])
        return wanted, CHILDREN

    def learn(self, told: Told) -> None:
        self.alive = (self.alive + told)[-self.population :]

    def _child(self) -> np.ndarray:
        drawn = self.alive[self.random.integers(len(self.alive), size=self.sample)]
        best = np.flatnonzero((rank := ranks(drawn)) == rank.min())
        return self.moves.mutate(drawn.rows[[self.random.choice(best)]], self.random)
