"""Linear regression on relative errors with a penalty of its own for each group of coefficients, written with kernels.

Coefficients have independent normal priors of mean 0; a group has one variance, found with that of the noise as
those under which the measurements are most likely (D. J. C. MacKay, "Bayesian interpolation", Neural Computation 4,
1992), under wide log-normal priors. That is ridge regression whose penalties the data choose. What a fit
without the i-th example says of it follows from the fit with it: D. M. Allen, "The relationship between variable
selection and data augmentation and a method for prediction", Technometrics 16, 1974.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

STEPS = 40  # of the optimiser of the variances
CONSTANT = 100.0  # variance of the intercept, in squares of the median: hardly penalised
NOISE = 0.03, 1.0  # of what is not explained: relative deviation expected, and width of the prior of its log
VARIANCE = 0.1, 2.0  # of a group of coefficients, likewise
LEAST_NOISE = 1e-3


@dataclass(frozen=True)
class Regression:
    """What n measurements say.

    `variances` are of the groups of coefficients, (groups,), in squares of `unit`, and `noise` the relative deviation
    of what is not explained; `duals` (n,) make predictions: of an example with the covariances k (n,) to what was
    measured, k @ duals. `left_out` (n,) is by how much each measurement exceeds what the others predict, relative to
    it.
    """

    unit: float
    variances: np.ndarray
    noise: float
    duals: np.ndarray
    left_out: np.ndarray
    _root: np.ndarray  # (n, n): the inverse of the lower Cholesky factor, times what scales the examples

    def covariances(self, kernels: np.ndarray) -> np.ndarray:
        """Of kernels (groups, a, b): the prior covariances (a, b), that of the intercept included."""
        return self.unit**2 * (CONSTANT + np.tensordot(self.variances, kernels, 1))

    def prior(self, squares: np.ndarray) -> np.ndarray:
        """The prior variances, (m,), of examples whose products with themselves are (groups, m)."""
        return self.unit**2 * (CONSTANT + self.variances @ squares)

    def reduced(self, covariances: np.ndarray) -> np.ndarray:
        """(n, m) of covariances to what was measured, (m, n): those of two examples less the product of their
        columns is what is left of their covariance after the measurements."""
        return self._root @ covariances.T


def regress(
    kernels: np.ndarray,
    targets: np.ndarray,
    deviations: np.ndarray,
    found: tuple[np.ndarray, float] | None = None,
) -> Regression:
    """
    Args:
        kernels: (groups, n, n) products of the examples' features.
        targets: (n,) positive numbers.
        deviations: (n,) of the noise of each measurement, relative to it; that of all comes in addition.
        found: the variances and the noise, where they are known.
    """
    from scipy.linalg import cho_factor, cho_solve, solve_triangular

    count, unit = len(targets), float(np.median(targets))
    scale = unit / targets
    scaled = kernels * np.outer(scale, scale)
    constant = CONSTANT * np.outer(scale, scale)
    ones, identity = np.ones(count), np.eye(count)

    def factor(logs: np.ndarray):
        covariance = constant + np.tensordot(np.exp(logs[1:]), scaled, 1)
        covariance[np.diag_indices(count)] += np.exp(2 * logs[0]) + LEAST_NOISE**2 + deviations**2
        return cho_factor(covariance, lower=True, check_finite=False)

    def unlikeliness(logs: np.ndarray) -> tuple[float, np.ndarray]:
        lower = factor(logs)
        inverse = cho_solve(lower, identity, check_finite=False)
        dual = inverse @ ones
        slope = 0.5 * (inverse - np.outer(dual, dual))
        off = (logs - centre) / spread
        value = 0.5 * ones @ dual + np.log(np.diag(lower[0])).sum() + 0.5 * off @ off
        of_noise = 2 * np.exp(2 * logs[0]) * np.trace(slope)
        of_groups = np.exp(logs[1:]) * np.tensordot(scaled, slope, 2)
        return value, np.concatenate([[of_noise], of_groups]) + off / spread

    centre = np.log([NOISE[0], *[VARIANCE[0]] * len(kernels)])
    spread = np.array([NOISE[1], *[VARIANCE[1]] * len(kernels)])
    logs = _least(unlikeliness, centre, 4 * spread) if found is None else np.log([found[1], *found[0]])
    lower = factor(logs)
    inverse = cho_solve(lower, identity, check_finite=False)
    dual = inverse @ ones
    return Regression(
        unit=unit,
        variances=np.exp(logs[1:]),
        noise=float(np.exp(logs[0])),
        duals=dual * scale / unit,
        left_out=dual / np.diag(inverse),
        _root=solve_triangular(lower[0], np.diag(scale / unit), lower=True, check_finite=False),
    )


def _least(function: Callable, centre: np.ndarray, reach: np.ndarray) -> np.ndarray:
    from scipy.optimize import minimize

    limits = list(zip(centre - reach, centre + reach, strict=True))
    found = minimize(function, centre, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": STEPS})
    return found.x
