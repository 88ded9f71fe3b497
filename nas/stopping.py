"""When a search ends: its budget, its time, or a front that has stopped growing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from nas import pareto
from nas.storage.records import Candidate, Constraint, Objective

GROWTH = 0.001  # share of the hypervolume below which a front has stopped growing

SPENT = "its budget is spent"
LATE = "its seconds are spent"
EXHAUSTED = "the space has nothing left"


class Clock:
    """The wall clock of a search, all its sittings together; it stands until it is started.

    Args:
        before: seconds of earlier sittings.
        now: the time in seconds, from anywhen on.
    """

    def __init__(self, before: float = 0.0, now: Callable[[], float] = time.monotonic):
        self.before, self.now = before, now
        self.begun: float | None = None

    def start(self) -> None:
        """Let it go; a clock that goes is left alone."""
        if self.begun is None:
            self.begun = self.now()

    @property
    def here(self) -> float:
        """Seconds of this sitting."""
        return 0.0 if self.begun is None else self.now() - self.begun

    @property
    def seconds(self) -> float:
        return self.before + self.here


def growth(
    candidates: Sequence[Candidate],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    last: int,
) -> float:
    """Which share of the hypervolume came with the last so many candidates; 1 while nothing is on the front.

    The hypervolumes with and without them are up to one reference, that of the front with them
    (`nas.pareto.reference_point`), so units do not matter.
    """
    after = pareto.losses(pareto.front(candidates, objectives, constraints), objectives)
    if not len(after):
        return 1.0
    before = pareto.losses(pareto.front(candidates[:-last], objectives, constraints), objectives)
    reference = pareto.reference_point(after)
    return 1 - pareto.hypervolume(before, reference) / pareto.hypervolume(after, reference)


def course(
    candidates: Sequence[Candidate], objectives: Sequence[Objective], constraints: Sequence[Constraint] = ()
) -> list[float]:
    """Which share of the hypervolume of the front was reached after each candidate, by the reference of `growth`: its
    last is 1, or all are 0 while nothing is on the front."""
    final = pareto.losses(pareto.front(candidates, objectives, constraints), objectives)
    if not len(final):
        return [0.0] * len(candidates)
    reference = pareto.reference_point(final)
    whole, reached, shares, so_far = pareto.hypervolume(final, reference), 0.0, [], []
    for candidate in candidates:
        now = pareto.front([*so_far, candidate], objectives, constraints)
        if any(one is candidate for one in now):
            reached = pareto.hypervolume(pareto.losses(now, objectives), reference) / whole
        so_far = now
        shares.append(reached)
    return shares


def plateau_in_words(last: int) -> str:
    return f"plateau: the last {last} candidates raised the hypervolume by less than {GROWTH:.1%}"
