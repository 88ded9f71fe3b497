"""What an objective is predicted to be, with its uncertainty, from rows of integers.

Two predictors, and of each objective the one whose leave-one-out predictions rank better (Kendall's tau):
a Gaussian process whose kernel falls with the weighted number of decisions that differ, exp(-Σ w d²), with a
weight for each decision and one more for the distance of numbers (Rasmussen and Williams, "Gaussian Processes
for Machine Learning", 2006, sections 2.2, 5.1 and 5.4.2); and ridge regression on single decisions and their
pairs, as a process with a polynomial kernel. In both the noise of measurements is fitted.

Losses are predicted as they are, in logarithms, or as normal scores of their ranks, which tell good ones apart where
bad ones span most of the range; ridge regression decides, by the same τ.

Where something predicts an objective already, such as a latency model, both are also fitted to what that leaves over,
and the best of the four is taken: so a bias is learned, and what misleads is left aside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nas.rank_statistics import tau
from search_spaces import SearchSpace

STEPS = 15  # of the optimiser of the weights
MANY, FEWER = 256, 6  # from so many examples on it begins with a third of them, and takes fewer steps
AGAIN = 3  # steps, where it begins with weights for almost the same
LEAST_NOISE = 1e-4  # in variances of what is predicted
BEYOND = 2.0  # by so much the scores of ranks go beyond those of what was measured
FAR = 4.0  # interquartile ranges above the median beyond which bad values are cut off
SMALL = 0.1  # of the least measured: below it, what is said of what was not measured is cut off


class Features:
    """One column per option, built from the space, and one for the place among numbers; see `groups`."""

    def __init__(self, space: SearchSpace):
        counts = [len(decision.options) for decision in space.decisions]
        self.decisions = len(counts)
        self.places = np.repeat(np.arange(len(counts)), counts)
        self.options = np.concatenate([[], *(np.arange(1, count + 1) for count in counts)]).astype(np.int64)
        self.ordered = np.array(
            [
                place
                for place, decision in enumerate(space.decisions)
                if len(decision.options) > 2 and all(isinstance(one, int | float) for one in decision.options)
            ],
            np.int64,
        )
        self.steps = np.array(counts, np.int64)[self.ordered] - 1
        more = len(counts) + np.arange(len(self.ordered))
        self.groups = np.concatenate([self.places, more]).astype(
            np.int64
        )  # of each column, which weight it has
        self._spectrum: tuple[np.ndarray, Spectrum] | None = None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """(n, columns): rows with different options of a decision are 1 apart in it."""
        chosen = (rows[:, self.places] == self.options) * np.sqrt(0.5)
        numbers = rows[:, self.ordered]
        return np.concatenate([chosen, np.where(numbers > 0, (numbers - 1) / self.steps, 0.5)], axis=1)

    def spectrum(self, rows: np.ndarray) -> Spectrum:
        """Of what ridge regression takes for the covariance of rows; that of the last ones is kept, since several
        losses of the same rows are predicted."""
        if self._spectrum is None or not np.array_equal(self._spectrum[0], rows):
            features = self(rows)
            self._spectrum = rows, np.linalg.eigh(PairsKernel(self.decisions)(features, features))
        return self._spectrum[1]


Spectrum = tuple[np.ndarray, np.ndarray]  # eigenvalues, (n,), and their vectors, (n, n)


# -- kernels -----------------------------------------------------------------------------------


class ProductKernel:
    """exp(-Σ scales² (a - b)²) of every pair; scales (columns,)."""

    def __init__(self, scales: np.ndarray):
        self.scales = scales

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-_squares(a * self.scales, b * self.scales))

    def of_equals(self, a: np.ndarray) -> np.ndarray:
        """Of each with itself, (n,)."""
        return np.ones(len(a))


class PairsKernel:
    """(1 + a·b)² of every pair, over its largest: single columns, and products of two."""

    def __init__(self, decisions: int):
        self.most = 1 + decisions / 2

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return ((1 + a @ b.T) / self.most) ** 2

    def of_equals(self, a: np.ndarray) -> np.ndarray:
        return ((1 + (a**2).sum(axis=1)) / self.most) ** 2


Kernel = ProductKernel | PairsKernel


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T, 0)


# -- posterior ---------------------------------------------------------------------------------


class Process:
    """A Gaussian process of mean 0 after n examples.

    Args:
        features: (n, columns).
        targets: (n,)
        kernel: times `scale`, the covariance of what is predicted.
        noise: the variance of what was measured around it.
    """

    def __init__(self, features: np.ndarray, targets: np.ndarray, kernel: Kernel, scale: float, noise: float):
        from scipy.linalg import cholesky

        self.features, self.kernel, self.scale, self.noise = features, kernel, scale, noise
        covariance = scale * kernel(features, features) + noise * np.eye(len(features))
        self.factor = cholesky(covariance, lower=True)
        inverse = _inverse(self.factor)
        self.dual = inverse @ targets
        self.left_out = targets - self.dual / np.diag(inverse)  # (n,): each predicted by the others

    def mean(self, features: np.ndarray) -> np.ndarray:
        return self.scale * self.kernel(features, self.features) @ self.dual

    def mean_and_deviation(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) each; the deviation is of what is predicted, without the noise of measuring it."""
        across, reduced = self._across(features)
        variance = self.scale * self.kernel.of_equals(features) - (reduced**2).sum(axis=0)
        return across @ self.dual, np.sqrt(np.maximum(variance, 1e-12))

    def draws(self, features: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """(draws, n) from the joint posterior; normal: (draws, n) numbers of the standard normal distribution."""
        across, reduced = self._across(features)
        covariance = self.scale * self.kernel(features, features) - reduced.T @ reduced
        return across @ self.dual + normal @ _root(covariance).T

    def _across(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from scipy.linalg import solve_triangular

        across = self.scale * self.kernel(features, self.features)
        return across, solve_triangular(self.factor, across.T, lower=True, check_finite=False)


def _root(covariance: np.ndarray) -> np.ndarray:
    """A matrix whose product with its transpose is the covariance, up to rounding."""
    try:
        return np.linalg.cholesky(covariance + 1e-6 * np.diag(covariance).max() * np.eye(len(covariance)))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return vectors * np.sqrt(np.maximum(values, 0))


def _inverse(factor: np.ndarray) -> np.ndarray:
    """Of the matrix whose lower Cholesky factor it is, (n, n); a third of the work of solving for it."""
    from scipy.linalg.lapack import dpotri

    lower = dpotri(factor, lower=True)[0]
    inverse = lower + lower.T
    np.fill_diagonal(inverse, np.diag(lower))
    return inverse


def fit_product(
    features: np.ndarray, targets: np.ndarray, groups: np.ndarray, start: np.ndarray | None = None
) -> tuple[Process, np.ndarray]:
    """The process whose weights, scale and noise are most likely, under wide log-normal priors.

    Args:
        groups: (columns,): which weight each column has.
        start: where to begin, as returned before for almost the same targets.

    Returns:
        The process, and logarithms of its scale, its noise and its weights.
    """
    from scipy.linalg import LinAlgError, cholesky
    from scipy.optimize import minimize

    several = int(groups.max()) + 1 if len(groups) else 0
    centre = np.concatenate([[0.0, np.log(0.01)], np.full(several, np.log(2 / max(several, 1)))])
    spread = np.concatenate([[1.0, 2.0], np.full(several, 1.2)])
    member = np.eye(several)[groups]  # (columns, weights)
    identity = np.eye(len(targets))

    def unlikeliness(logs: np.ndarray) -> tuple[float, np.ndarray]:
        scale, noise, weights = np.exp(logs[0]), np.exp(logs[1]) + LEAST_NOISE, np.exp(logs[2:])
        scaled = features * np.sqrt(member @ weights)
        kernel = scale * np.exp(-_squares(scaled, scaled))
        try:
            factor = cholesky(kernel + noise * identity, lower=True, check_finite=False)
        except LinAlgError:
            return 1e10, np.zeros_like(logs)
        inverse = _inverse(factor)
        dual = inverse @ targets
        off = (logs - centre) / spread
        value = 0.5 * targets @ dual + np.log(np.diag(factor)).sum() + 0.5 * (off**2).sum()
        slope = inverse - np.outer(dual, dual)
        mixed = slope * kernel
        columns = mixed.sum(axis=1) @ scaled**2 - ((mixed @ scaled) * scaled).sum(axis=0)
        parts = [0.5 * mixed.sum(), 0.5 * np.exp(logs[1]) * np.trace(slope)]
        return value, np.concatenate([parts, -(member.T @ columns)]) + off / spread

    if start is None and len(targets) >= MANY:
        begun, steps = fit_product(features[::3], targets[::3], groups)[1], FEWER
    else:
        begun, steps = (centre, STEPS) if start is None else (start, AGAIN)
    limits = [(low - 4 * wide, low + 4 * wide) for low, wide in zip(centre, spread, strict=True)]
    found = minimize(
        unlikeliness, begun, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": steps}
    ).x
    kernel = ProductKernel(np.sqrt(member @ np.exp(found[2:])))
    process = Process(features, targets, kernel, np.exp(found[0]), np.exp(found[1]) + LEAST_NOISE)
    return process, found


def fit_pairs(features: np.ndarray, targets: np.ndarray, decisions: int, spectrum: Spectrum) -> Process:
    """Ridge regression on options and pairs of options, the penalty that is most likely.

    Args:
        spectrum: of the features' rows, `Features.spectrum`.
    """
    kernel, (values, vectors) = PairsKernel(decisions), spectrum
    values, along = np.maximum(values, 0), (vectors.T @ targets) ** 2

    def unlikeliness(ratio: float) -> tuple[float, float]:
        lengths = values + ratio
        scale = max(float(np.mean(along / lengths)), 1e-9)
        return len(targets) * np.log(scale) + np.log(lengths).sum(), scale

    ratio = min(np.logspace(-4, 2, 19), key=lambda one: unlikeliness(one)[0])
    scale = unlikeliness(ratio)[1]
    return Process(features, targets, kernel, scale, scale * ratio)


# -- of one objective --------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """How losses are turned into what is predicted: in standard deviations, of logarithms where these are less
    skewed, and not of more than what is bad enough; logarithms not of less than a part of the best."""

    logarithm: bool
    least: float
    most: float
    centre: float
    spread: float

    @classmethod
    def plain(cls, values: np.ndarray) -> Scale:
        """Of values that are neither cut nor turned into logarithms."""
        return cls(False, -np.inf, np.inf, float(values.mean()), float(values.std()) or 1.0)

    @classmethod
    def of(cls, losses: np.ndarray) -> Scale:
        most = _most(losses)
        cut = np.minimum(losses, most)
        logarithm = bool(cut.min() > 0 and abs(_skewness(np.log(cut))) < abs(_skewness(cut)))
        least = SMALL * float(cut.min()) if logarithm else -np.inf
        cut = np.log(cut) if logarithm else cut
        return cls(logarithm, least, most, float(cut.mean()), float(cut.std()) or 1.0)

    def there(self, losses: np.ndarray) -> np.ndarray:
        cut = np.clip(losses, self.least, self.most)
        return ((np.log(cut) if self.logarithm else cut) - self.centre) / self.spread

    def back(self, values: np.ndarray) -> np.ndarray:
        values = self.centre + self.spread * np.clip(values, -20, 20)
        return np.exp(values) if self.logarithm else values


@dataclass(frozen=True)
class RankScale:
    """How losses are turned into normal scores of their ranks (B. L. van der Waerden, Indagationes Mathematicae 14,
    1952): straight between what was measured, and beyond as steep as from there to a tenth of it."""

    losses: np.ndarray  # different ones in ascending order, with one beyond each end
    scores: np.ndarray  # of these
    most: float

    @classmethod
    def of(cls, losses: np.ndarray) -> RankScale:
        from scipy.special import ndtri

        different, counts = np.unique(losses, return_counts=True)
        points = np.stack([different, ndtri((np.cumsum(counts) - counts / 2) / len(losses))], axis=1)
        tenth = min(max(len(points) // 10, 1), len(points) - 1)
        low, high = _beyond(points[0], points[tenth]), _beyond(points[-1], points[-1 - tenth])
        return cls(*np.concatenate([[low], points, [high]]).T, most=_most(losses))

    def there(self, losses: np.ndarray) -> np.ndarray:
        return np.interp(losses, self.losses, self.scores)

    def back(self, values: np.ndarray) -> np.ndarray:
        return np.interp(values, self.scores, self.losses)


def _beyond(end: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The loss and score further on, on the line through those of two losses."""
    return end + BEYOND * (end - inner) / max(abs(end[1] - inner[1]), 1e-12)


def _most(losses: np.ndarray) -> float:
    """Above which a loss is bad enough."""
    low, median, high = np.percentile(losses, [25, 50, 75])
    span = max(high - low, 0.1 * (losses.max() - low))
    return float(max(median + FAR * span, high))


def _skewness(values: np.ndarray) -> float:
    off = values - values.mean()
    return float((off**3).mean() / max(off.std(), 1e-12) ** 3)


class Surrogate:
    """The predictor of one objective.

    Args:
        known: what is said of the objective without measuring it: of rows (n, decisions) their losses, (n,). By what
            of them it is off is learned, and if that does not predict better than learning without it, it is left.
    """

    def __init__(self, features: Features, known: Callable[[np.ndarray], np.ndarray] | None = None):
        self.features, self.known = features, known
        self.logs: dict[bool, np.ndarray] = {}

    def fit(
        self, rows: np.ndarray, losses: np.ndarray, scale: Scale | None = None, again: bool = False
    ) -> None:
        """
        Args:
            again: begin with the weights that it had, of almost the same losses of the same rows.
        """
        self.logs = self.logs if again else {}
        self.scale = scale or self._scale(rows, losses)
        targets = self.scale.there(losses)
        fits = self._fits(rows, targets, based=False)
        if self.known is not None:
            fits += self._fits(rows, targets, based=True)
        self.fitted = max(fits, key=lambda one: tau(one.left_out, targets) or 0.0)

    def _scale(self, rows: np.ndarray, losses: np.ndarray) -> Scale | RankScale:
        """The one on which those left out are ranked better."""
        features, spectrum = self.features(rows), self.features.spectrum(rows)

        def agreement(scale: Scale | RankScale) -> float:
            fitted = fit_pairs(features, scale.there(losses), self.features.decisions, spectrum)
            return tau(fitted.left_out, losses) or 0.0

        return max((Scale.of(losses), RankScale.of(losses)), key=agreement)

    def mean(self, rows: np.ndarray) -> np.ndarray:
        """What is expected of rows, (n,) losses."""
        base, process = self._base(rows), self.fitted.process
        return self.scale.back(base + self.fitted.unit * process.mean(self.features(rows)))

    def away(self, rows: np.ndarray, deviations: np.ndarray, own: np.ndarray) -> np.ndarray:
        """What rows are at so many deviations from their mean, (k,): (k, n) losses; `own`, (k,), says where what other
        rows do not explain is theirs, and not noise."""
        mean, deviation = self.fitted.process.mean_and_deviation(self.features(rows))
        deviation = np.sqrt(deviation**2 + own[:, None] * self.fitted.process.noise)
        return self.scale.back(self._base(rows) + self.fitted.unit * (mean + deviations[:, None] * deviation))

    def draws(self, rows: np.ndarray, normal: np.ndarray, rest: np.ndarray) -> np.ndarray:
        """(draws, n) losses from the joint posterior; normal as of `Process.draws`, and `rest` likewise for what other
        rows do not explain, 0 where that is noise."""
        process = self.fitted.process
        drawn = process.draws(self.features(rows), normal) + np.sqrt(process.noise) * rest
        return self.scale.back(self._base(rows) + self.fitted.unit * drawn)

    def _fits(self, rows: np.ndarray, targets: np.ndarray, based: bool) -> list[Fitted]:
        base = self._said(rows) if based else np.zeros(len(rows))
        off = targets - base
        centre, unit = (float(off.mean()), float(off.std()) or 1.0) if based else (0.0, 1.0)
        off, features = (off - centre) / unit, self.features(rows)
        product, self.logs[based] = fit_product(features, off, self.features.groups, self.logs.get(based))
        pairs = fit_pairs(features, off, self.features.decisions, self.features.spectrum(rows))
        return [
            Fitted(one, based, centre, unit, base + centre + unit * one.left_out) for one in (product, pairs)
        ]

    def _base(self, rows: np.ndarray) -> np.ndarray:
        return self.fitted.centre + (self._said(rows) if self.fitted.based else 0.0)

    def _said(self, rows: np.ndarray) -> np.ndarray:
        """What is known of rows before they are measured, on the scale of what is predicted."""
        return self.scale.there(np.asarray(self.known(rows), float))


@dataclass(frozen=True)
class Fitted:
    """A process, and what it is of: what is predicted, or by how much something known is off, in units around a
    centre. `left_out` is what it says of each example from the others, (n,)."""

    process: Process
    based: bool
    centre: float
    unit: float
    left_out: np.ndarray
