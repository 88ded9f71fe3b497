"""What a latency is the sum of: a row of terms, each an entry of a table.

What an entry adds is in part its own, and in part shared with the entries that are like it, by features that they
have in common. That is what lets a few dozen measurements say something about an entry that was never measured. Here
are the entries of decisions: one per option, which shares with the same option of other decisions of its kind, one per
pair of options of neighbouring decisions, and, where there are few decisions, per pair of options of any two. In spaces
of stages they are finer: `nas.predictors.block_terms`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces import CategoricalSpace, CellSpace, Decision, EdgeCellSpace, NetworkSpace, SearchSpace

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MOST_PAIRED = 24  # decisions up to which any two of them have terms, not only neighbours
GROUPS = ("shared", "own", "boundary", "pairs", "counted")  # of coefficients, each with a variance of its own
OWN, BOUNDARY, PAIRS = 1, 2, 3


@dataclass(frozen=True)
class Terms:
    """The entries of a table, and which of them an architecture is the sum of. Entry 0 is nothing.

    Args:
        columns: of encoded architectures, (n, decisions): the entries of each term, (n,) integers.
        shared: (entries, features), sparse: what an entry has in common with others.
        sizes: (entries,), about how much one's own part may be, relative to the others of its group.
        groups: (entries,), the group of its own part: OWN, BOUNDARY or PAIRS.
        counted: counted costs of whole encoded architectures, (n, decisions) to (n, costs), about 1 at most.
    """

    columns: Callable[[np.ndarray], list[np.ndarray]]
    shared: csr_array
    sizes: np.ndarray
    groups: np.ndarray
    counted: Callable[[np.ndarray], np.ndarray] | None = None


class Book:
    """Entries by what they are of; each is written once."""

    def __init__(self):
        self._numbers: dict[Hashable, int] = {}
        self._rows: list[tuple[Mapping[Hashable, float], float, int]] = [({}, 0.0, OWN)]

    def entry(self, key: Hashable, features: Mapping[Hashable, float], size: float, group: int) -> int:
        """The number of an entry, which is written if it is new."""
        if key not in self._numbers:
            self._numbers[key] = len(self._rows)
            self._rows.append((features, size, group))
        return self._numbers[key]

    def terms(self, columns: Callable, counted: Callable | None = None) -> Terms:
        from scipy.sparse import csr_array

        names: dict[Hashable, int] = {}
        places, features, values = [], [], []
        for place, (row, _, _) in enumerate(self._rows):
            for name, value in row.items():
                places.append(place)
                features.append(names.setdefault(name, len(names)))
                values.append(value)
        shared = csr_array((values, (places, features)), (len(self._rows), len(names)), dtype=float)
        _, sizes, groups = zip(*self._rows, strict=True)
        return Terms(columns, shared, np.array(sizes), np.array(groups), counted)


def terms_of(space: NetworkSpace | CategoricalSpace) -> Terms:
    """The terms of a space's architectures, of whichever topology."""
    if isinstance(space, SearchSpace):
        from nas.predictors.block_terms import block_terms

        return block_terms(space)
    return decision_terms(space)


def decision_terms(space: CellSpace | EdgeCellSpace | CategoricalSpace) -> Terms:
    """An entry for each option of a decision, and for pairs of options."""
    book, decisions = Book(), space.decisions
    options = [
        _table(
            book.entry((place, number), _features(decision, option), 1.0, OWN)
            for number, option in enumerate(decision.options)
        )
        for place, decision in enumerate(decisions)
    ]
    pairs = []
    for a, b in combinations(range(len(decisions)), 2):
        if b > a + 1 and len(decisions) > MOST_PAIRED:
            continue
        group = BOUNDARY if b == a + 1 else PAIRS
        table = np.zeros((len(options[a]), len(options[b])), np.int64)
        for i, j in product(range(1, len(options[a])), range(1, len(options[b]))):
            table[i, j] = book.entry((a, i, b, j), {}, 1.0, group)
        pairs.append((a, b, table))

    def columns(vectors: np.ndarray) -> list[np.ndarray]:
        chosen = np.ascontiguousarray(space.canonical(vectors).T)
        single = [table[chosen[place]] for place, table in enumerate(options)]
        return single + [table[chosen[a], chosen[b]] for a, b, table in pairs]

    return book.terms(columns, None if isinstance(space, CategoricalSpace) else _counted(space))


def _table(numbers) -> np.ndarray:
    """Entries by option, from 1; where none arises, nothing."""
    return np.array([0, *numbers])


def _features(decision: Decision, option: Any) -> dict[Hashable, float]:
    """What an option shares with that of other decisions of its kind, and a number with the other numbers."""
    kind = re.sub(r"[\s_.-]*\d+| [ab]$", "", decision.name)  # in whichever block, on whichever path
    features: dict[Hashable, float] = {(kind, str(option)): 1.0}
    if all(isinstance(one, int | float) and not isinstance(one, bool) for one in decision.options):
        most = max(map(abs, decision.options)) or 1
        features |= {(kind, "number"): option / most, (decision.name, "alone"): option / most}
    return features


def _counted(space: CellSpace | EdgeCellSpace) -> Callable[[np.ndarray], np.ndarray]:
    """MACs and bytes, over those of the largest architecture."""
    from supernets.cost import COSTS, cost_table

    table, columns = cost_table(space), [COSTS.index("macs"), COSTS.index("bytes")]
    most = np.maximum(table.of([table.largest])[0, columns], 1)
    return lambda vectors: table(vectors)[:, columns] / most


# -- products ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Features:
    """The features of n architectures, by group: what the products of two architectures are made from."""

    groups: tuple[str, ...]
    columns: tuple[Any, ...]  # of each group (n, features), sparse but for the counted costs

    def take(self, rows: np.ndarray) -> Features:
        return Features(self.groups, tuple(one[rows] for one in self.columns))

    def squares(self) -> np.ndarray:
        """(groups, n) products of each with itself."""
        return np.stack([np.asarray((one * one).sum(axis=1)).ravel() for one in self.columns])

    def kernels(self, others: Features) -> np.ndarray:
        """(groups, n, others) products."""
        products = [a @ b.T for a, b in zip(self.columns, others.columns, strict=True)]
        return np.stack([one.toarray() if hasattr(one, "toarray") else one for one in products])


def features_of(terms: Terms, vectors: np.ndarray) -> Features:
    """Features of encoded architectures, (n, decisions). All of one space have the same groups."""
    from scipy.sparse import csr_array

    entries = np.concatenate([np.zeros(0, np.int64), *terms.columns(vectors)])
    rows = np.arange(len(entries)) % max(len(vectors), 1)
    chosen = csr_array((np.ones(len(entries)), (rows, entries)), (len(vectors), len(terms.sizes)))
    columns: dict[str, Any] = {"shared": chosen @ terms.shared}
    own = csr_array(chosen * terms.sizes)
    for group in sorted(set(terms.groups[1:].tolist())):
        columns[GROUPS[group]] = own[:, np.flatnonzero(terms.groups == group)]
    if terms.counted is not None:
        columns["counted"] = terms.counted(vectors)
    return Features(tuple(columns), tuple(columns.values()))
