"""A latency model: an additive table with boundary terms, fitted to measurements of whole architectures.

    space = CategoricalSpace({f"block {n}": ["3x3", "5x5", "skip"] for n in range(20)})
    model = fit_latencies(space, vectors, milliseconds)     # of measurements that there are
    model = fit_latency_model(space, measure, budget=150)   # of its own choice of measurements
    model(vectors), model.deviation(vectors), model.quality

Isolated operators mislead, so none is ever timed: what an entry of the table adds follows from how whole architectures
differ. Its entries are in `nas.predictors.terms`, the regression in `nas.predictors.regression`, and how it
chooses what is measured next in `nas.predictors.learning`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nas.predictors.regression import CONSTANT, Regression, regress
from nas.predictors.terms import GROUPS, Features, Terms, features_of, terms_of
from search_spaces import CategoricalSpace, NetworkSpace

FLOOR = 0.5  # of the least measured latency: below it nothing is predicted
FEWEST = 10  # measurements below which nothing is held out
MOST = 4000  # measurements that are fitted, at most
TUNED = 400  # measurements by which the variances are found, at most

Space = NetworkSpace | CategoricalSpace


@dataclass(frozen=True)
class Quality:
    """How well each measurement is predicted by all the others."""

    relative_error: float  # the median of |predicted / measured - 1|
    tau: float | None  # Kendall's, None where all are equal


@dataclass(frozen=True)
class Known:
    """What a model is fitted to: vectors (n, decisions), milliseconds (n,), and their relative deviations (n,)."""

    vectors: np.ndarray
    milliseconds: np.ndarray
    deviations: np.ndarray


@dataclass(frozen=True)
class Table:
    """Milliseconds: the intercept, of each entry, (entries,), and of each counted cost, (costs,); and what was found
    by which these are estimated: the variance of each group of coefficients, and the deviation of the unexplained."""

    intercept: float
    entries: np.ndarray
    counted: np.ndarray
    variances: np.ndarray
    noise: float


class LatencyModel:
    """The latency of encoded architectures: (n, decisions) to (n,) milliseconds.

    None is predicted to be less than half of the least that was measured.

    Args:
        quality: None where too little was measured to hold some of it out.
    """

    def __init__(self, space: Space, terms: Terms, table: Table, quality: Quality | None, known: Known):
        self.space, self.table, self.quality, self.known = space, table, quality, known
        self.range_ms = float(known.milliseconds.min()), float(known.milliseconds.max())
        self.least = FLOOR * self.range_ms[0]
        self._terms = terms

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """
        Raises:
            ValueError: these are no encoded architectures of the space.
        """
        check_encoded(self.space, vectors)
        total = np.full(len(vectors), self.table.intercept)
        for column in self._terms.columns(vectors):
            total += self.table.entries[column]
        if self._terms.counted is not None:
            total += self._terms.counted(vectors) @ self.table.counted
        return np.maximum(total, self.least)

    def deviation(self, vectors: np.ndarray) -> np.ndarray:
        """The standard deviation of a measurement from the prediction, relative to that, (n,), as the fit has it."""
        predicted = self(vectors)
        features = features_of(self._terms, vectors)
        of_known = self._regression.covariances(features.kernels(self._features))
        reduced = self._regression.reduced(of_known)
        left = np.maximum(self._regression.prior(features.squares()) - (reduced**2).sum(axis=0), 0)
        return np.sqrt(left / predicted**2 + self.table.noise**2)

    @cached_property
    def _features(self) -> Features:
        return features_of(self._terms, self.known.vectors)

    @cached_property
    def _regression(self) -> Regression:
        kernels, found = self._features.kernels(self._features), (self.table.variances, self.table.noise)
        return regress(kernels, self.known.milliseconds, self.known.deviations, found)


def check_encoded(space: Space, vectors: np.ndarray) -> None:
    """Raise ValueError, in one line, if these are not encoded architectures of a space, (n, decisions)."""
    vectors, places = np.asarray(vectors), len(space.decisions)
    if vectors.ndim != 2 or vectors.shape[1] != places or vectors.dtype.kind not in "iu":
        raise ValueError(
            f"encoded architectures of {space.name} are integers of shape (n, {places}), not {vectors.dtype} of shape "
            f"{vectors.shape}; take what space.encode gives"
        )
    most = np.array([len(decision.options) for decision in space.decisions])
    if len(wrong := np.argwhere((vectors < 0) | (vectors > most))):
        row, place = wrong[0]
        raise ValueError(
            f"{space.decisions[place].name} has options 1 to {most[place]}, not {vectors[row, place]}: this is no "
            f"architecture of {space.name}, and of others nothing is known; take what space.encode gives"
        )


# -- fitting -----------------------------------------------------------------------------------


def fit_latencies(
    space: Space,
    vectors: np.ndarray,
    milliseconds: Sequence[float],
    deviations: Sequence[float] | None = None,
) -> LatencyModel:
    """The model of measurements that there are, such as a public table of latencies.

    Args:
        vectors: (n, decisions), as `space.encode` gives them: 1 for a decision's first option.
        milliseconds: (n,); in any other unit as well, which then is that of the predictions.
        deviations: (n,) of the noise of each measurement, relative to it; by default none that is known.

    Raises:
        ValueError: there are none or too many, or one is no architecture of the space, or not above 0.
    """
    vectors, milliseconds = np.asarray(vectors), np.asarray(milliseconds, float)
    deviations = np.zeros(len(milliseconds)) if deviations is None else np.asarray(deviations, float)
    if not len(vectors) == len(milliseconds) == len(deviations) or not 1 <= len(vectors) <= MOST:
        raise ValueError(
            f"there are {len(vectors)} architectures, {len(milliseconds)} latencies and {len(deviations)} deviations; "
            f"give equally many, 1 to {MOST}"
        )
    check_encoded(space, vectors)
    for name, given, least in (("latency", milliseconds, 1e-300), ("deviation", deviations, 0)):
        if len(wrong := given[~(np.isfinite(given) & (given >= least))]):
            limit = "at least 0" if least == 0 else "above 0"
            raise ValueError(
                f"a {name} is {wrong[0]:g}; each must be a number {limit}, so leave that one out"
            )
    terms = terms_of(space)
    known = Known(vectors, milliseconds, deviations)
    features = features_of(terms, vectors)
    return model_of(space, terms, features, known, regression_of(features.kernels(features), known))


def regression_of(kernels: np.ndarray, known: Known) -> Regression:
    """The regression of measurements, by the products of their features, (groups, n, n)."""
    count = len(known.milliseconds)
    if count <= TUNED:
        return regress(kernels, known.milliseconds, known.deviations)
    some = np.random.default_rng(0).permutation(count)[:TUNED]
    found = regress(kernels[:, some][:, :, some], known.milliseconds[some], known.deviations[some])
    return regress(kernels, known.milliseconds, known.deviations, (found.variances, found.noise))


def model_of(
    space: Space, terms: Terms, features: Features, known: Known, regression: Regression
) -> LatencyModel:
    """The regression as a table: what each feature of each group adds, and by them each entry."""
    added = {
        group: regression.unit**2 * variance * (columns.T @ regression.duals)
        for group, variance, columns in zip(
            features.groups, regression.variances, features.columns, strict=True
        )
    }
    entries = terms.shared @ added["shared"]
    for number in set(terms.groups[1:].tolist()):
        there = np.flatnonzero(terms.groups == number)
        entries[there] += terms.sizes[there] * added[GROUPS[number]]
    table = Table(
        intercept=float(regression.unit**2 * CONSTANT * regression.duals.sum()),
        entries=entries,
        counted=added.get("counted", np.zeros(0)),
        variances=regression.variances,
        noise=regression.noise,
    )
    return LatencyModel(space, terms, table, _quality(known, regression), known)


def _quality(known: Known, regression: Regression) -> Quality | None:
    from nas.rank_statistics import tau

    if len(known.milliseconds) < FEWEST:
        return None
    of_measured = np.maximum(1 - regression.left_out, FLOOR * known.milliseconds.min() / known.milliseconds)
    error = float(np.median(np.abs(of_measured - 1)))
    return Quality(error, tau(of_measured * known.milliseconds, known.milliseconds))
