"""Drawing an architecture of about a given cost: bins of cost, and the marginals of each.

Uniform sampling per decision almost never meets the cheapest and the dearest architectures. So the cost
range is cut into bins of equal width, and for each bin it is tabled, from a pool that covers all costs,
how often each decision takes each option there. An architecture is then drawn from a bin's table,
decision by decision, until its cost lies in the bin. After Wang et al., "AttentiveNAS", CVPR 2021,
section 3.2, with a pool of our own: drawn with a bias towards small or large options that differs from
one architecture to the next, since a uniform pool has nothing at the ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from search_spaces import Architecture, SearchSpace

POOL = 20_000
TILT = 4.0  # the strongest bias: the last option is e^4 times as likely as the first, or the reverse
TRIES = 64  # drawn together; the first in the bin is taken, the nearest if none is


@dataclass(frozen=True)
class CostBins:
    """Bins of equal width in a cost that hold enough architectures to be worth a bin.

    `cost` gives the costs of encoded architectures, (n, decisions) to (n,); it sees no vector that
    `encode` would not give, since a predicted cost knows no others. `edges` are the (K + 1,) limits;
    `marginals[k, d]` the cumulative probabilities of decision d's options in bin k, (K, D, O), 1 from the
    last option on.
    """

    space: SearchSpace
    cost: Callable[[np.ndarray], np.ndarray]
    edges: np.ndarray
    marginals: np.ndarray

    def __len__(self) -> int:
        return len(self.edges) - 1

    def bin_of(self, costs: np.ndarray) -> np.ndarray:
        """The bin of each cost, (n,); the ends belong to the outer bins."""
        return np.clip(np.searchsorted(self.edges, costs, side="right") - 1, 0, len(self) - 1)

    def sample(self, number: int, random: Random) -> Architecture:
        """An architecture whose cost lies in bin `number`; after TRIES failures the nearest one drawn."""
        generator = np.random.default_rng(random.getrandbits(64))
        dice = generator.random((TRIES, len(self.space.decisions), 1))
        vectors = self.space.canonical(1 + (dice >= self.marginals[number]).sum(axis=2))
        costs = self.cost(vectors)
        low, high = self.edges[number], self.edges[number + 1]
        outside = np.maximum(np.maximum(low - costs, costs - high), 0)
        distance = np.where(self.bin_of(costs) == number, -1, outside)  # an edge is of the dearer bin
        return self.space.decode(vectors[int(np.argmin(distance))].tolist())


def cost_bins(
    space: SearchSpace,
    cost: Callable[[np.ndarray], np.ndarray],
    bins: int,
    ends: Sequence[Architecture] = (),
    least: int = 50,
    seed: int = 0,
) -> CostBins:
    """Bins between the cheapest and the dearest architecture, `ends` among them.

    A bin in which the pool has fewer than `least` different architectures is merged with its cheaper
    neighbour (the first with its dearer one).

    Raises:
        ValueError: the cost of some architecture is not a finite number.
    """
    generator = np.random.default_rng(seed)
    vectors = _pool(space, cost, generator)
    costs = cost(vectors)
    known = np.concatenate([costs, *(cost(np.array([space.encode(end)])) for end in ends)]).astype(float)
    if not np.isfinite(known).all():
        raise ValueError("some architectures have a cost that is not a finite number; go by another cost")
    edges = np.linspace(known.min(), known.max(), bins + 1)
    counts = np.histogram(costs, edges)[0]
    edges = _merged(edges, counts, min(least, max(1, len(costs) // bins)))
    inside = np.clip(np.searchsorted(edges, costs, side="right") - 1, 0, len(edges) - 2)
    marginals = np.stack([_marginals(space, vectors[inside == number]) for number in range(len(edges) - 1)])
    return CostBins(space, cost, edges, marginals)


def _pool(
    space: SearchSpace, cost: Callable[[np.ndarray], np.ndarray], generator: np.random.Generator
) -> np.ndarray:
    """(n, decisions) different canonical vectors of all costs.

    Whether more of an option means more cost is read off a uniform sample, decision by decision.
    """
    decisions = space.decisions
    if not decisions:
        return np.zeros((1, 0), np.int64)
    uniform = uniform_vectors(space, POOL // 4, generator)
    costs = cost(space.canonical(uniform))
    tilt = generator.uniform(-TILT, TILT, (POOL, 1))
    columns = []
    for place, decision in enumerate(decisions):
        options = len(decision.options)
        mean = np.array([costs[uniform[:, place] == option].mean() for option in range(1, options + 1)])
        rank = np.argsort(np.argsort(mean)) / max(options - 1, 1)
        logits = tilt * rank + generator.gumbel(size=(POOL, options))
        columns.append(1 + logits.argmax(axis=1))
    return np.unique(space.canonical(np.concatenate([np.stack(columns, axis=1), uniform])), axis=0)


def uniform_vectors(space: SearchSpace, number: int, generator: np.random.Generator) -> np.ndarray:
    """(number, decisions), from 1: every decision drawn uniformly, whether it arises or not."""
    limits = [len(decision.options) + 1 for decision in space.decisions]
    return generator.integers(1, limits, (number, len(limits)))


def _merged(edges: np.ndarray, counts: np.ndarray, least: int) -> np.ndarray:
    """The edges without those that bound a bin of fewer than `least`."""
    edges, counts = list(edges), list(counts)
    number = len(counts) - 1
    while len(counts) > 1 and number >= 0:
        if counts[number] < least:
            neighbour = number - 1 if number else 1
            counts[neighbour] += counts[number]
            del counts[number], edges[max(number, 1) if number else 1]
        number = min(number, len(counts)) - 1
    return np.array(edges)


def _marginals(space: SearchSpace, vectors: np.ndarray) -> np.ndarray:
    """Cumulative (D, O): how often each decision takes each option, where it arises; one is added to all."""
    most = max((len(decision.options) for decision in space.decisions), default=1)
    table = np.ones((len(space.decisions), most))
    for place, decision in enumerate(space.decisions):
        options = len(decision.options)
        counts = np.bincount(vectors[:, place], minlength=options + 1)[1:] + 1.0
        table[place, : options - 1] = (counts.cumsum() / counts.sum())[:-1]
    return table
