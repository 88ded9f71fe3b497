"""The third topology: one cell whose edges are searched, stacked to a network with a fixed skeleton.

Dong & Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020, section
2.1. A cell is a densely connected graph of nodes: from each node to every later one leads an edge with an operator
on it, and a node is the sum of what its edges bring. Node 0 is the cell's input, the last one its output.

    stem, cell × repeats, residual block, cell × repeats, residual block, cell × repeats, classifier

The residual blocks halve the size and double the filters; nothing of them is searched.

An architecture is written as in the public tables, node by node, each edge with the node that it comes from:

    |nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|

Every such line is an architecture of its own, as in those tables, also where two compute the same, since an edge
leads from or to a node that nothing reads: there each has a row, and costs of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from search_spaces.cells import CellSpace
from search_spaces.parts import Stem, tuples
from search_spaces.space import SearchSpace
from search_spaces.vectors import Decision, check_vector, get, put

OPERATORS = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")  # by what they compute

Edges = tuple[
    tuple[str, ...], ...
]  # of each node after the first, the operator on the edge from each before it


@dataclass(frozen=True)
class EdgeCellArchitecture:
    """One network of a space of edge cells: the image height it works at, and the operators of its cell."""

    resolution: int
    edges: Edges

    def __str__(self) -> str:
        rows = ("|".join(f"{name}~{source}" for source, name in enumerate(row)) for row in self.edges)
        return "+".join(f"|{row}|" for row in rows)

    @classmethod
    def from_string(cls, text: str, resolution: int) -> EdgeCellArchitecture:
        """The architecture that `str` writes, as the public tables do.

        Raises:
            ValueError: it is written otherwise.
        """
        rows = [row.removeprefix("|").removesuffix("|").split("|") for row in text.strip().split("+")]
        edges = tuple(tuple(edge.partition("~")[0] for edge in row) for row in rows)
        architecture = cls(resolution, edges)
        if str(architecture) != text.strip() or [len(row) for row in edges] != [*range(1, len(edges) + 1)]:
            raise ValueError(
                f"the cell {text!r} is not written as |nor_conv_3x3~0|+|skip_connect~0|none~1|: for every node after "
                "the first, the operator on the edge from each node before it, in order"
            )
        return architecture

    @property
    def outline(self) -> str:
        """How often the cell has each operator, the most frequent first."""
        counted = Counter(name for row in self.edges for name in row)
        return ", ".join(f"{times} {name}" for name, times in counted.most_common())

    @property
    def traits(self) -> list[list[str]]:
        """What each edge has: its operator."""
        return [[name] for row in self.edges for name in row]

    @cached_property
    def key(self) -> str:
        """A stable name: the first 12 hexadecimal digits of the SHA-256 of its JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def to_json(self) -> str:
        fields = {"topology": "edge_cells", "resolution": self.resolution, "cell": str(self)}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> EdgeCellArchitecture:
        fields = json.loads(text)
        return cls.from_string(fields["cell"], fields["resolution"])


@dataclass(frozen=True)
class EdgeCellSpace:
    """Everything that may vary in the cell, and the network that it is stacked to.

    `filters` are those of the stem and the first cells, `nodes` those of a cell, its input among them. There is
    one resolution, so that an architecture's line says all of it. `found` holds the only cell of a space that
    was written out or transferred.
    """

    name: str
    image_shape: tuple[int, ...]
    classes: int
    resolution: int
    stem: Stem
    nodes: int
    repeats: int
    filters: int
    reductions: int
    operators: tuple[str, ...]
    activation: str = "relu"
    found: Edges | None = None

    # what a space does whatever its topology
    dims = SearchSpace.dims
    input_shape = SearchSpace.input_shape
    check = SearchSpace.check
    sample = SearchSpace.sample
    mutate = SearchSpace.mutate
    features = SearchSpace.features
    crossover = SearchSpace.crossover
    _filled = SearchSpace._filled
    places = CellSpace.places

    # -- what there is -------------------------------------------------------------------------

    @property
    def resolutions(self) -> tuple[int]:
        return (self.resolution,)

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """(node, the node before it that the edge comes from) of every edge of the cell, in order."""
        return tuple((node, source) for node in range(1, self.nodes) for source in range(node))

    @property
    def size(self) -> int:
        """How many architectures the space holds, exactly."""
        return 1 if self.found else len(self.operators) ** len(self.edges)

    @property
    def depth_range(self) -> tuple[int, int]:
        """The fewest and the most blocks of one network: its cells and residual blocks."""
        return (len(self.places),) * 2

    # -- drawing -------------------------------------------------------------------------------

    @property
    def ends(self) -> tuple[EdgeCellArchitecture, EdgeCellArchitecture]:
        """On every edge the operator that computes least, but for none, which would end all paths; and most."""
        if self.found:
            return (EdgeCellArchitecture(self.resolution, self.found),) * 2
        *others, most = sorted(self.operators, key=OPERATORS.index)
        least = next((name for name in others if name != "none"), most)
        return self.of([least] * len(self.edges)), self.of([most] * len(self.edges))

    def of(self, operators: Sequence[str]) -> EdgeCellArchitecture:
        """The architecture with these operators on its edges, in the order of `edges`."""
        starts = [node * (node - 1) // 2 for node in range(1, self.nodes)]
        rows = (tuple(operators[start : start + node]) for node, start in enumerate(starts, 1))
        return EdgeCellArchitecture(self.resolution, tuple(rows))

    # -- vectors -------------------------------------------------------------------------------

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        if self.found or len(self.operators) == 1:
            return ()
        names = (f"node {node} input {source} operator" for node, source in self.edges)
        return tuple(Decision(name, self.operators) for name in names)

    def encode(self, architecture: EdgeCellArchitecture) -> tuple[int, ...]:
        """The vector of an architecture, as long as `decisions`.

        Raises:
            ValueError: it is not an architecture of this space; the message names the place.
        """
        put([], None, self.resolutions, architecture.resolution, "resolution")
        if self.found:
            if architecture.edges != self.found:
                raise ValueError(f"the architecture has another cell than the one of the space {self.name}")
            return ()
        rows = [len(row) for row in architecture.edges]
        if rows != [*range(1, self.nodes)]:
            raise ValueError(
                f"the cell has {len(rows) + 1} nodes, those of the space {self.name} {self.nodes}"
            )
        vector = [0] * len(self.edges)
        for place, (node, source) in enumerate(self.edges):
            name = f"node {node} input {source} operator"
            put(vector, place, self.operators, architecture.edges[node - 1][source], name)
        return tuple(vector[: len(self.decisions)])

    def decode(self, vector: Sequence[int]) -> EdgeCellArchitecture:
        """The architecture of a vector. Total: 0 counts as 1.

        Raises:
            ValueError: wrong length, or a number above the count of the decision's options.
        """
        check_vector(self.name, self.decisions, vector)
        if self.found:
            return EdgeCellArchitecture(self.resolution, self.found)
        places = range(len(self.edges)) if self.decisions else [None] * len(self.edges)
        return self.of([get(vector, place, self.operators) for place in places])

    def canonical(self, vectors: np.ndarray) -> np.ndarray:
        """`encode(decode(vector))` of many vectors at once, (n, decisions)."""
        return np.maximum(np.asarray(vectors, np.int64), 1)

    def columns(self, vectors: np.ndarray) -> np.ndarray:
        """The number, from 0, of the operator on each edge, (n, edges)."""
        if self.decisions:
            return np.maximum(np.asarray(vectors, np.int64) - 1, 0)
        fixed = [self.operators.index(name) for row in self.decode(()).edges for name in row]
        return np.tile(fixed, (len(vectors), 1))

    # -- JSON ----------------------------------------------------------------------------------

    def to_json(self) -> str:
        return json.dumps({"topology": "edge_cells", **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> EdgeCellSpace:
        fields = tuples(json.loads(text))
        del fields["topology"]
        return cls(**{**fields, "stem": Stem(**fields["stem"])})
