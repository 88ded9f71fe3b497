"""Who comes before whom, with any number of objectives and with constraints."""

from __future__ import annotations

import math

import numpy as np

from nas.pareto import nondominated
from nas.searchers.rounds import Told


def ranks(told: Told, enough: float = math.inf) -> np.ndarray:
    """0 for what nothing dominates, 1 for what only those dominate, and so on, (n,); once so many are `enough`, all
    others that keep the constraints share a rank.

    After all that keep the constraints come those that do not, the lesser violation first, and after them
    what failed: the rules of K. Deb, "An efficient constraint handling method for genetic algorithms",
    Computer Methods in Applied Mechanics and Engineering 186, 2000.
    """
    rank, broken = np.empty(len(told), np.int64), told.violations > 0
    kept = left = np.flatnonzero(~broken)
    number = 0
    while len(left) and len(kept) - len(left) < enough:
        first = nondominated(told.losses[left])
        rank[left[first]] = number
        left, number = left[~first], number + 1
    rank[left] = number
    _, order = np.unique(told.violations[broken], return_inverse=True)
    rank[broken] = number + (len(left) > 0) + order
    return rank
