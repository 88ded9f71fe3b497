"""Racing: a round of candidates is scored on the first search-validation images, who is beaten for certain goes no
further, the images are doubled, and so on until all were looked at.

After O. Maron and A. W. Moore, "Hoeffding Races: Accelerating Model Selection Search for Classification and Function
Approximation", NIPS 6, 1994, with the doubling of successive halving (K. Jamieson and A. Talwalkar, AISTATS 2016). No
share by rank is dropped, as there: beaten is who would be on no front even if its accuracy were at the upper end of
what the images say. Rivals are what was evaluated whole before the round, so a search that was stopped decides the
same again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from nas import pareto
from nas.devices import Goals, devices_in, goals_on
from nas.storage.records import Candidate
from search_spaces import Architecture

SURE = 3.29  # deviations above what was seen: one in two thousand is better than that
SHOWN = 1.96  # deviations of the interval that is kept, as of all that is uncertain
KEY = "accuracy"


def interval(right: int, seen: int, images: int, deviations: float) -> tuple[float, float]:
    """What share of all images, in percent, may be right where so many were right of those seen.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927, of draws
    without replacement, of which `seen` tell as much as `seen · (images - 1) / (images - seen)` with it.
    """
    if seen == images:
        return 100 * right / images, 100 * right / images
    rate, per_draw = right / seen, deviations**2 * (images - seen) / (seen * (images - 1))
    centre, spread = rate + per_draw / 2, sqrt(per_draw * (rate * (1 - rate) + per_draw / 4))
    least, most = (centre - spread) / (1 + per_draw), (centre + spread) / (1 + per_draw)
    return 100 * max(least, right / images), 100 * min(most, (right + images - seen) / images)


def as_seen(candidate: Candidate, right: int, seen: int, images: int) -> Candidate:
    """A candidate of which all else is known, with its accuracy on the images seen."""
    values = {**candidate.values, KEY: 100 * right / seen}
    if seen == images:
        return replace(candidate, values=values)
    intervals = {**candidate.intervals, KEY: interval(right, seen, images, SHOWN)}
    return replace(candidate, values=values, intervals=intervals, scored=(seen, images))


@dataclass(frozen=True, eq=False)
class Rivals:
    """The front that is known of some goals."""

    goals: Goals
    points: np.ndarray  # (n, objectives), their losses

    def beat(self, candidate: Candidate) -> bool:
        """Whether the candidate is on no front with them."""
        if not len(self.points):
            return False
        if not candidate.feasible(self.goals.constraints):
            return True
        own = pareto.losses([candidate], self.goals.objectives)
        return bool(((self.points <= own).all(axis=1) & (self.points < own).any(axis=1)).any())


@dataclass(frozen=True, eq=False)
class Race:
    """
    Args:
        first: images after which is looked for the first time, or the whole batches that hold them.
        rivals: of every front that a candidate may be on: that of all goals, then that of each device.
    """

    first: int
    rivals: tuple[Rivals, ...]

    @property
    def needs(self) -> set[str]:
        """What must be known of a candidate before."""
        goals = self.rivals[0].goals
        return {one.key for one in (*goals.objectives, *goals.constraints)} - {KEY}

    def beaten(self, candidate: Candidate) -> bool:
        """Whether a candidate that was scored on a part of the images is on no front whatever the others say."""
        seen, images = candidate.scored
        _, most = interval(round(candidate.values[KEY] * seen / 100), seen, images, SURE)
        intervals = {key: ends for key, ends in candidate.intervals.items() if key != KEY}
        at_best = replace(candidate, values={**candidate.values, KEY: most}, intervals=intervals)
        return all(one.beat(at_best) for one in self.rivals)


@dataclass(frozen=True, eq=False)
class Entrant:
    """An architecture that is to be evaluated in a race."""

    architecture: Architecture
    race: Race
    timed: Candidate | None = None  # what was measured of it already

    @property
    def key(self) -> str:
        return self.architecture.key


def race_against(first: int, goals: Goals, told: Sequence[Candidate]) -> Race:
    """The race against what is known."""
    names = devices_in(one.key for one in (*goals.objectives, *goals.constraints))
    return Race(
        first, tuple(_rivals(one, told) for one in (goals, *(goals_on(name, goals) for name in names)))
    )


def unsettled(candidates: Sequence[Candidate], goals: Goals) -> list[Candidate]:
    """Those scored on a part of the images that may matter for these goals, which are not those of their race.

    Judged by those that were always whole: so what is scored whole does not depend on what was scored whole before.
    """
    if KEY not in [one.key for one in (*goals.objectives, *goals.constraints)]:
        return []
    race = race_against(0, goals, [one for one in candidates if one.scored is None])
    return [one for one in candidates if one.error is None and not one.whole and not race.beaten(one)]


def _rivals(goals: Goals, told: Sequence[Candidate]) -> Rivals:
    front = pareto.front(told, goals.objectives, goals.constraints)
    return Rivals(goals, pareto.losses(front, goals.objectives))
