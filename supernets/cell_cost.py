"""What the architectures of a cell space cost: counted on what `export` returns, tabled per layer.

Every path, join, reader and classifier is counted once for each place it can stand in; the cost of an
architecture is the sum of what is there, so that of ten thousand is a few numpy expressions; a test holds
table = count.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product

import numpy as np
import torch
from torch import nn

from search_spaces.cells import INPUTS, KINDS, Cell, CellArchitecture, CellBlock, CellSpace, Path
from supernets.cells import (
    PartsClassifier,
    PartsConvolution,
    Source,
    make_join,
    make_path,
    path_stride,
    plain,
)
from supernets.cost import COSTS, count
from supernets.supernet import Stem


class CellCostTable:
    """The costs of all architectures of a cell space; the same questions as to a `supernets.cost.CostTable`."""

    def __init__(self, space: CellSpace):
        self.space = space
        self._known: dict[tuple, np.ndarray] = {}

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Costs of encoded architectures: (n, decisions) to (n, 3) in the order of COSTS."""
        space = self.space
        vectors = np.asarray(vectors).reshape(len(vectors), len(space.decisions))
        resolution, columns = space.columns(vectors)
        facts = {kind: _facts(*column) for kind, column in columns.items()}
        live = self._live({kind: read for kind, (_, read, _) in facts.items()})
        last = facts[space.places[-1].kind][2]
        total = self._stem[resolution] + self._classifier[resolution, last]
        for at, place in enumerate(space.places):
            inputs, operators, combiners = columns[place.kind]
            different, read, _ = facts[place.kind]
            paths, joins, aligned = self._tables[at]
            of_paths = paths[resolution[:, None, None], (inputs < INPUTS).astype(int), operators]
            cost = of_paths[:, :, 0].sum(1) + (of_paths[:, :, 1] * different[..., None]).sum(1)
            concatenated = np.array(space.combiners)[combiners] == "concat"
            cost += joins[resolution] * concatenated.sum(1)[:, None]
            for which, table in enumerate(aligned):
                source = max(at - INPUTS + which, -1)
                parts = 1 if source < 0 else facts[space.places[source].kind][2]
                cost += table[resolution, parts] * read[:, [which]]
            total += cost * live[:, [at]]
        return total

    def of(self, architectures: Sequence[CellArchitecture]) -> np.ndarray:
        """Costs of architectures, (n, 3) in the order of COSTS."""
        return self(np.array([self.space.encode(one) for one in architectures], dtype=np.int64))

    @cached_property
    def smallest(self) -> CellArchitecture:
        """The architecture of fewest MACs: chains of the cheapest operators on one of the inputs."""
        if self.space.found:
            return self.space.decode([1] * len(self.space.decisions))
        chains = []
        for inputs in product(range(INPUTS), repeat=len(KINDS)):
            read = {
                kind: np.eye(INPUTS, dtype=bool)[[which]] for kind, which in zip(KINDS, inputs, strict=True)
            }
            live = self._live(read)[0]
            chains.append([self._chain(kind, which, live) for kind, which in zip(KINDS, inputs, strict=True)])
        made = [self._architecture(self.space.resolutions[0], *pair) for pair in chains]
        return made[int(np.argmin(self.of(made)[:, 0]))]

    @cached_property
    def largest(self) -> CellArchitecture:
        """The architecture of most MACs: in every block the dearest operators on both inputs."""
        if self.space.found:
            return self.space.decode([len(one.options) for one in self.space.decisions])
        live, cells = np.ones(len(self.space.places), bool), []
        for kind in KINDS:
            paths = tuple(Path(which, self._operator(kind, which, live, -1)) for which in range(INPUTS))
            cells.append((CellBlock(paths, self._combiner(-1)),) * self.space.blocks)
        return self._architecture(self.space.resolutions[-1], *cells)

    def _architecture(self, resolution: int, normal: Cell, reduction: Cell) -> CellArchitecture:
        return CellArchitecture(resolution, normal, reduction if self.space.is_reduced(normal) else ())

    def _chain(self, kind: str, which: int, live: np.ndarray) -> Cell:
        """The first block works on one input, each other on the block before, each on one path."""
        row = []
        for number in range(self.space.blocks):
            read = which if number == 0 else number - 1 + INPUTS
            path = Path(read, self._operator(kind, read, live, 0))
            row.append(CellBlock((path, path), self._combiner(0)))
        return tuple(row)

    def _operator(self, kind: str, which: int, live: np.ndarray, end: int) -> str:
        """The operator of fewest MACs, or with end -1 of most, in the live places of a kind of cell."""
        places = zip(self.space.places, self._tables, live, strict=True)
        tables = [paths for place, (paths, _, _), there in places if there and place.kind == kind]
        macs = sum(table[end, int(which < INPUTS), :, 0] for table in tables)
        return self.space.operators[int((np.argmin, np.argmax)[end](macs))]

    def _combiner(self, end: int) -> str:
        return sorted(self.space.combiners)[end]  # add before concat, which has a convolution after it

    def _live(self, read: dict[str, np.ndarray]) -> np.ndarray:
        """Whether each place leads to the classifier, (n, places); `read` has which inputs, (n, 2)."""
        places = self.space.places
        live = np.zeros((len(read["normal"]), len(places)), bool)
        live[:, -1] = True
        for at in reversed(range(len(places))):
            for which in range(INPUTS):
                if (source := at - INPUTS + which) >= 0:
                    live[:, source] |= live[:, at] & read[places[at].kind][:, which]
        return live

    # -- tables --------------------------------------------------------------------------------

    @cached_property
    def _stem(self) -> np.ndarray:
        """(resolutions, 3)"""
        stem = _made(Stem, self.space).export()
        return np.stack([count(stem, self.space.input_shape(r)) for r in self.space.resolutions])

    @cached_property
    def _classifier(self) -> np.ndarray:
        """(resolutions, parts, 3); row 0 is of no use."""
        space = self.space
        source = Source(space.places[-1].filters, space.blocks, space.reductions)
        return np.stack([self._by_parts(size[-1], source, None, 1) for size in self._sizes])

    @cached_property
    def _tables(self) -> list[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
        """Of each place: paths (resolutions, from a block or an input, operators, 3), joins (resolutions, 3),
        and for input 0 and 1 what reads it, (resolutions, parts, 3)."""
        space, tables = self.space, []
        before = last = Source(space.stem.width, 1, 0)
        for place in space.places:
            after = place.level + (place.kind == "reduction")
            paths = [
                [
                    [
                        self._path(name, place.filters, path_stride(place.kind, which), size)
                        for name in space.operators
                    ]
                    for which, size in ((INPUTS, sizes[after]), (0, sizes[place.level]))
                ]
                for sizes in self._sizes
            ]
            joins = [self._join(place.filters, sizes[after]) for sizes in self._sizes]
            aligned = [
                np.stack(
                    [
                        self._by_parts(
                            sizes[source.level], source, place.filters, 2 ** (place.level - source.level)
                        )
                        for sizes in self._sizes
                    ]
                )
                for source in (before, last)
            ]
            tables.append((np.array(paths), np.array(joins), aligned))
            before, last = last, Source(place.filters, space.blocks, after)
        return tables

    def _path(self, name: str, filters: int, stride: int, size: tuple[int, ...]) -> np.ndarray:
        key = "path", name, filters, stride, size
        if key not in self._known:
            made = plain(_made(make_path, name, filters, stride, self.space.activation, self.space.dims))
            self._known[key] = count(made, (filters, *size))
        return self._known[key]

    def _join(self, filters: int, size: tuple[int, ...]) -> np.ndarray:
        key = "join", filters, size
        if key not in self._known:
            made = plain(_made(make_join, filters, self.space.activation, self.space.dims))
            self._known[key] = count(made, (2 * filters, *size))
        return self._known[key]

    def _by_parts(
        self, size: tuple[int, ...], source: Source, filters: int | None, stride: int
    ) -> np.ndarray:
        """(parts + 1, 3) of what reads a source, for each number of its parts: a convolution to so many
        filters, or the classifier. Row 0 is zeros."""
        key = "reader", size, source, filters, stride
        if key not in self._known:
            act, dims = self.space.activation, self.space.dims
            if filters is None:
                reader = _made(PartsClassifier, source, self.space.classes, act, dims)
            else:
                reader = _made(PartsConvolution, source, filters, stride, act, dims)
            counted = [
                count(reader.export(range(parts)), (parts * source.channels, *size))
                for parts in range(1, source.parts + 1)
            ]
            self._known[key] = np.stack([np.zeros(len(COSTS), np.int64), *counted])
        return self._known[key]

    @cached_property
    def _sizes(self) -> list[list[tuple[int, ...]]]:
        """(H, W) or (L,) of each resolution after 0, 1, ... reductions."""
        found = []
        for resolution in self.space.resolutions:
            _, *sides = self.space.input_shape(resolution)
            sides, levels = [-(-side // self.space.stem.stride) for side in sides], []
            for _ in range(self.space.reductions + 1):
                levels.append(tuple(sides))
                sides = [-(-side // 2) for side in sides]
            found.append(levels)
        return found


def _facts(
    inputs: np.ndarray, operators: np.ndarray, combiners: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of cells: whether each block has two paths, (n, blocks), which inputs are read, (n, 2), and how many
    blocks no other reads, (n,)."""
    blocks = inputs.shape[1]
    different = (inputs[..., 0] != inputs[..., 1]) | (operators[..., 0] != operators[..., 1])
    read = (inputs[..., None] == np.arange(blocks + INPUTS)).any(axis=(1, 2))
    return different, read[:, :INPUTS], blocks - read[:, INPUTS:].sum(1)


def _made(make, *arguments) -> nn.Module:
    """A module whose weights do not matter, made without touching the caller's randomness."""
    with torch.random.fork_rng(devices=[]):
        return make(*arguments)
