"""NSGA-II by pymoo (Deb et al., IEEE TEC 2002), on architectures themselves: a child takes each decision
from either parent, and each of its decisions changes with a chance of one in their number.

Constraints are handled by the algorithm: what keeps them comes before what does not, and of two that do
not, the lesser violation (Deb's rules).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2 as Algorithm
from pymoo.core.crossover import Crossover
from pymoo.core.duplicate import ElementwiseDuplicateElimination
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.sampling import Sampling
from pymoo.core.termination import NoTermination

from search_spaces import Architecture, SearchSpace

WORST = 1e12  # what a failed evaluation counts; finite, so that crowding distances stay finite


class NSGA2:
    """
    Args:
        population: architectures in a generation.
    """

    def __init__(self, space: SearchSpace, objectives: int, seed: int = 0, population: int = 16):
        if isinstance(population, bool) or not isinstance(population, int) or population < 4:
            raise ValueError(
                f"search.searcher.population is {population!r}; it must be an integer of at least 4"
            )
        self.objectives = objectives
        self.algorithm = Algorithm(
            pop_size=int(min(population, space.size)),
            sampling=_Samples(),
            crossover=_Crossover(),
            mutation=_Mutation(),
            eliminate_duplicates=_Same(),
        )
        problem = Problem(n_var=1, n_obj=objectives, n_ieq_constr=1, vtype=object)
        problem.space, problem.random = space, random.Random(seed)  # for the operators below
        self.algorithm.setup(problem, seed=seed, termination=NoTermination(), verbose=False)
        self.generation: Population = Population()
        self.waiting: list[Architecture] = []  # of the generation, not yet asked for
        self.told: dict[str, tuple[list[float], float]] = {}  # of the generation

    def ask(self, count: int) -> list[Architecture]:
        if not self.waiting and not self._open():
            generation = self.algorithm.ask()
            self.generation = Population() if generation is None else generation
            self.waiting = [individual.X[0] for individual in self.generation]
            self.told = {}
        asked, self.waiting = self.waiting[:count], self.waiting[count:]
        return asked

    def tell(
        self, architecture: Architecture, losses: Sequence[float] | None, violation: float = 0.0
    ) -> None:
        failed = losses is None
        values = [WORST] * self.objectives if failed else list(losses)
        self.told[architecture.key] = values, WORST if failed else violation
        if not self._open():
            rows = [self.told[individual.X[0].key] for individual in self.generation]
            self.generation.set("F", np.array([losses for losses, _ in rows], dtype=float))
            self.generation.set("G", np.array([[violation] for _, violation in rows], dtype=float))
            for individual in self.generation:
                individual.evaluated.update(("F", "G"))
            self.algorithm.tell(infills=self.generation)

    def _open(self) -> bool:
        """Whether something of the generation is still to be told."""
        return any(individual.X[0].key not in self.told for individual in self.generation)


class _Samples(Sampling):
    def _do(self, problem, n_samples, *args, **kwargs):
        """(n, 1) architectures, different ones as far as the space has them.

        The first two are the ends of the space: random ones hardly ever reach the ends of a front.
        """
        space = problem.space
        drawn: dict[str, Architecture] = {}
        for one in chain(space.ends, (space.sample(problem.random) for _ in range(100 * n_samples))):
            drawn.setdefault(one.key, one)
            if len(drawn) == n_samples:
                break
        return _column(list(drawn.values()))


class _Crossover(Crossover):
    def __init__(self):
        super().__init__(n_parents=2, n_offsprings=1)

    def _do(self, problem, X, *args, **kwargs):
        mothers, fathers = X[0, :, 0], X[1, :, 0]
        pairs = zip(mothers, fathers, strict=True)
        children = [problem.space.crossover(mother, father, problem.random) for mother, father in pairs]
        return _column(children)[None]


class _Mutation(Mutation):
    def _do(self, problem, X, *args, **kwargs):
        return _column([problem.space.mutate(one, problem.random) for one in X[:, 0]])


class _Same(ElementwiseDuplicateElimination):
    def is_equal(self, a, b):
        return a.X[0].key == b.X[0].key


def _column(architectures: list[Architecture]) -> np.ndarray:
    """(n, 1) of objects; numpy would otherwise look inside."""
    column = np.empty((len(architectures), 1), dtype=object)
    column[:, 0] = architectures
    return column
