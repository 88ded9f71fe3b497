"""Random search: each decision with equal chance. The baseline that every searcher must beat."""

from __future__ import annotations

import random
from collections.abc import Sequence

from search_spaces import Architecture, SearchSpace

TRIES = 1000  # draws for one new architecture before the space counts as exhausted


class Random:
    def __init__(self, space: SearchSpace, objectives: int, seed: int = 0):
        self.space = space
        self.random = random.Random(seed)
        self.asked: set[str] = set()

    def ask(self, count: int) -> list[Architecture]:
        drawn: list[Architecture] = []
        while len(drawn) < count and (one := self._new()) is not None:
            self.asked.add(one.key)
            drawn.append(one)
        return drawn

    def tell(
        self, architecture: Architecture, losses: Sequence[float] | None, violation: float = 0.0
    ) -> None:
        """It learns nothing."""

    def _new(self) -> Architecture | None:
        draws = (self.space.sample(self.random) for _ in range(TRIES))
        return next((one for one in draws if one.key not in self.asked), None)
