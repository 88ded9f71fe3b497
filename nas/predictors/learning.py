"""Which architectures to measure next, and when enough are measured.

The next one is that whose measurement leaves the least uncertainty: the variance of architectures drawn at random,
each relative to its latency, on average over them (D. A. Cohn, Z. Ghahramani and M. I. Jordan, "Active learning with
statistical models", Journal of Artificial Intelligence Research 4, 1996, section 4). In a linear model that does not
depend on the result, so several are chosen at once, one after the other, between two fits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nas.predictors.model import (
    Known,
    LatencyModel,
    Space,
    check_encoded,
    model_of,
    regression_of,
)
from nas.predictors.regression import CONSTANT, NOISE, VARIANCE, Regression
from nas.predictors.terms import features_of, terms_of
from nas.storage.records import Latency

BUDGET = 150
ENOUGH = 0.03  # the relative error at which no more is measured
EARLIEST = 40  # measurements before which that is not believed
BATCH = 10  # measurements between two fits
POOL = 800  # architectures among which the next ones are chosen
TILT = 4.0  # the strongest bias of half of them: the last option is e^4 times as likely as the first, or the reverse
FLAGGED = 0.05  # relative deviation that is added to measurements that others disturbed


def fit_latency_model(
    space: Space,
    measure: Callable[[Any], float | Latency],
    budget: int = BUDGET,
    *,
    among: np.ndarray | None = None,
    enough: float = ENOUGH,
    seed: int = 0,
) -> LatencyModel:
    """The model of measurements of its own choice.

    Args:
        space: a CategoricalSpace, or any space of search_spaces.
        measure: from an architecture of it to milliseconds above 0, or to a record whose interval weights it.
        budget: measurements, at most.
        among: encoded architectures, (n, decisions), to which the choice is restricted, as those of a public table;
            by default all.
        enough: no more is measured once the held-out error (median, relative) is at most so much after two fits, or,
            where measurements are noisier than that, what the fit is unsure of; 0 for the whole budget.

    Raises:
        ValueError: the budget is below 1, or `among` or what `measure` returned makes no sense.
    """
    if budget < 1:
        raise ValueError(f"budget is {budget}; give 1 measurement or more")
    learner = Learner(space, among, seed)
    while chosen := learner.ask(budget, enough):
        for vector in chosen:
            learner.tell(vector, *reading(measure(space.decode(vector))))
    return learner.model


def reading(measured: float | Latency) -> tuple[float, float]:
    """Milliseconds and their relative deviation, by the interval of a record and whether it was disturbed."""
    if not isinstance(measured, Latency):
        return float(measured), 0.0
    low, high = measured.interval_ms
    deviation = (high - low) / (2 * 1.96 * measured.median_ms)
    return measured.median_ms, float(np.hypot(deviation, FLAGGED * measured.contended))


class Learner:
    """Asks for measurements and learns from them: all that `ask` chose is told before it is asked again.

    Args:
        among: encoded architectures, (n, decisions); by default of the whole space.
    """

    def __init__(self, space: Space, among: np.ndarray | None = None, seed: int = 0):
        self.space, self._terms = space, terms_of(space)
        self.pool, self._aims = _pool(space, seed) if among is None else _some(space, among, seed)
        self._features = features_of(self._terms, self.pool)
        self._kernels = self._features.kernels(self._features)
        self._places = {tuple(vector): place for place, vector in enumerate(self.pool.tolist())}
        self._told: list[tuple[int, float, float]] = []  # place in the pool, milliseconds, deviation
        self._errors: list[float] = []  # held out, after each fit
        self.model: LatencyModel | None = None  # of what was told before the last `ask`

    def ask(self, budget: int = BUDGET, enough: float = ENOUGH) -> list[tuple[int, ...]]:
        """The vectors of what is to be measured next; none if all are measured, or enough is known."""
        left, noise = self._uncertainty()
        unsure = float(np.median(np.sqrt(np.maximum(np.diag(left)[self._aims], 0))))
        if len(self._told) >= EARLIEST and min(max(self._errors[-2:]), unsure) <= enough:
            return []
        count = min(BATCH, budget - len(self._told), len(self.pool) - len(self._told))
        return [tuple(self.pool[one].tolist()) for one in self._chosen(left, noise, count)]

    def tell(self, vector: tuple[int, ...], milliseconds: float, deviation: float = 0.0) -> None:
        """
        Raises:
            ValueError: the latency is no number above 0.
        """
        if not (np.isfinite(milliseconds) and milliseconds > 0):
            raise ValueError(
                f"measuring {self.space.decode(vector)} gave {milliseconds!r}; it must give a number above 0"
            )
        self._told.append((self._places[tuple(vector)], milliseconds, deviation))

    def _uncertainty(self) -> tuple[np.ndarray, float]:
        """What is left of the covariances of the pool, relative to latency, and the variance of a measurement."""
        if not self._told:
            return CONSTANT + VARIANCE[0] * self._kernels.sum(axis=0), NOISE[0] ** 2
        regression = self._fit()
        reduced = regression.reduced(regression.covariances(self._kernels[:, :, self._measured]))
        left = regression.covariances(self._kernels) - reduced.T @ reduced
        predicted = self.model(self.pool)
        deviation = np.median([one for _, _, one in self._told])
        return left / np.outer(predicted, predicted), regression.noise**2 + deviation**2

    def _fit(self) -> Regression:
        """Fit the model to what was told."""
        places = self._measured
        _, milliseconds, deviations = map(np.array, zip(*self._told, strict=True))
        known = Known(self.pool[places], milliseconds, deviations)
        regression = regression_of(self._kernels[:, places][:, :, places], known)
        self.model = model_of(self.space, self._terms, self._features.take(places), known, regression)
        self._errors.append(self.model.quality.relative_error if self.model.quality else np.inf)
        return regression

    @property
    def _measured(self) -> list[int]:
        return [place for place, _, _ in self._told]

    def _chosen(self, left: np.ndarray, noise: float, count: int) -> list[int]:
        """Places of the pool, one after the other that which most lessens the variances of the aims.

        Measuring c takes left[a, c]² / (left[c, c] + noise) off the variance of a.
        """
        open_, chosen = np.ones(len(self.pool), bool), []
        open_[self._measured] = False
        for _ in range(count):
            gains = (left[self._aims] ** 2).sum(axis=0) / (np.diag(left) + noise)
            best = int(np.argmax(np.where(open_, gains, -1)))
            chosen.append(best)
            open_[best] = False
            left = left - np.outer(left[:, best], left[best]) / (left[best, best] + noise)
        return chosen


def _pool(space: Space, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Different encoded architectures, (n, decisions), the ends first, and the places of those drawn uniformly.

    The others are drawn with a bias towards small or large options that differs from one to the next.
    """
    random = np.random.default_rng(seed)
    options = [len(decision.options) for decision in space.decisions]
    ends = np.array([space.encode(one) for one in space.ends], np.int64).reshape(2, len(options))
    half = POOL // 2
    uniform = random.integers(1, np.array(options) + 1, (half, len(options)))
    tilt = random.uniform(-TILT, TILT, (half, 1))
    places = [
        1 + (tilt * np.linspace(0, 1, count) + random.gumbel(size=(half, count))).argmax(axis=1)
        for count in options
    ]
    biased = np.stack(places, axis=1) if places else uniform
    drawn = space.canonical(np.concatenate([ends, uniform, biased]))
    _, first = np.unique(drawn, axis=0, return_index=True)
    kept = np.sort(first)
    aims = np.flatnonzero((kept >= len(ends)) & (kept < len(ends) + half))
    return drawn[kept], aims if len(aims) else np.arange(len(kept))  # a space may have nothing but its ends


def _some(space: Space, among: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Different architectures of those given, POOL at most, and the places of all."""
    among = np.asarray(among)
    check_encoded(space, among)
    if not len(among):
        raise ValueError(
            "among holds no architectures; give one or more, or leave it out for the whole space"
        )
    different = np.unique(space.canonical(among), axis=0)
    random = np.random.default_rng(seed)
    drawn = different[random.permutation(len(different))[:POOL]]
    return drawn, np.arange(len(drawn))
