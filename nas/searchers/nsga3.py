"""NSGA-III by pymoo (Deb and Jain, IEEE Transactions on Evolutionary Computation 18, 2014): like NSGA-II, but of
the last front lives on what is nearest to directions, spread evenly, that have few neighbours. For three
objectives and more.
"""

from __future__ import annotations

import math

import numpy as np
from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival
from pymoo.util.ref_dirs import get_reference_directions

from nas.searchers.evolution import Evolution
from nas.searchers.rounds import count_setting
from search_spaces import SearchSpace


class NSGA3(Evolution):
    """
    Args:
        population: architectures in a generation. As many directions as fit are spread (Das and Dennis 1998).
    """

    def __init__(self, space: SearchSpace, objectives: int, seed: int = 0, population: int = 16):
        survival = ReferenceDirectionSurvival(
            directions(objectives, count_setting("population", population, 4))
        )
        super().__init__(space, objectives, seed, population, survival, ())


def directions(objectives: int, most: int) -> np.ndarray:
    """Evenly spread points of the simplex, at most so many of them, but one per objective; (n, objectives)."""
    if objectives == 1:
        return np.ones((1, 1))
    parts = 1
    while math.comb(parts + objectives, parts + 1) <= most:
        parts += 1
    return get_reference_directions("das-dennis", objectives, n_partitions=parts)
