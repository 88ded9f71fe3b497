"""The update rule of shift sampling, as functions of arrays over the K bins.

Zhang et al., "ShiftNAS", ICCV 2023, equations 5 to 8, and what `samplers.shift` adds to them.
"""

from __future__ import annotations

import math

import numpy as np

LEAST = 0.25  # of the average bin's visits: below, a bin's progress per visit is mostly noise


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def exact_gradient(logits: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Of the expected change of the loss, sum_k p_k d_k, in the logits: p_k (d_k - sum_j p_j d_j), (K,)."""
    weights = softmax(logits)
    return weights * (change - weights @ change)


def pathwise_gradient(
    logits: np.ndarray,
    change: np.ndarray,
    costs: np.ndarray,
    dice: np.random.Generator,
    temperature: float = 1.0,
) -> np.ndarray:
    """The paper's estimate of the same, from one straight-through Gumbel-softmax draw, (K,).

    The draw times the bins' costs is one cost C, and only the slope of the change of the loss in C goes back to
    the logits. The slope at the bin drawn is a finite difference (of second order within the range) over
    its neighbours; `costs`, (K,), rise.
    """
    noisy = logits + dice.gumbel(size=len(logits))
    slope = np.gradient(change, costs)[noisy.argmax()] if len(costs) > 1 else 0.0
    soft = softmax(noisy / temperature)
    return slope * soft * (costs - soft @ costs) / temperature


def per_visit(visits: np.ndarray) -> np.ndarray:
    """What divides each bin's progress, (K,): 1 where it was visited as often as the average, at least LEAST."""
    return np.maximum(visits / max(visits.sum(), 1) * len(visits), LEAST)


def per_cost(visits: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """The same by what the visits cost, (K,), with the cost of one step in each bin, (K,)."""
    return per_visit(visits) * costs / costs.mean()


def step_costs(steps: np.ndarray, macs: np.ndarray, overhead: float) -> np.ndarray:
    """The MACs of one step in each bin, (K,), from what was trained there; the average of the others where
    nothing was. `overhead`, a share of the average bin's, is added to each."""
    known = steps > 0
    costs = np.divide(macs, steps, out=np.zeros(len(steps)), where=known)
    costs = np.where(known, costs, costs[known].mean() if known.any() else 1.0)
    return costs + overhead * costs.mean()


def deviation(changes: np.ndarray, divisors: np.ndarray) -> float:
    """The largest |t| of a bin's progress, mean of some updates, against the mean of all bins.

    Args:
        changes: (U, K, M), at U updates, of the M architectures of each bin, each paired: then and now on the
            same images.
        divisors: (U, K) what their means are divided by.

    Returns:
        The deviation over its standard error, from the spread within bins, pooled: U K (M - 1) degrees of
        freedom. 0 where all bins are alike; infinite where they differ without any spread.
    """
    updates, bins, pairs = changes.shape
    spread = changes.var(axis=2, ddof=1).mean() / pairs
    variance = spread * (1 / divisors**2).sum(axis=0) / updates**2  # of each bin's mean over the updates
    means = (changes.mean(axis=2) / divisors).mean(axis=0)
    distance = np.abs(means - means.mean())
    error = np.sqrt(variance * (1 - 2 / bins) + variance.sum() / bins**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nan_to_num(distance / error, nan=0.0, posinf=np.inf).max())


def chance(deviation: float, bins: int, degrees: int) -> float:
    """How often noise alone would give a deviation as large in some bin (Šidák 1967, as if bins were independent).

    Args:
        degrees: of freedom, U K (M - 1).
    """
    return 1 - within(deviation, degrees) ** bins


def within(t: float, degrees: int) -> float:
    """How often Student's t with so many degrees of freedom is nearer to 0 than t, which is 0 or more.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.3 and 26.7.4: a finite sum for whole degrees.
    """
    angle = math.atan(t / math.sqrt(degrees))
    is_odd = degrees % 2 == 1
    term = math.cos(angle) if is_odd else 1.0
    total = term if degrees > 1 else 0.0
    for power in range(3 if is_odd else 2, degrees - 1, 2):
        term *= math.cos(angle) ** 2 * (power - 1) / power
        total += term
    part = math.sin(angle) * total
    return 2 / math.pi * (angle + part) if is_odd else part


def adam(moments: np.ndarray, updates: int, gradient: np.ndarray, rate: float) -> np.ndarray:
    """What Adam (Kingma, Ba, ICLR 2015, with its constants) adds in update number `updates`, from 1.

    Args:
        moments: (2, K), brought up to date in place.
    """
    for moment, decay, new in zip(moments, (0.9, 0.999), (gradient, gradient**2), strict=True):
        moment += (1 - decay) * (new - moment)
    first = moments[0] / (1 - 0.9**updates)
    second = moments[1] / (1 - 0.999**updates)
    return -rate * first / (np.sqrt(second) + 1e-12)
