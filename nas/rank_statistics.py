"""How well one ranking agrees with another: Kendall's tau with its uncertainty, the top, rank differences.

Scores are arrays (n,), more is better; NaN stands for what was not measured and takes no part. In place of estimated
scores there may be comparisons, (n, n): 1 where the one of the row is estimated better than that of the column, -1
where worse, something between them where that is less than sure. Intervals are
of 95 %. What cannot be computed, as a tau of equal scores, is None.

M. G. Kendall, "A new measure of rank correlation", Biometrika 30, 1938, and "The treatment of ties in ranking
problems", Biometrika 33, 1945. X. Ning et al., "Evaluating efficient performance estimators of neural
architectures", NeurIPS 2021: the criteria for supernets. B. Efron, "Bootstrap methods: another look at the
jackknife", Annals of Statistics 7, 1979.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROWS = 512  # of a matrix of pairs that are in memory at once
PAIRS = 4e9  # of architectures in all bootstrap samples together
Pair = tuple[np.ndarray, np.ndarray]  # estimated and true scores, (n,) each


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; without one where too little was measured for it."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def above_zero(self) -> bool:
        return self.low is not None and self.low > 0

    @property
    def is_zero_outside(self) -> bool:
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


# -- Kendall's tau -----------------------------------------------------------------------------


def tau(estimated: np.ndarray, true: np.ndarray) -> float | None:
    """Kendall's tau-b: (concordant - discordant pairs) / √(pairs untied in one · pairs untied in the other).

    Kendall 1945. 1 is the same order, -1 the reverse; without ties (1 + tau) / 2 is the share of pairs that
    are in the right order. None if all scores of either are equal.
    """
    [[value]] = _taus([(estimated, true)], np.ones((1, len(estimated))))
    return None if math.isnan(value) else float(value)


def null_error(architectures: int) -> float | None:
    """The standard error of tau where there is no relation at all: √(2 (2n + 5) / (9 n (n - 1))).

    Kendall 1938, without ties. A tau within 1.96 of these of 0 is what chance gives 95 times of 100.
    """
    n = architectures
    return math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))) if n > 1 else None


def resamples(architectures: int, seed: int = 0, several: int | None = None) -> np.ndarray:
    """How often each architecture is in each bootstrap sample, (several + 1, n); the first is what was measured.

    Taus of the same resamples can be subtracted from each other: their difference is a paired one.

    Args:
        several: by default 2,000, and down to 200 where so many architectures would take minutes.
    """
    n = architectures
    several = int(np.clip(PAIRS / max(n, 1) ** 2, 200, 2000)) if several is None else several
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), several) if n else np.ones((0, 0))
    return np.vstack([np.ones((1, n)), drawn])


def mean_tau(pairs: Sequence[Pair], weights: np.ndarray) -> Estimate | None:
    """The mean of the pairs' taus, with the percentile interval of the bootstrap over architectures.

    Args:
        pairs: scores of the same n architectures, NaN where one takes no part in a pair.
        weights: `resamples(n)`.
    """
    return _estimate(_means(pairs, weights))


def tau_difference(
    estimator: Sequence[Pair], baseline: Sequence[Pair], weights: np.ndarray
) -> Estimate | None:
    """By how much the mean tau of an estimator exceeds that of a baseline, each time on the same resample."""
    return _estimate(_means(estimator, weights) - _means(baseline, weights))


def _means(pairs: Sequence[Pair], weights: np.ndarray) -> np.ndarray:
    """The mean of the taus that there are, (b,); NaN where there is none."""
    taus = _taus(pairs, weights)
    known = np.isfinite(taus)
    counts = known.sum(axis=0)
    return np.where(counts > 0, np.where(known, taus, 0).sum(axis=0) / np.maximum(counts, 1), np.nan)


def _taus(pairs: Sequence[Pair], weights: np.ndarray) -> np.ndarray:
    """tau-b of every pair in every resample, (pairs, b).

    The signs of all differences are compared once; a resample that holds an architecture w times counts its
    pairs w times, and those with itself are ties.
    """
    taus = np.full((len(pairs), len(weights)), np.nan)
    weights = weights.astype(np.float32)  # sums of small whole numbers are exact in it
    for number, (estimated, true) in enumerate(pairs):
        agreeing, untied, untied_true = _pair_counts(estimated, true, weights)
        there = untied * untied_true > 0
        taus[number, there] = agreeing[there] / np.sqrt(untied[there] * untied_true[there])
    return taus


def _pair_counts(estimated: np.ndarray, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Concordant less discordant pairs, pairs untied in the one, and in the other, of every resample, (3, b)."""
    counts = np.zeros((3, len(weights)))
    for start in range(0, len(estimated), ROWS):
        rows = slice(start, start + ROWS)
        x, y = _signs(estimated, true, rows)
        for count, matrix in zip(counts, (x * y, np.abs(np.sign(x)), np.abs(y)), strict=True):
            count += np.einsum("bn,bn->b", weights @ matrix.T, weights[:, rows], dtype=np.float64)
    return counts


def _signs(estimated: np.ndarray, true: np.ndarray, rows: slice) -> Pair:
    """Who of some rows is ahead of whom in both, (rows, n) of -1, 0, 1; 0 where either was not measured."""
    estimated, true = np.asarray(estimated, float), np.asarray(true, float)
    if estimated.ndim == 2:
        differences = np.sign(true[rows, None] - true[None, :])
        return tuple(
            np.where(np.isfinite(differences), one, 0).astype(np.float32)
            for one in (estimated[rows], differences)
        )
    measured = np.isfinite(estimated) & np.isfinite(true)
    both = measured[rows, None] & measured[None, :]
    x, y = (np.where(measured, scores, 0) for scores in (estimated, true))
    return tuple(
        np.where(both, np.sign(some[rows, None] - some[None, :]), 0).astype(np.float32) for some in (x, y)
    )


def _estimate(values: np.ndarray) -> Estimate | None:
    """The first value, and the 2.5th and 97.5th percentile of the others.

    There is no interval where more than a twentieth of the resamples have no value.
    """
    value, drawn = values[0], values[1:]
    if math.isnan(value):
        return None
    known = drawn[np.isfinite(drawn)]
    if len(known) < max(0.95 * len(drawn), 1):
        return Estimate(float(value))
    low, high = np.percentile(known, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))


# -- Spearman's rho ----------------------------------------------------------------------------


def spearman(estimated: np.ndarray, true: np.ndarray) -> float | None:
    """Spearman's ρ: Pearson's correlation of the ranks, equals sharing theirs. None if all scores of either are equal.

    C. Spearman, "The proof and measurement of association between two things", American Journal of Psychology 15,
    1904.
    """
    measured = np.isfinite(estimated) & np.isfinite(true)
    x, y = (ranks(np.asarray(some, float)[measured]) for some in (estimated, true))
    if not len(x) or not np.ptp(x) or not np.ptp(y):
        return None
    return float(np.corrcoef(x, y)[0, 1])


# -- the top -----------------------------------------------------------------------------------


def ranks(scores: np.ndarray) -> np.ndarray:
    """1 for the best, n for the worst; equal scores share the mean of their ranks. (n,), all scores finite."""
    better, equal = _better_and_equal(scores)
    return better + (equal + 1) / 2


def _better_and_equal(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many scores are better than each, and how many equal to it, itself among them; (n,) both."""
    _, place, counts = np.unique(-np.asarray(scores, float), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - counts)[place], counts[place]


def precision_at(estimated: np.ndarray, true: np.ndarray, share: float = 0.2) -> float:
    """P@K: which part of the estimated best `share` belongs to the true best `share`.

    Ning et al. 2021. Chance gives `share`. Where equal true scores lie across the border, each belongs to
    the best with the chance that it has; of equal estimates the first count.
    """
    top = max(1, round(share * len(true)))
    better, equal = _better_and_equal(true)
    belongs = np.clip((top - better) / equal, 0, 1)
    return float(belongs[_best(estimated, top)].sum() / top)


def best_rank(estimated: np.ndarray, true: np.ndarray, several: int = 5) -> float:
    """BR@K: the best true rank among the K that are estimated best. Ning et al. 2021, who divide it by n."""
    return float(ranks(true)[_best(estimated, several)].min())


def worst_rank(estimated: np.ndarray, true: np.ndarray, several: int = 5) -> float:
    """WR@K: the worst true rank among the K that are estimated best. Ning et al. 2021, who divide it by n."""
    return float(ranks(true)[_best(estimated, several)].max())


def _best(scores: np.ndarray, several: int) -> np.ndarray:
    return np.argsort(-np.asarray(scores, float), kind="stable")[:several]


# -- bias --------------------------------------------------------------------------------------


def rank_difference(estimated: np.ndarray, true: np.ndarray) -> np.ndarray:
    """RD = (estimated rank - true rank) / n of each, (n,), between -1 and 1; rank 1 is the best.

    Ning et al. 2021. Positive: ranked worse than it is, so underestimated. The mean over all is 0; that of
    a group is the bias against it.
    """
    return (ranks(estimated) - ranks(true)) / len(true)


def mean_interval(values: np.ndarray, weights: np.ndarray | None = None) -> Estimate | None:
    """The weighted mean, with Student's interval for the mean of a sample; from three values on.

    Its variance is Σ w² (x - mean)² / (Σ w)² · m / (m - 1) with m - 1 degrees of freedom, where
    m = (Σ w)² / Σ w² is how many equal weights would say as much. Equal weights give the common t interval.
    """
    from scipy.special import stdtrit  # takes half a second, so only those who need it wait

    values = np.asarray(values, float)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, float)
    total = weights.sum()
    if total <= 0:
        return None
    mean = float((weights * values).sum() / total)
    effective = total**2 / (weights**2).sum()
    if effective < 3 - 1e-9:  # rounding must not decide
        return Estimate(mean)
    variance = (weights**2 * (values - mean) ** 2).sum() / total**2 * effective / (effective - 1)
    reach = float(stdtrit(effective - 1, 0.975)) * math.sqrt(variance)
    return Estimate(mean, mean - reach, mean + reach)
