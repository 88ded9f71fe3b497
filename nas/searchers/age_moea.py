"""AGE-MOEA on pymoo: like NSGA-II, but what lives on is near to the ideal and far from the others by a distance
that is fitted to the shape of the front.

A. Panichella, "An adaptive evolutionary algorithm based on non-Euclidean geometry for many-objective
optimization", GECCO 2019. The rule of survival is written here, since that of pymoo compiles itself with numba
at every start.
"""

from __future__ import annotations

import numpy as np
from pymoo.core.survival import Survival
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from nas.searchers.evolution import Evolution
from search_spaces import SearchSpace

LEAST = 1e-8  # below which lengths count as this


class AGEMOEA(Evolution):
    """
    Args:
        population: architectures in a generation.
    """

    def __init__(self, space: SearchSpace, objectives: int, seed: int = 0, population: int = 16):
        super().__init__(space, objectives, seed, population, _Survival(), ("rank", "-score"))


class _Survival(Survival):
    def __init__(self) -> None:
        super().__init__(filter_infeasible=True)

    def _do(self, problem, pop, *args, n_survive=None, **kwargs):
        losses, living = pop.get("F"), []
        fronts = NonDominatedSorting().do(losses, n_stop_if_ranked=n_survive)
        first = losses[fronts[0]]
        ideal = first.min(axis=0)
        corners = corner_points(first - ideal)
        scale = intercepts((first - ideal)[corners])
        p = curvature((first - ideal) / scale, corners)
        for rank, front in enumerate(fronts):
            points = (losses[front] - ideal) / scale
            scores = survival_scores(points, corners, p) if rank == 0 else 1 / _length(points, p)
            for place in np.argsort(-scores, kind="stable")[: n_survive - len(living)]:
                pop[front[place]].set("rank", rank).set("score", scores[place])
                living.append(front[place])
        return pop[living]


def corner_points(points: np.ndarray) -> np.ndarray:
    """Of each objective the point nearest to its axis, (m,) places; no point twice while there are others."""
    corners: list[int] = []
    for objective in range(points.shape[1]):
        distance = np.linalg.norm(np.delete(points, objective, axis=1), axis=1)
        if len(corners) < len(points):
            distance[corners] = np.inf
        corners.append(int(distance.argmin()))
    return np.array(corners)


def intercepts(corners: np.ndarray) -> np.ndarray:
    """Where the plane through the corners, (m, m), cuts the axes; their largest values where it does not. (m,)"""
    largest = corners.max(axis=0)
    try:
        cuts = 1 / np.linalg.solve(corners, np.ones(len(corners)))
    except (np.linalg.LinAlgError, ZeroDivisionError):
        cuts = largest
    if not np.isfinite(cuts).all() or (cuts <= LEAST).any():
        cuts = largest
    return np.where(cuts > LEAST, cuts, 1.0)


def curvature(points: np.ndarray, corners: np.ndarray) -> float:
    """The p of the norm in which the front is a sphere around the ideal, by its most central point; section 3.2.

    1 is a plane, 2 a ball; below 1 the front bulges towards the ideal.
    """
    m = points.shape[1]
    off = np.linalg.norm(points - points.mean(axis=1, keepdims=True), axis=1)
    off[corners] = np.inf
    height = points[off.argmin()].mean()
    if m == 1 or not np.isfinite(off.min()) or not 0 < height < 1:
        return 1.0
    p = np.log(m) / -np.log(height)
    return float(np.clip(p, 0.1, 20))  # beyond these, powers leave the range of floats


def survival_scores(points: np.ndarray, corners: np.ndarray, p: float) -> np.ndarray:
    """Of each point of the first front, (n,): infinite at the corners, then, one after the other, the distance
    from the two nearest of those that were taken before, over that from the ideal."""
    scores = np.zeros(len(points))
    scores[corners] = np.inf
    distances = np.maximum(_length(points[:, None] - points[None], p), LEAST) / _length(points, p)[:, None]
    taken = np.isinf(scores)
    for _ in range(int((~taken).sum())):
        left = np.flatnonzero(~taken)
        near = np.sort(distances[np.ix_(left, np.flatnonzero(taken))], axis=1)[:, :2].sum(axis=1)
        best = near.argmax()
        scores[left[best]] = near[best]
        taken[left[best]] = True
    return scores


def _length(points: np.ndarray, p: float) -> np.ndarray:
    return np.maximum((np.abs(points) ** p).sum(axis=-1) ** (1 / p), LEAST)
