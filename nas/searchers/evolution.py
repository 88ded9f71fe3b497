"""A genetic algorithm on architectures: a child takes each decision from either parent, and each of its
decisions changes with a chance of one in their number. What survives a generation is each algorithm's own.
"""

from __future__ import annotations

import numpy as np
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.survival import Survival

from nas.searchers.rounds import Rounds, Told, count_setting
from search_spaces import SearchSpace

WORST = 1e12  # what a failed evaluation counts; finite, so that distances stay finite


class Evolution(Rounds):
    """
    Args:
        population: architectures in a generation.
        survival: pymoo's rule which of two generations live on.
        by: what decides between two parents after constraints, the lesser being better, or the greater for
            a name such as "-crowding"; set by the rule.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: int,
        seed: int,
        population: int,
        survival: Survival,
        by: tuple[str, ...],
    ):
        super().__init__(space, objectives, seed)
        self.population = count_setting("population", population, 4)
        self.survival = survival
        self.by = by
        self.problem = Problem(n_var=1, n_obj=objectives, n_ieq_constr=1)
        self.alive = Population()  # X is the number of the row

    def propose(self) -> tuple[np.ndarray, int]:
        if not len(self.alive):
            # random ones hardly ever reach the ends of a front, the ends of the space may
            drawn = self.moves.draw(2 * self.population, self.random)
            return np.concatenate([self.moves.ends, drawn]), self.population
        mothers, fathers = self._parents(4 * self.population), self._parents(4 * self.population)
        children = self.moves.cross(mothers, fathers, self.random)
        return self.moves.mutate(children, self.random), self.population

    def learn(self, told: Told) -> None:
        numbers = [[self.asked.numbers[row.tobytes()]] for row in told.rows]
        young = Population.new(
            X=np.array(numbers),
            F=np.where(np.isfinite(told.losses), told.losses, WORST),
            G=np.minimum(told.violations, WORST)[:, None],
        )
        everyone = Population.merge(self.alive, young)
        self.alive = self.survival.do(
            self.problem, everyone, n_survive=self.population, random_state=self.random
        )

    def _parents(self, count: int) -> np.ndarray:
        """The better of two drawn from the living, either of two equals, each time; (count, decisions)."""
        keys = [self.alive.get("CV").ravel()]
        for name in self.by:
            sign = -1 if name.startswith("-") else 1
            keys.append(sign * self.alive.get(name.removeprefix("-")).astype(float))
        _, level = np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)
        pairs = self.random.integers(len(self.alive), size=(count, 2))
        better = pairs[np.arange(count), level.ravel()[pairs].argmin(axis=1)]
        numbers = self.alive.get("X").ravel().astype(int)[better]
        return np.array([self.asked.rows[number] for number in numbers])
