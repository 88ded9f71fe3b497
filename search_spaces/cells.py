"""The other topology: two cells, found once and stacked to a network of any size.

Zoph, Vasudevan, Shlens, Le, "Learning Transferable Architectures for Scalable Image Recognition", CVPR 2018,
section 3 and appendix A. A cell is a row of blocks; a block makes five decisions: two inputs, an operator
for each, and how the two results are combined. Input 0 is the output of the cell before the last, 1 that of
the last cell, 2 and up those of the blocks before. What no block reads is concatenated: the cell's output.

    stem, normal × repeats, reduction, normal × repeats, reduction, normal × repeats, classifier

The reduction cell halves the size and doubles the filters: operators on its two inputs have stride 2.
Swapping the two paths of a block changes nothing but the order of weights, so a block holds them sorted;
and where the normal cell steps over every reduction, since it only reads the cell before the last, there is
no reduction cell.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

import numpy as np

from search_spaces.parts import Stem, tuples
from search_spaces.space import SearchSpace
from search_spaces.vectors import Decision, check_vector, get, put

KINDS = ("normal", "reduction")
INPUTS = 2  # of a cell: the outputs of the two cells before it
COMBINERS = ("add", "concat")
OPERATORS: dict[str, tuple[int, ...]] = {  # the paper's, and the dimensions that each works in
    "identity": (1, 2),
    "avg_pool_3x3": (1, 2),
    "max_pool_3x3": (1, 2),
    "max_pool_5x5": (1, 2),
    "max_pool_7x7": (1, 2),
    "conv_1x1": (1, 2),
    "separable_3x3": (1, 2),
    "separable_5x5": (1, 2),
    "separable_7x7": (1, 2),
    "conv_1x3_3x1": (2,),
    "conv_3x3": (1, 2),
    "dilated_3x3": (1, 2),
    "conv_1x7_7x1": (2,),
}


@dataclass(frozen=True, order=True)
class Path:
    """One way into a block: what it reads, and the operator on it."""

    input: int
    operator: str

    def __str__(self) -> str:
        return f"{self.operator}({self.input})"


@dataclass(frozen=True)
class CellBlock:
    """Two paths, sorted, and how they are combined."""

    paths: tuple[Path, Path]
    combiner: str = "add"

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", tuple(sorted(self.paths)))

    def __str__(self) -> str:
        return (" + " if self.combiner == "add" else " & ").join(map(str, self.paths))

    @property
    def row(self) -> list[int | str]:
        """The five decisions as they are written: [input, operator, input, operator, combiner]."""
        first, second = self.paths
        return [first.input, first.operator, second.input, second.operator, self.combiner]

    @classmethod
    def of(cls, row: Sequence[Any]) -> CellBlock:
        first, first_operator, second, second_operator, combiner = row
        return cls((Path(first, first_operator), Path(second, second_operator)), combiner)


Cell = tuple[CellBlock, ...]


def reads(cell: Cell) -> set[int]:
    """The inputs and blocks, counted from 0 with the inputs first, that a cell's blocks read."""
    return {path.input for block in cell for path in block.paths}


def unused(cell: Cell) -> tuple[int, ...]:
    """The blocks that no other reads: their outputs, concatenated, are the cell's."""
    read = reads(cell)
    return tuple(number for number in range(len(cell)) if number + INPUTS not in read)


@dataclass(frozen=True)
class CellArchitecture:
    """One network of a cell space: the image height it works at, and its two cells.

    The reduction cell is empty where none leads to the classifier.
    """

    resolution: int
    normal: Cell
    reduction: Cell

    def __str__(self) -> str:
        cells = "; ".join(f"{kind}: {' | '.join(map(str, self.cell(kind))) or 'none'}" for kind in KINDS)
        return f"{self.resolution} px; {cells}"

    @property
    def outline(self) -> str:
        """Each cell in a few words: how often it has each operator, the most frequent first."""

        def counts(cell: Cell) -> str:
            counted = Counter(path.operator for block in cell for path in block.paths)
            return ", ".join(f"{times} {name}" for name, times in counted.most_common()) or "none"

        return "; ".join(f"{kind}: {counts(self.cell(kind))}" for kind in KINDS)

    @property
    def traits(self) -> list[list[str]]:
        """What each path has: its operator."""
        return [[path.operator] for block in (*self.normal, *self.reduction) for path in block.paths]

    def cell(self, kind: str) -> Cell:
        return self.normal if kind == "normal" else self.reduction

    @cached_property
    def key(self) -> str:
        """A stable name: the first 12 hexadecimal digits of the SHA-256 of its JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def to_json(self) -> str:
        cells = {kind: [block.row for block in self.cell(kind)] for kind in KINDS}
        fields = {"topology": "cells", "resolution": self.resolution, **cells}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> CellArchitecture:
        fields = json.loads(text)
        return cls(fields["resolution"], *(tuple(map(CellBlock.of, fields[kind])) for kind in KINDS))


@dataclass(frozen=True)
class Place:
    """Where one cell stands in the network. `level` counts the reductions before it."""

    kind: str
    filters: int
    level: int


@dataclass(frozen=True)
class CellSpace:
    """Everything that may vary in the two cells, and the network that they are stacked to.

    `filters` are those of every block of the first normal cells. With `drop_path`, ScheduledDropPath's
    last rate, paths are left out at random while the supernet trains. `found` holds the only normal and
    reduction cell of a space that was written out or transferred.
    """

    name: str
    image_shape: tuple[int, ...]
    classes: int
    resolutions: tuple[int, ...]
    stem: Stem
    blocks: int
    repeats: int
    filters: int
    reductions: int
    operators: tuple[str, ...]
    combiners: tuple[str, ...]
    drop_path: float = 0.0
    activation: str = "relu"
    found: tuple[Cell, Cell] | None = None

    # what a space does whatever its topology
    dims = SearchSpace.dims
    input_shape = SearchSpace.input_shape
    check = SearchSpace.check
    sample = SearchSpace.sample
    features = SearchSpace.features
    crossover = SearchSpace.crossover
    _filled = SearchSpace._filled

    # -- what there is -------------------------------------------------------------------------

    @cached_property
    def size(self) -> int:
        """How many architectures the space holds, exactly."""
        if self.found:
            return len(self.resolutions)
        cells, without = self._cells(INPUTS), self._cells(1) if self._may_step_over else 0
        return len(self.resolutions) * ((cells - without) * cells + without)

    @property
    def depth_range(self) -> tuple[int, int]:
        """The fewest and the most blocks of one network, those of cells that are stepped over among them."""
        return (self.blocks * len(self.places),) * 2

    def _cells(self, inputs: int) -> int:
        """How many cells there are that read so many of the inputs."""
        paths = [(number + inputs) * len(self.operators) for number in range(self.blocks)]
        return math.prod(len(self.combiners) * one * (one + 1) // 2 for one in paths)

    @cached_property
    def _may_step_over(self) -> bool:
        """Whether a network of normal cells that read only the cell before the last has no reduction."""
        return all(place.kind == "normal" for place in self.places[::-INPUTS])

    def is_reduced(self, normal: Cell) -> bool:
        """Whether a reduction cell leads to the classifier."""
        return 1 in reads(normal) or not self._may_step_over

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """The cells of the network, in order."""
        row = []
        for level in range(self.reductions + 1):
            row += [Place("normal", self.filters * 2**level, level)] * self.repeats
            if level < self.reductions:
                row.append(Place("reduction", self.filters * 2 ** (level + 1), level))
        return tuple(row)

    def rows(self, architecture: CellArchitecture) -> list[tuple[int, Cell, dict[int, int]]]:
        """(place, cell, inputs) of each cell that leads to the classifier, in order.

        `inputs` holds, for input 0 and 1 as far as the cell reads them, the place of the cell that gives
        it, -1 for the stem. Cells that only read the cell before the last may leave every other one out.
        """
        wanted, rows = {len(self.places) - 1}, []
        for place in reversed(range(len(self.places))):
            if place not in wanted:
                continue
            cell = architecture.cell(self.places[place].kind)
            inputs = {which: max(place - INPUTS + which, -1) for which in sorted(reads(cell) & {0, 1})}
            wanted.update(inputs.values())
            rows.append((place, cell, inputs))
        return rows[::-1]

    def parts(self, architecture: CellArchitecture, place: int) -> tuple[int, ...]:
        """The blocks whose outputs make up the output of the cell at a place; (0,) for the stem at -1."""
        return (0,) if place < 0 else unused(architecture.cell(self.places[place].kind))

    # -- drawing -------------------------------------------------------------------------------

    @property
    def ends(self) -> tuple[CellArchitecture, CellArchitecture]:
        """The first option of every decision; and in every block the last operator on both inputs."""
        least = self.decode([1] * len(self.decisions))
        if self.found:
            return least, replace(least, resolution=self.resolutions[-1])
        paths = tuple(Path(which, self.operators[-1]) for which in range(INPUTS))
        cell = (CellBlock(paths, self.combiners[-1]),) * self.blocks
        return least, CellArchitecture(self.resolutions[-1], cell, cell)

    def mutate(
        self, architecture: CellArchitecture, random: Random, rate: float | None = None
    ) -> CellArchitecture:
        """A different architecture: each decision changes with probability `rate`, at least one does.

        The default rate is one over the number of decisions that arise. A space of one architecture
        returns that one.
        """
        vector = self.encode(architecture)
        active = [place for place, value in enumerate(vector) if value]
        if not active:
            return architecture
        rate = 1 / len(active) if rate is None else rate
        changed = [place for place in active if random.random() < rate] or [random.choice(active)]
        mutant = self._changed(vector, changed, random)
        # two changes may swap the paths of a block, which is no change; one alone always is
        return self._changed(vector, [random.choice(changed)], random) if mutant == architecture else mutant

    def _changed(self, vector: Sequence[int], places: Sequence[int], random: Random) -> CellArchitecture:
        mutant = self._filled(vector, random)
        for place in places:
            options = range(1, len(self.decisions[place].options) + 1)
            mutant[place] = random.choice([option for option in options if option != vector[place]])
        return self.decode(mutant)

    # -- vectors -------------------------------------------------------------------------------

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return self._layout[0]

    def encode(self, architecture: CellArchitecture) -> tuple[int, ...]:
        """The vector of an architecture, as long as `decisions`.

        Raises:
            ValueError: it is not an architecture of this space; the message names the place.
        """
        vector = [0] * len(self.decisions)
        put(vector, self._layout[1], self.resolutions, architecture.resolution, "resolution")
        if self.found:
            if (architecture.normal, architecture.reduction) != self._canonical(*self.found):
                raise ValueError(f"the architecture has other cells than the one of the space {self.name}")
            return tuple(vector)
        for kind in KINDS:
            cell = architecture.cell(kind)
            if kind == "reduction" and not self.is_reduced(architecture.normal):
                if cell:
                    raise ValueError(
                        "the normal cell steps over every reduction; there must be no reduction cell"
                    )
                continue
            if len(cell) != self.blocks:
                raise ValueError(
                    f"the {kind} cell has {len(cell)} blocks, the space {self.name} {self.blocks}"
                )
            for number, block in enumerate(cell):
                rows = zip(self._options(number), self._layout[2][kind, number], block.row, strict=True)
                for (name, options), place, value in rows:
                    put(vector, place, options, value, f"{kind} {number} {name}")
        return tuple(vector)

    def decode(self, vector: Sequence[int]) -> CellArchitecture:
        """The architecture of a vector. Total: 0 counts as 1, and the paths of a block are sorted.

        Raises:
            ValueError: wrong length, or a number above the count of the decision's options.
        """
        check_vector(self.name, self.decisions, vector)
        _, resolution, blocks = self._layout

        def block(kind: str, number: int) -> CellBlock:
            pairs = zip(self._options(number), blocks[kind, number], strict=True)
            return CellBlock.of([get(vector, place, options) for (_, options), place in pairs])

        cells = self.found or [tuple(block(kind, n) for n in range(self.blocks)) for kind in KINDS]
        return CellArchitecture(get(vector, resolution, self.resolutions), *self._canonical(*cells))

    def canonical(self, vectors: np.ndarray) -> np.ndarray:
        """`encode(decode(vector))` of many vectors at once, (n, decisions)."""
        vectors = np.maximum(np.asarray(vectors, np.int64), 1)
        if self.found:
            return vectors
        _, _, blocks = self._layout
        names = np.argsort(np.argsort(self.operators))  # paths are sorted by the operator's name
        _, columns = self.columns(vectors)
        for kind, (inputs, operators, _) in columns.items():
            paths = inputs * len(names) + names[operators]
            for number, swapped in enumerate((paths[..., 0] > paths[..., 1]).T):
                for a, b in zip(blocks[kind, number][:2], blocks[kind, number][2:4], strict=True):
                    if a is not None:
                        vectors[:, [a, b]] = np.where(
                            swapped[:, None], vectors[:, [b, a]], vectors[:, [a, b]]
                        )
        if self._may_step_over:
            inputs, _, _ = columns["normal"]
            reduced = (inputs == 1).any(axis=(1, 2))
            places = [
                at for (kind, _), row in blocks.items() if kind == "reduction" for at in row if at is not None
            ]
            vectors[:, places] *= reduced[:, None]
        return vectors

    def _canonical(self, normal: Cell, reduction: Cell) -> tuple[Cell, Cell]:
        return normal, reduction if self.is_reduced(normal) else ()

    def columns(self, vectors: np.ndarray) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, ...]]]:
        """What vectors say, in numbers from 0: the resolution's, (n,), and for each kind of cell the
        inputs, (n, blocks, 2), the operators', (n, blocks, 2), and the combiners', (n, blocks)."""
        zero_based = np.maximum(np.asarray(vectors, dtype=np.int64) - 1, 0)
        _, resolution, blocks = self._layout

        def column(place: int | None) -> np.ndarray:
            return np.zeros(len(zero_based), np.int64) if place is None else zero_based[:, place]

        def cell(kind: str) -> np.ndarray:
            """(n, blocks, 5)"""
            if self.found:
                names = (range(self.blocks + INPUTS), self.operators) * 2 + (self.combiners,)
                rows = [block.row for block in self.found[KINDS.index(kind)]]
                fixed = [
                    [options.index(value) for options, value in zip(names, row, strict=True)] for row in rows
                ]
                return np.tile(np.array(fixed), (len(zero_based), 1, 1))
            rows = [np.stack([column(at) for at in blocks[kind, n]], axis=1) for n in range(self.blocks)]
            return np.stack(rows, axis=1)

        cells = {kind: cell(kind) for kind in KINDS}
        return column(resolution), {
            kind: (one[..., 0:4:2], one[..., 1:4:2], one[..., 4]) for kind, one in cells.items()
        }

    @cached_property
    def _layout(self) -> tuple[tuple[Decision, ...], int | None, dict[tuple[str, int], list[int | None]]]:
        """All decisions, and where those of the resolution and of each block stand; None where there is
        nothing to decide."""
        decisions: list[Decision] = []

        def place(name: str, options: Sequence[Any]) -> int | None:
            if len(options) == 1:
                return None
            decisions.append(Decision(name, tuple(options)))
            return len(decisions) - 1

        resolution = place("resolution", self.resolutions)
        blocks = {
            (kind, number): [
                place(f"{kind} {number} {name}", options) for name, options in self._options(number)
            ]
            for kind in KINDS
            for number in range(0 if self.found else self.blocks)
        }
        return tuple(decisions), resolution, blocks

    def _options(self, number: int) -> tuple[tuple[str, tuple], ...]:
        """The five decisions of a block, in the order of `CellBlock.row`."""
        inputs = tuple(range(number + INPUTS))
        return (
            ("input a", inputs),
            ("operator a", self.operators),
            ("input b", inputs),
            ("operator b", self.operators),
            ("combiner", self.combiners),
        )

    # -- JSON ----------------------------------------------------------------------------------

    def to_json(self) -> str:
        found = self.found and [[block.row for block in cell] for cell in self.found]
        return json.dumps({"topology": "cells", **asdict(self), "found": found}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CellSpace:
        fields = json.loads(text)
        del fields["topology"]
        found = fields["found"] and tuple(tuple(map(CellBlock.of, cell)) for cell in fields["found"])
        return cls(**{**tuples(fields), "stem": Stem(**fields["stem"]), "found": found})
