"""NSGA-II by pymoo (Deb, Pratap, Agarwal, Meyarivan, IEEE Transactions on Evolutionary Computation 6, 2002):
the first fronts live on, and of the last one what is least crowded.

What keeps the constraints comes before what does not, and of two that do not, the lesser violation.
"""

from __future__ import annotations

from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from nas.searchers.evolution import Evolution
from search_spaces import SearchSpace


class NSGA2(Evolution):
    """
    Args:
        population: architectures in a generation.
    """

    def __init__(self, space: SearchSpace, objectives: int, seed: int = 0, population: int = 16):
        super().__init__(space, objectives, seed, population, RankAndCrowding(), ("rank", "-crowding"))
