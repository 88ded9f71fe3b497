"""What all searchers have in common: architectures are proposed in rounds, and a round begins when all of the
last one was told. So what is proposed does not depend on how many are asked for at once, and a search that
was stopped comes to the same questions again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.searchers.moves import Asked, Moves
from search_spaces import Architecture, SearchSpace

VAST = 1e100  # losses and violations beyond it count as this: their squares must be numbers


@dataclass(frozen=True)
class Told:
    """What came of n architectures."""

    rows: np.ndarray  # (n, decisions)
    losses: np.ndarray  # (n, objectives), NaN where the evaluation failed
    violations: np.ndarray  # (n,), infinite where it failed

    def __add__(self, other: Told) -> Told:
        return Told(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.losses, other.losses]),
            np.concatenate([self.violations, other.violations]),
        )

    def __getitem__(self, which: np.ndarray | slice) -> Told:
        return Told(self.rows[which], self.losses[which], self.violations[which])

    def __len__(self) -> int:
        return len(self.rows)


class Rounds:
    """A searcher that says what it wants by `propose`. Nothing is ever asked for twice, and all that the space
    holds is asked for in the end.
    """

    def __init__(self, space: SearchSpace, objectives: int, seed: int):
        self.space = space
        self.objectives = objectives
        self.random = np.random.default_rng(seed)
        self.moves = Moves(space)
        self.asked = Asked(self.moves)
        self.rounds = 0  # that were begun
        self._waiting: list[Architecture] = []  # of the round, not yet asked for
        self._open: set[int] = set()  # of the round, not yet told
        self._fresh: dict[int, tuple[list[float], float]] = {}  # told since the round began
        self._old: set[int] = set()  # told before
        self._expected: list[np.ndarray] = []  # what an earlier sitting asked for, not yet asked for again

    # -- for the searchers ---------------------------------------------------------------------

    def propose(self) -> tuple[np.ndarray, int]:
        """What to ask for next, (n, decisions), the most wanted first, and how many of them.

        Those that were asked for before are left out; if too few are left, random ones are added.
        """
        raise NotImplementedError

    def due(self) -> int | None:
        """How many the next round has, if they follow from the seed and from what was told alone, so that proposals
        which are known need not be made again; None if each round has to be."""
        return None

    def learn(self, told: Told) -> None:
        """Hear what was told since the last round, in the order of asking."""

    def nothing(self) -> Told:
        return Told(self.moves.rows([]), np.empty((0, self.objectives)), np.empty(0))

    # -- for the search ------------------------------------------------------------------------

    def ask(self, count: int) -> list[Architecture]:
        if not self._waiting and not self._open:
            self._begin()
        asked, self._waiting = self._waiting[:count], self._waiting[count:]
        return asked

    def expect(self, architectures: Sequence[Architecture]) -> None:
        self._expected = list(self.moves.rows(list(architectures)))

    def tell(
        self, architecture: Architecture, losses: Sequence[float] | None, violation: float = 0.0
    ) -> None:
        """Also of an architecture that was not asked for: it is learned from, and not proposed."""
        [row] = self.moves.rows([architecture])
        self.asked.add(row[None])
        number = self.asked.numbers[row.tobytes()]
        if number in self._old:
            return
        failed = losses is None or not np.isfinite([*losses, violation]).all()
        if failed:
            self._fresh[number] = [np.nan] * self.objectives, np.inf
        else:
            self._fresh[number] = np.clip(losses, -VAST, VAST).tolist(), min(violation, VAST)
        self._open.discard(number)

    def _begin(self) -> None:
        if numbers := sorted(self._fresh):
            losses, violations = zip(*(self._fresh[number] for number in numbers), strict=True)
            rows = np.array([self.asked.rows[number] for number in numbers])
            self._old.update(numbers)
            self._fresh = {}
            self.learn(Told(rows, np.array(losses, float), np.array(violations, float)))
        due = self.due()
        self._expected = [row for row in self._expected if row.tobytes() not in self.asked.numbers]
        if due and len(self._expected) >= due:
            rows = np.array(self._expected[:due], np.int64)
        else:
            rows = self.asked.fill(*self.propose(), self.random)
        self.rounds += 1
        first = len(self.asked.rows)
        self.asked.add(rows)
        self._open = set(range(first, first + len(rows)))
        self._waiting = [self.space.decode(row.tolist()) for row in rows]


def count_setting(name: str, value: int, least: int) -> int:
    """The value of a setting that is a number of architectures.

    Raises:
        ValueError: it is not, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"search.searcher.{name} is {value!r}; it must be an integer of at least {least}")
    return value
