"""Who comes before whom, with any number of objectives and with constraints."""

from __future__ import annotations

import numpy as np

from nas.pareto import nondominated
from nas.searchers.rounds import Told


def ranks(told: Told) -> np.ndarray:
    """0 for what nothing dominates, 1 for what only those dominate, and so on, (n,).

    After all that keep the constraints come those that do not, the lesser violation first, and after them
    what failed: the rules of K. Deb, "An efficient constraint handling method for genetic algorithms",
    Computer Methods in Applied Mechanics and Engineering 186, 2000.
    """
    rank = np.empty(len(told), np.int64)
    left, number = np.flatnonzero(told.violations <= 0), 0
    while len(left):
        first = nondominated(told.losses[left])
        rank[left[first]] = number
        left, number = left[~first], number + 1
    broken = told.violations > 0
    _, order = np.unique(told.violations[broken], return_inverse=True)
    rank[broken] = number + order
    return rank
