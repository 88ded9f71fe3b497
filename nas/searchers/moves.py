"""Architectures as rows of integers: drawing, changing and crossing many at once.

Rows are canonical vectors of a space, (n, decisions): 1 for a decision's first option, 0 where it does not
arise. On objects the same takes a hundred times as long.
"""

from __future__ import annotations

import numpy as np

from search_spaces import Architecture, SearchSpace

TRIES = 2000  # random rows in which to look for new ones before all neighbours are gone through
ENOUGH = 0.5  # share of its options that must be lacking for a row to be part of a first design
STEPS = 256  # rows whose neighbours are gone through at a time


class Moves:
    def __init__(self, space: SearchSpace):
        self.space = space
        self.counts = np.array([len(decision.options) for decision in space.decisions], np.int64)

    @property
    def ends(self) -> np.ndarray:
        """The ends of the space, (2, decisions)."""
        return self.rows(self.space.ends)

    def rows(self, architectures: tuple[Architecture, ...] | list[Architecture]) -> np.ndarray:
        """The rows of architectures. Raises ValueError if one is not of the space."""
        vectors = [self.space.encode(one) for one in architectures]
        return np.array(vectors, np.int64).reshape(len(vectors), len(self.counts))

    def draw(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Every decision with equal chance."""
        return self.space.canonical(self._options(count, random))

    def stratified(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Each option of a decision as often as the others, (count, decisions): a Latin hypercube of
        options (McKay, Beckman, Conover, Technometrics 21, 1979)."""
        if not len(self.counts):
            return self.draw(count, random)
        places = np.stack([random.permutation(count) for _ in self.counts], axis=1)
        cells = (places + random.random(places.shape)) / count
        return self.space.canonical(1 + np.minimum(cells * self.counts, self.counts - 1).astype(np.int64))

    def design(self, count: int, known: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """What to begin with, (up to count, decisions): the ends of the space, and others with each option equally
        often, less what known rows stand for.

        That is filled up greedily: with what has the largest share of options that are met less often than in
        the whole design, as long as that is half of its options.
        """
        rows = np.concatenate([self.ends, self.stratified(count - 2, random)])
        if not len(known):
            return rows
        met = self._met(rows)
        lacking, chosen = met.sum(axis=0) - self._met(known).sum(axis=0), []
        for _ in rows:
            shares = (met & (lacking > 0)).sum(axis=1) / np.maximum(met.sum(axis=1), 1)
            shares[chosen] = 0
            if shares.max() < ENOUGH:
                break
            chosen.append(int(shares.argmax()))
            lacking = lacking - met[chosen[-1]]
        return rows[chosen]

    def _met(self, rows: np.ndarray) -> np.ndarray:
        """Which options rows have, (n, options of all decisions)."""
        options = [np.arange(1, count + 1) for count in self.counts]
        columns = [column[:, None] == some for column, some in zip(rows.T, options, strict=True)]
        return np.concatenate([np.zeros((len(rows), 0), bool), *columns], axis=1)

    def mutate(self, rows: np.ndarray, random: np.random.Generator, rate: float | None = None) -> np.ndarray:
        """Each decision that arises changes with chance `rate`, one over their number by default; at least
        one does."""
        there = rows > 0
        numbers = np.maximum(there.sum(axis=1, keepdims=True), 1)
        changed = there & (random.random(rows.shape) < (1 / numbers if rate is None else rate))
        lots = np.where(there, random.random(rows.shape), -1)
        still = np.flatnonzero(~changed.any(axis=1) & there.any(axis=1))
        if len(still):
            changed[still, lots[still].argmax(axis=1)] = True
        others = 1 + random.integers(0, np.maximum(self.counts - 1, 1), size=rows.shape)
        others += others >= rows  # any option but the one that it is
        return self.space.canonical(np.where(changed, others, self._filled(rows, random)))

    def cross(self, mothers: np.ndarray, fathers: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Children that take each decision from either parent, with equal chance (uniform crossover)."""
        child = np.where(random.random(mothers.shape) < 0.5, mothers, fathers)
        child = np.where(child == 0, np.maximum(mothers, fathers), child)
        return self.space.canonical(self._filled(child, random))

    def neighbours(self, rows: np.ndarray) -> np.ndarray:
        """What one changed decision leads to, with what then arises at its first option.

        From any architecture to any other there is a way through neighbours.
        """
        changed = [rows[:0]]
        for place, count in enumerate(self.counts):
            there = rows[rows[:, place] > 0]
            for option in range(1, count + 1):
                copies = there[there[:, place] != option].copy()
                copies[:, place] = option
                changed.append(copies)
        return self.space.canonical(np.concatenate(changed))

    def _filled(self, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """With decisions that did not arise drawn at random: a deeper child needs them."""
        return np.where(rows == 0, self._options(len(rows), random), rows)

    def _options(self, count: int, random: np.random.Generator) -> np.ndarray:
        return random.integers(1, self.counts + 1, size=(count, len(self.counts)))


class Asked:
    """The rows that were asked for or told so far, and how to come by new ones."""

    def __init__(self, moves: Moves):
        self.moves = moves
        self.rows: list[np.ndarray] = []
        self.numbers: dict[bytes, int] = {}  # of each row, its place in `rows`

    def add(self, rows: np.ndarray) -> None:
        for row in rows:
            if self.numbers.setdefault(row.tobytes(), len(self.rows)) == len(self.rows):
                self.rows.append(row)

    def new(self, rows: np.ndarray) -> np.ndarray:
        """The different ones among rows that were not asked for, in their order."""
        different: dict[bytes, int] = {}
        for number, row in enumerate(np.ascontiguousarray(rows, np.int64)):
            if (key := row.tobytes()) not in self.numbers:
                different.setdefault(key, number)
        return rows[list(different.values())]

    def fill(self, rows: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
        """`count` new rows, the given ones first, then random ones; fewer only if the space has no more."""
        found = self.new(rows)[:count]
        if len(found) < count and len(self.rows) + len(found) < self.moves.space.size:
            found = self.new(np.concatenate([found, self.moves.draw(TRIES, random)]))[:count]
        start, before = 0, np.array(sorted(row.tolist() for row in self.rows), np.int64)
        while len(found) < count and len(self.rows) + len(found) < self.moves.space.size:
            # whatever is left has a neighbour among what is known
            known = np.concatenate([before.reshape(-1, found.shape[1]), found])
            if start >= len(known):
                break
            near = self.moves.neighbours(known[start : start + STEPS])
            found = self.new(np.concatenate([found, near]))[:count]
            start += STEPS
        return found
