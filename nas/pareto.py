"""Dominance, hypervolume, knee: always computed from the candidates, never stored.

Points are arrays (n, m), one row per point, one column per objective, all to be minimised and finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import moocore
import numpy as np

from nas.storage.records import Candidate, Constraint, Objective

ROUNDING = 1e-12  # must not decide between equals


def nondominated(points: np.ndarray) -> np.ndarray:
    """Which points no other point dominates, as a mask (n,); of equal points all are kept.

    A point dominates another if it is nowhere worse and somewhere better.
    """
    points = _points(points)
    if len(points) == 0:
        return np.zeros(0, bool)
    return np.asarray(moocore.is_nondominated(points, keep_weakly=True), bool)


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """The volume that the points dominate, up to the reference point (m,); more is better.

    Points that are not better than the reference in every objective add nothing. The unit is the product
    of the units, so two hypervolumes compare only under the same reference.
    """
    points, reference = _points(points), np.asarray(reference, float)
    if len(points) == 0:
        return 0.0
    if reference.shape != points.shape[1:]:
        raise ValueError(
            f"a reference for {points.shape[1]} objectives has shape {points.shape[1:]}, "
            f"not {reference.shape}"
        )
    return float(moocore.hypervolume(points, ref=reference))


def reference_point(points: np.ndarray) -> np.ndarray:
    """The worst of the points in each objective and a tenth of its range beyond, (m,).

    The tenth is there so that the extreme points count too. An objective without range gets a tenth of its
    magnitude.
    """
    points = _points(points)
    if len(points) == 0:
        raise ValueError("there is no reference point for no points")
    worst, span = points.max(axis=0), np.ptp(points, axis=0)
    magnitude = np.where(worst == 0, 1, np.abs(worst))
    return worst + 0.1 * np.where(span > 0, span, magnitude)


def knee(points: np.ndarray) -> int:
    """The index of the knee: the point of the front farthest from the plane through its extremes.

    After I. Das, "On characterizing the 'knee' of the Pareto curve based on Normal-Boundary Intersection",
    Structural Optimization 18, 1999. Each objective is scaled so that the front spans [0, 1]; no logarithm
    is taken. The extremes are the unit points of the axes, each best in every objective but one: for two
    objectives these are the ends of the front. Their plane is `sum = 1`, and a point's distance from it
    towards the ideal, 0, is `(1 - sum) / √m`.

    Of two points, and of a front that bulges away from the ideal, none lies beyond the plane: the knee is then
    the point that gives up least, see `_kept`. Of equal points the first is the knee. An objective in which all points
    are equal says nothing.
    """
    points = _points(points)
    if len(points) == 0:
        raise ValueError("there is no knee of no points")
    on_front = np.flatnonzero(nondominated(points))
    front = points[on_front]
    best, span = front.min(axis=0), np.ptp(front, axis=0)
    scaled = (front - best) / np.where(span > 0, span, 1)
    better = (1 - scaled.sum(axis=1)) / math.sqrt(points.shape[1])
    if better.max() < ROUNDING:
        better = _kept(front)
    return int(on_front[np.flatnonzero(better >= better.max() - ROUNDING)[0]])


def _kept(front: np.ndarray) -> np.ndarray:
    """How much of what the front offers each point keeps, (n,): 1 if it were best in everything.

    In each objective a point gives up its distance from the best, as a share of the largest magnitude there: 0.03 for
    3 % more milliseconds, 0.45 for 26 % right where another has 47 %. What it keeps of all is the product of what is
    left of each: its hypervolume alone, up to a whole magnitude from the best. The ranges of the front cannot weigh
    objectives here, since its ends are alike by them. Units do not matter; where zero lies does.
    """
    magnitude = np.maximum(np.abs(front).max(axis=0), np.ptp(front, axis=0))
    given_up = (front - front.min(axis=0)) / np.where(magnitude > 0, magnitude, 1)
    return (1 - given_up).prod(axis=1)


def front(
    candidates: Sequence[Candidate],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint] = (),
) -> list[Candidate]:
    """The candidates that nothing dominates, in ascending order of the last objective.

    Only those count that were measured in every objective, accuracy on all images, and keep every constraint,
    uncertain values by their worse end.
    """
    constraints = tuple(constraints)
    needed = [objective.key for objective in objectives] + [limit.key for limit in constraints]
    able = [one for one in candidates if _measured(one, needed) and one.feasible(constraints)]
    if not able:
        return []
    mask = nondominated(losses(able, objectives))
    best = [one for one, keep in zip(able, mask, strict=True) if keep]
    return sorted(best, key=lambda one: (one.values[objectives[-1].key], one.number))


def knee_candidate(front: Sequence[Candidate], objectives: Sequence[Objective]) -> Candidate:
    """The candidate at the knee of a front that `front` returned."""
    return front[knee(losses(front, objectives))]


def losses(candidates: Sequence[Candidate], objectives: Sequence[Objective]) -> np.ndarray:
    """The candidates as points to be minimised, (n, m)."""
    return np.array(
        [[objective.loss(one.values[objective.key]) for objective in objectives] for one in candidates]
    ).reshape(len(candidates), len(objectives))


def _measured(candidate: Candidate, keys: Sequence[str]) -> bool:
    if not candidate.whole and "accuracy" in keys:
        return False
    return candidate.error is None and all(math.isfinite(candidate.values.get(key, math.nan)) for key in keys)


def _points(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, float)
    if points.ndim != 2:
        raise ValueError(f"points are an array (n, objectives), not {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError(
            "points must be finite: a value that is NaN or infinite can neither dominate nor be kept"
        )
    return points
