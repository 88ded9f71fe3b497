"""Ridge regression on relative errors, its penalty chosen by leave-one-out.

A. E. Hoerl and R. W. Kennard, "Ridge regression", Technometrics 12, 1970. What a fit without the i-th example says of
it follows from the fit with it, whose error e_i is 1 - h_ii of the other: D. M. Allen, "The relationship between
variable selection and data augmentation and a method for prediction", Technometrics 16, 1974.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PENALTIES = np.logspace(-5, 3, 33)
FOLDS = 10


@dataclass(frozen=True)
class Ridge:
    """A linear function, `features @ coefficients + intercept`, and the penalty it was fitted with."""

    intercept: float
    coefficients: np.ndarray  # (features,)
    penalty: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return features @ self.coefficients + self.intercept


def ridge(features: np.ndarray, targets: np.ndarray) -> Ridge:
    """The fit of least Σ ((x·w + b) / y - 1)² + λ |w|², with the λ that leave-one-out finds best.

    Args:
        features: (n, features), of about equal scale.
        targets: (n,) positive numbers. They are measured in their median, so that λ has no unit.
    """
    unit = float(np.median(targets))
    scale = unit / targets
    constant = scale / np.linalg.norm(scale)  # the intercept as a unit vector, which is not penalised
    scaled = features * scale[:, None]
    free = scaled - np.outer(constant, constant @ scaled)
    ones = np.ones(len(targets))
    wanted = ones - constant * constant.sum()
    left, singular, right = np.linalg.svd(free, full_matrices=False)
    along = left.T @ wanted

    def left_out_error(penalty: float) -> float:
        kept = singular**2 / (singular**2 + penalty)
        leverage = constant**2 + left**2 @ kept
        return float(np.mean(((wanted - left @ (kept * along)) / np.maximum(1 - leverage, 1e-9)) ** 2))

    penalty = min(PENALTIES, key=left_out_error)
    weights = right.T @ (singular / (singular**2 + penalty) * along)
    intercept = constant @ (ones - scaled @ weights) / np.linalg.norm(scale)
    return Ridge(unit * float(intercept), unit * weights, float(penalty))


def held_out(features: np.ndarray, targets: np.ndarray, seed: int = 0) -> np.ndarray:
    """What is predicted of each example, (n,), by a fit, penalty included, that has not seen its fold."""
    folds = np.random.default_rng(seed).permutation(len(targets)) % min(FOLDS, len(targets))
    predictions = np.empty(len(targets))
    for fold in range(folds.max() + 1):
        there = folds == fold
        predictions[there] = ridge(features[~there], targets[~there])(features[there])
    return predictions
