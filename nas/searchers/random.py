"""Random search: each decision with equal chance. The baseline that every searcher must beat."""

from __future__ import annotations

import numpy as np

from nas.searchers.rounds import Rounds
from search_spaces import SearchSpace

ROUND = 16


class Random(Rounds):
    def __init__(self, space: SearchSpace, objectives: int, seed: int = 0):
        super().__init__(space, objectives, seed)

    def propose(self) -> tuple[np.ndarray, int]:
        return self.moves.draw(2 * ROUND, self.random), ROUND
