"""LINAS, the search that predicts: measure a few architectures, predict the objectives of many, measure those
that promise the largest hypervolume, and again.

After D. Cummings et al., "A Hardware-Aware Framework for Accelerating Neural Architecture Search Across Modalities",
2022 (LINAS: predictors in the loop, searched by an evolutionary algorithm). What is proposed is chosen otherwise:
by the expected improvement of the hypervolume, as the mean over random scalarisations of

    HV = c E_λ [max_y min_i (max(0, r_i - y_i) / λ_i)^m],  λ uniform on the positive part of the sphere

(D. Golovin and Q. Zhang, "Random Hypervolume Scalarizations for Provable Multi-Objective Black Box Optimization",
ICML 2020, lemma 5), over joint draws from the posterior at new and at measured architectures alike: so a
measurement that was lucky by its noise is not taken for the front. Nobody can tell noise from what is an
architecture's own and just not predicted, as in a table in which each has its fixed values; so in a quarter of the
draws it is that: measured ones are what was measured, and others may be as lucky.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nas.pareto import nondominated
from nas.searchers.ranks import ranks
from nas.searchers.rounds import Rounds, Told, count_setting
from nas.searchers.surrogate import Features, Scale, Surrogate
from search_spaces import SearchSpace

KNOWN = 300  # examples that predictors are fitted to, at most
GROWTH = 64  # a batch has one in so many of what is known, if that is more: the work of a run stays in bounds
GENERATIONS, LITTER = 5, 400  # of the search on predictions
DIRECTIONS = 64  # scalarisations in the search on predictions
FINALISTS, DRAWS = 200, 192  # among which a batch is chosen
WIDE = 0.25  # share of scalarisations that see beyond the ends of the front: what is there is not known yet
OWN = 0.25  # share of scalarisations in which what is not predicted is an architecture's own, not noise
CENSORED = 3  # fits of how far the constraints are from being broken
LEAST_MARGIN = -0.05  # what keeps them, in the median violation of what does not
EXAMPLES = 6  # below so many successes there is nothing to predict from


class LINAS(Rounds):
    """A round follows from the seed and from what was told before it, in whatever order, and not from the proposals
    that led there: those that a search asked before it was stopped are taken as they are.

    Args:
        first: architectures that are measured before anything is predicted: the ends of the space, and others
            with every option equally often. What is told before the first question stands for some of them.
        batch: architectures of a round, measured side by side.
    """

    def __init__(self, space: SearchSpace, objectives: int, seed: int = 0, first: int = 16, batch: int = 4):
        super().__init__(space, objectives, seed)
        self.seed = seed
        self.first = count_setting("first", first, 2)
        self.batch = count_setting("batch", batch, 1)
        self.told = self.nothing()
        self.features = Features(space)
        self.surrogates = [Surrogate(self.features) for _ in range(objectives)]
        self.limit = Surrogate(self.features)  # of how far the constraints are from being broken

    def know(self, objective: int, losses: Callable[[np.ndarray], np.ndarray]) -> None:
        """Have a predictor of an objective, given by its place, to screen with; before the first question.

        Measured values stay what counts: from those told is learned by how much it is off, and it is left aside
        where predicting without it is better.

        Args:
            losses: of encoded architectures, (n, decisions), what the objective's losses are said to be, (n,).
        """
        self.surrogates[objective].known = losses

    def learn(self, told: Told) -> None:
        order = sorted(range(len(told)), key=lambda number: told.rows[number].tolist())
        self.told = self.told + told[np.array(order, np.int64)]

    def due(self) -> int | None:
        if self.rounds:
            return self._count
        return None if len(self.told) else self.first

    @property
    def _count(self) -> int:
        return max(self.batch, len(self.told) // GROWTH)

    def propose(self) -> tuple[np.ndarray, int]:
        self.random, count = np.random.default_rng([self.seed, len(self.told)]), self._count
        measured = np.isfinite(self.told.violations)
        if not self.rounds:
            design = self.moves.design(self.first, self.told.rows[measured], self.random)
            if len(design):
                return design, len(design)
        if measured.sum() < EXAMPLES or len(self.told) >= self.space.size:
            return self.moves.draw(4 * count, self.random), count
        self._fit(measured)
        goal = self._goal()
        return self._batch(self._finalists(goal), goal, count), count

    # -- predicting ----------------------------------------------------------------------------

    def _fit(self, measured: np.ndarray) -> None:
        there = self._examples(self.told[measured])
        for surrogate, losses in zip(self.surrogates, there.losses.T, strict=True):
            surrogate.fit(there.rows, losses)
        self.elite = there[np.argsort(ranks(there), kind="stable")[:64]]
        self.limited = bool((self.told.violations > 0).any())
        if self.limited:
            there = there if measured.all() else self._examples(self.told)
            self._fit_limit(there.rows, there.violations)

    def _fit_limit(self, rows: np.ndarray, violations: np.ndarray) -> None:
        """How far the constraints are from being broken is not told where they are kept, only that it is below
        0. There what is predicted takes its place, and the fit is repeated: expectation-maximisation for
        censored values (Tobin, Econometrica 26, 1958), cut short."""
        margins, kept = _margins(violations), violations <= 0
        for number in range(CENSORED):
            self.limit.fit(rows, margins, Scale.plain(margins), again=number > 0)
            margins[kept] = np.minimum(self.limit.mean(rows[kept]), LEAST_MARGIN)

    def _examples(self, told: Told) -> Told:
        """The first fronts, and some of the rest."""
        if len(told) <= KNOWN:
            return told
        order = np.argsort(ranks(told, KNOWN // 2), kind="stable")
        rest = self.random.permutation(order[KNOWN // 2 :])[: KNOWN - KNOWN // 2]
        return told[np.sort(np.concatenate([order[: KNOWN // 2], rest]))]

    # -- choosing ------------------------------------------------------------------------------

    def _goal(self) -> Goal:
        """The part of the objectives' space between the ideal and the reference, by what is predicted of the
        measured: their noise must not decide."""
        points = np.stack([one.mean(self.elite.rows) for one in self.surrogates], axis=1)
        kept = self.elite.violations <= 0
        front = points[kept][nondominated(points[kept])] if kept.any() else points
        everything = self.told.losses[np.isfinite(self.told.violations)]
        worst = np.minimum(everything.max(axis=0), [one.scale.most for one in self.surrogates])
        ideal, nadir = front.min(axis=0), front.max(axis=0)
        span = np.where(nadir > ideal, nadir - ideal, np.maximum(worst - ideal, 1e-9))
        return Goal(ideal, nadir + 0.1 * span, np.maximum(worst, nadir) + 0.1 * span)

    def _finalists(self, goal: Goal) -> np.ndarray:
        """An evolutionary search on predictions: of each direction what promises most has the most children."""
        random, front = self.random, self.elite.rows
        directions = goal.directions(DIRECTIONS, random)
        normal = random.standard_normal((DIRECTIONS, self.objectives + 1))
        own = random.random(DIRECTIONS) < OWN
        known = self._measured_where(own, self._optimistic(front, 0 * normal, own))
        base = self._values(known, goal, directions).max(axis=1)
        parents, seen = front, {}
        pool = [self._children(front, LITTER), self.moves.draw(LITTER // 2, random)]
        for _ in range(GENERATIONS):
            rows = self.asked.new(np.concatenate(pool))
            rows = rows[[number for number, row in enumerate(rows) if row.tobytes() not in seen]]
            if not len(rows):
                break
            gains = self._values(self._optimistic(rows, normal, own), goal, directions) - base[:, None]
            for row, gain in zip(rows, np.maximum(gains, 0).mean(axis=0), strict=True):
                seen[row.tobytes()] = gain, row
            leaders = rows[np.unique(np.argsort(-gains, axis=1)[:, :2])]
            parents = np.concatenate([leaders, front])
            pool = [self._children(leaders, LITTER // 2), self._children(parents, LITTER // 2)]
        ordered = sorted(seen.values(), key=lambda one: -one[0])[:FINALISTS]
        return np.array([row for _, row in ordered], np.int64).reshape(len(ordered), front.shape[1])

    def _children(self, parents: np.ndarray, count: int) -> np.ndarray:
        """Half of them mutants, half of them crossed."""
        mothers, fathers = (parents[self.random.integers(len(parents), size=count // 2)] for _ in range(2))
        crossed = self.moves.cross(mothers, fathers, self.random)
        return np.concatenate([self.moves.mutate(mothers, self.random), crossed])

    def _optimistic(self, rows: np.ndarray, normal: np.ndarray, own: np.ndarray) -> list[np.ndarray]:
        """What each may be at so many deviations from its mean, (directions, n) for each objective, and how far
        the constraints are from being broken."""
        return [one.away(rows, normal[:, number], own) for number, one in enumerate(self._surrogates)]

    def _measured_where(self, own: np.ndarray, predicted: list[np.ndarray]) -> list[np.ndarray]:
        """Of the elite what was measured, in the scalarisations in which that is its own, and else what is
        predicted: (directions, n) for each objective, and for the constraints."""
        measured = [*self.elite.losses.T, np.where(self.elite.violations > 0, 1.0, -1.0)]
        pairs = zip(measured, predicted, strict=False)  # nothing is predicted of constraints that all keep
        return [np.where(own[:, None], *pair) for pair in pairs]

    def _batch(self, rows: np.ndarray, goal: Goal, count: int) -> np.ndarray:
        """Those that together raise the hypervolume most, one after the other, over draws from the posterior."""
        if not len(rows):
            return rows
        both, directions = np.concatenate([rows, self.elite.rows]), goal.directions(DRAWS, self.random)
        own, shape = self.random.random(DRAWS) < OWN, (DRAWS, len(both))
        drawn = []
        for one in self._surrogates:
            normal, rest = self.random.standard_normal((2, *shape))
            drawn.append(one.draws(both, normal, own[:, None] * rest))
        candidates = self._values([one[:, : len(rows)] for one in drawn], goal, directions)
        known = self._measured_where(own, [one[:, len(rows) :] for one in drawn])
        base = self._values(known, goal, directions).max(axis=1)
        chosen: list[int] = []
        for _ in range(min(count, len(rows))):
            gains = np.maximum(candidates - base[:, None], 0).mean(axis=0)
            gains[chosen] = -1
            best = int(gains.argmax())
            chosen.append(best)
            base = np.maximum(base, candidates[:, best])
        rest = np.delete(np.arange(len(rows)), chosen)
        return rows[np.concatenate([chosen, rest]).astype(int)]

    @property
    def _surrogates(self) -> list[Surrogate]:
        return [*self.surrogates, self.limit] if self.limited else self.surrogates

    def _values(self, losses: list[np.ndarray], goal: Goal, directions: Directions) -> np.ndarray:
        """What each point gives in each direction, (directions, n): below 0 if it breaks constraints, the less the
        more it does."""
        values = goal.values(np.stack(losses[: self.objectives], axis=-1), directions)
        if self.limited:
            margin = losses[-1]
            values = np.where(margin <= 0, values, -margin)
        return values


Directions = tuple[
    np.ndarray, np.ndarray
]  # λ, (n, objectives), and for each whether it sees beyond the ends, (n,)


class Goal:
    """Where hypervolume is to be gained, as a share of the box between the ideal and a reference.

    Of two boxes each counts by its own size: else the one that reaches far beyond the ends of the front, where hardly
    anything is to be gained, would take most of the measurements.

    Args:
        ideal: (objectives,), the best of each.
        near: (objectives,), the reference a tenth beyond the ends of the front.
        far: (objectives,), a reference that also counts what is beyond the ends.
    """

    def __init__(self, ideal: np.ndarray, near: np.ndarray, far: np.ndarray):
        self.ideal, self.near, self.far = ideal, near, far

    def directions(self, count: int, random: np.random.Generator) -> Directions:
        drawn = np.abs(random.standard_normal((count, len(self.ideal)))) + 1e-9
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.arange(count) < WIDE * count

    def values(self, points: np.ndarray, directions: Directions) -> np.ndarray:
        """The scalarisation of points, (directions, n, objectives) or one set for all; (directions, n)."""
        weights, wide = directions
        reference = np.where(wide[:, None], self.far, self.near)  # (directions, objectives)
        per_unit = 1 / ((reference - self.ideal) * weights)
        least = np.inf
        for number in range(len(self.ideal)):
            gained = (reference[:, [number]] - points[..., number]) * per_unit[:, [number]]
            least = np.minimum(least, gained)
        return np.maximum(least, 0) ** len(self.ideal)


def _margins(violations: np.ndarray) -> np.ndarray:
    """Violations in their median, 3 at most; 2 for what failed, and below 0 for what keeps the constraints."""
    broken, failed = violations > 0, np.isinf(violations)
    unit = np.median(violations[broken & ~failed]) if (broken & ~failed).any() else 1.0
    margins = np.where(broken, np.minimum(violations / unit, 3), -1.0)
    return np.where(failed, 2.0, margins)
