"""What the architectures of a space of edge cells cost: counted on what `export` returns, tabled per operator.

All edges of a cell work on the same shape, and all cells have the same operators on them. So an architecture costs
what is the same for all, and for each edge what its operator amounts to in all cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from search_spaces.edge_cells import OPERATORS, EdgeCellArchitecture, EdgeCellSpace
from supernets.cells import plain
from supernets.cost import COSTS, count
from supernets.edge_cells import make_edge, make_head, make_residual, make_stem
from supernets.elastic import Classifier


class EdgeCellCostTable:
    """The costs of all architectures of a space; the same questions as to a `supernets.cost.CostTable`."""

    def __init__(self, space: EdgeCellSpace):
        self.space = space

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Costs of encoded architectures: (n, decisions) to (n, 3) in the order of COSTS."""
        vectors = np.asarray(vectors).reshape(len(vectors), len(self.space.decisions))
        return self._fixed + self._operators[self.space.columns(vectors)].sum(axis=1)

    def of(self, architectures: Sequence[EdgeCellArchitecture]) -> np.ndarray:
        """Costs of architectures, (n, 3) in the order of COSTS."""
        return self(np.array([self.space.encode(one) for one in architectures], dtype=np.int64))

    @cached_property
    def smallest(self) -> EdgeCellArchitecture:
        """The architecture of fewest MACs, which has `none` on its edges only if nothing else is as cheap."""
        return self._extreme(min)

    @cached_property
    def largest(self) -> EdgeCellArchitecture:
        """The architecture of most MACs."""
        return self._extreme(max)

    def _extreme(self, pick: Callable) -> EdgeCellArchitecture:
        if self.space.found:
            return self.space.decode(())
        macs = dict(zip(self.space.operators, self._operators[:, 0].tolist(), strict=True))
        names = sorted(macs, key=lambda name: (name == "none", OPERATORS.index(name)))
        return self.space.of([pick(names, key=macs.get)] * len(self.space.edges))

    # -- tables --------------------------------------------------------------------------------

    @cached_property
    def _operators(self) -> np.ndarray:
        """(operators, 3) of an edge in all cells."""
        space = self.space
        table = np.zeros((len(space.operators), len(COSTS)), np.int64)
        for filters, size, cells in self._levels:
            for number, name in enumerate(space.operators):
                if name != "none":
                    path = plain(_made(make_edge, name, filters, space.activation, space.dims))
                    table[number] += cells * count(path, (filters, *size))
        return table

    @cached_property
    def _fixed(self) -> np.ndarray:
        """(3,) of stem, residual blocks and classifier."""
        return np.sum([count(module, shape) for module, shape in _made(self._around_cells)], axis=0)

    def _around_cells(self) -> list[tuple[nn.Module, tuple[int, ...]]]:
        """What an export has beside its cells, each with the shape of what it takes."""
        space, channels = self.space, self._levels[-1][0]
        last = (channels, *self._levels[-1][1])
        parts = [(plain(make_stem(space)), space.input_shape(space.resolution))]
        for (before, size, _), (filters, *_) in pairwise(self._levels):
            block = make_residual(before, filters, space.activation, space.dims)
            parts.append((block.export(), (before, *size)))
        parts.append((plain(make_head(channels, space.activation, space.dims)), last))
        return [*parts, (Classifier(channels, space.classes, space.dims).export(channels), last)]

    @cached_property
    def _levels(self) -> list[tuple[int, tuple[int, ...], int]]:
        """(filters, (H, W) or (L,), cells) after 0, 1, ... residual blocks."""
        space = self.space
        _, *sides = space.input_shape(space.resolution)
        sides, levels = [-(-side // space.stem.stride) for side in sides], []
        for level in range(space.reductions + 1):
            levels.append((space.filters * 2**level, tuple(sides), space.repeats))
            sides = [-(-side // 2) for side in sides]
        return levels


def _made(make: Callable, *arguments: Any) -> Any:
    """Modules whose weights do not matter, made without touching the caller's randomness."""
    with torch.random.fork_rng(devices=[]):
        return make(*arguments)
