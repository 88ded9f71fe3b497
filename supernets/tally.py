"""What a training trained: a histogram of the MACs of all architectures that its steps drew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search_spaces import Architecture
from supernets.cost import Costs

BINS = 20


class Tally:
    """Counts the architectures of each step by their MACs.

    Costs are looked up when they are asked for, many architectures at once: not inside a step.
    """

    def __init__(self, costs: Costs):
        self.table = costs.table
        ends = self.table.of([self.table.smallest, self.table.largest])[:, 0]
        self.edges = np.linspace(ends.min(), ends.max(), BINS + 1)
        self.counts = np.zeros(BINS, dtype=np.int64)
        self.new: list[tuple[Architecture, ...]] = []  # of each step since the last count
        self.macs: list[float] = []  # of each step since the last look, its architectures added

    def add(self, architectures: Sequence[Architecture]) -> None:
        """Take in the architectures of a step."""
        self.new.append(tuple(architectures))

    def count(self) -> None:
        """Look up the costs of what is new. One outside the edges counts in the outermost bin."""
        if not self.new:
            return
        macs = self.table.of([one for step in self.new for one in step])[:, 0]
        places = np.clip(np.searchsorted(self.edges, macs, side="right") - 1, 0, BINS - 1)
        self.counts += np.bincount(places, minlength=BINS)
        ends = np.cumsum([len(step) for step in self.new])
        self.macs += [float(step.sum()) for step in np.split(macs, ends[:-1])]
        self.new = []

    def mean_macs(self) -> float:
        """Multiply-accumulates per image and step since the last look, the architectures of a step added."""
        self.count()
        mean = float(np.mean(self.macs))
        self.macs = []
        return mean

    def state_dict(self) -> dict[str, Any]:
        """As JSON: `edges` (21 MACs), `counts` (20), and the MACs of the steps since the last look."""
        self.count()
        return {"edges": self.edges.tolist(), "counts": self.counts.tolist(), "macs": self.macs}

    def load_state_dict(self, state: Mapping[str, Any] | None, rank: int = 0) -> None:
        """Go on from a count of all ranks, which the first one keeps; from nothing if there is none."""
        counts = state["counts"] if state and rank == 0 else [0] * BINS
        self.counts = np.array(counts, dtype=np.int64)
        self.macs, self.new = (list(state["macs"]) if state else []), []
