"""What an architecture costs: MACs, parameters, bytes. Counted on what `export` returns, merged
as it is deployed, never declared. Only what weights decide is not known from an architecture: where a kernel
learns its size (`flex`, `dilated_learned`), a table holds the most that it may become, and what is
measured of a trained subnet may be less.

The count of every block in every width is tabled, so that the cost of ten thousand architectures is one
numpy expression; a test holds table = count. A kernel that blocks share is counted, and tabled, with each
block; what the repeated ones amount to is then taken off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from search_spaces import (
    Architecture,
    CellSpace,
    EdgeCellSpace,
    NetworkSpace,
    SearchSpace,
    Stage,
    StageChoice,
)
from supernets.merging import merged
from supernets.supernet import ElasticBlock, Supernet, hidden_channels

COSTS = ("macs", "parameters", "bytes")


def count(network: nn.Module, input_shape: tuple[int, ...]) -> np.ndarray:
    """MACs of one image of (C, H, W) or signal of (C, L), parameters, and bytes of a network, as (3,) integers.

    MACs are multiply-accumulates of convolutions and matrix products; batch norm is folded when deployed
    and does not count. Bytes are those of all parameters and statistics as they are stored.
    """
    sizes = sum(parameter.numel() for parameter in network.parameters())
    tensors = [*network.parameters(), *(one for one in network.buffers() if one.is_floating_point())]
    stored = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return np.array([macs(network, input_shape), sizes, stored], dtype=np.int64)


def macs(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one image of (C, H, W)."""
    device = next((tensor.device for tensor in network.parameters()), torch.get_default_device())
    training = network.training
    with _FlopCounter() as counter, torch.no_grad():
        network.eval()(torch.zeros(1, *input_shape, device=device))
    network.train(training)
    return counter.flops // 2


class _FlopCounter(TorchDispatchMode):
    """Adds up torch's own formulas for convolutions and matrix products.

    torch.utils.flop_counter.FlopCounterMode gives the same number (a test says so) but takes apart every
    other operation as well, which makes a table six times slower.
    """

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


@dataclass(frozen=True)
class Costs:
    """Every cost of an architecture that samplers can go by, each by its name.

    `table` is the space's cost table; `predicted` has the latency of encoded architectures, (n, decisions) to (n,)
    milliseconds, where somebody measured enough to predict it: `latency_ms`, of several devices `latency_ms@tablet`.
    """

    table: CostTable
    predicted: Mapping[str, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)

    def of(self, name: str) -> Callable[[np.ndarray], np.ndarray]:
        """A cost as a function of encoded architectures, (n, decisions) to (n,) floats.

        Raises:
            ValueError: a latency is asked for that nobody can predict.
        """
        if name in self.predicted:
            return self.predicted[name]
        if name not in COSTS:
            raise ValueError(
                f"there is no prediction of {name} here; allowed: {', '.join([*COSTS, *self.predicted])}"
            )
        column = COSTS.index(name)
        return lambda vectors: self.table(vectors)[:, column].astype(float)


def cost_table(space: NetworkSpace):
    """The costs of all architectures of a space, of whichever topology."""
    from supernets.cell_cost import CellCostTable
    from supernets.edge_cell_cost import EdgeCellCostTable

    kinds = {SearchSpace: CostTable, CellSpace: CellCostTable, EdgeCellSpace: EdgeCellCostTable}
    return kinds[type(space)](space)


class CostTable:
    """The costs of all architectures of a space, from a count of each block in each of its widths.

    An entry is counted when it is first needed, so a large space costs only what is asked of it.
    """

    def __init__(self, space: SearchSpace):
        self.space = space
        self._supernet = Supernet(space)
        self._tables: dict[tuple, np.ndarray] = {}
        self._kernels: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Costs of encoded architectures: (n, decisions) to (n, 3) in the order of COSTS."""
        vectors = np.asarray(vectors).reshape(len(vectors), len(self.space.decisions))
        choices = self.space.choice_indices(vectors)
        resolution, widths = self.space.level_indices(vectors)
        total = self._stem[resolution] + self._tail[resolution, widths[:, -1]]
        for position, (s, b, _, _) in enumerate(self.space.blocks):
            before = widths[:, s - 1] if s and b == 0 else widths[:, s] if b else np.zeros_like(resolution)
            there = choices[:, position] >= 0
            index = (before[there], widths[there, s], resolution[there], choices[there, position])
            total[there] += self._table(position)[index]
        return total - self._repeated(vectors, choices, widths)

    def of(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Costs of architectures, (n, 3) in the order of COSTS."""
        return self(np.array([self.space.encode(one) for one in architectures], dtype=np.int64))

    @cached_property
    def smallest(self) -> Architecture:
        """The architecture of least resolution, widths and depths, and of the choices of fewest MACs there."""
        return self._extreme(0)

    @cached_property
    def largest(self) -> Architecture:
        """The architecture of highest resolution, widths and depths, and of the choices of most MACs there."""
        return self._extreme(-1)

    def _extreme(self, end: int) -> Architecture:
        space, stages = self.space, []
        position = 0
        for s, stage in enumerate(space.stages):
            row = []
            for b in range((min, max)[end](stage.depths)):
                before = 0 if s == 0 and b == 0 else end
                macs_of_choices = self._table(position + b)[before, end, end, :, 0]
                best = (np.argmin, np.argmax)[end](macs_of_choices)
                row.append(stage.blocks[b].choices[best])
            share = stage.can_share(row) and stage.share_kernels[end]
            stages.append(StageChoice(stage.widths[end], tuple(row), share))
            position += len(stage.blocks)
        return Architecture(space.resolutions[end], tuple(stages))

    # -- tables --------------------------------------------------------------------------------

    @cached_property
    def _stem(self) -> np.ndarray:
        """(resolutions, 3)"""
        stem = self._supernet.stem.export()
        return np.stack([count(stem, self.space.input_shape(r)) for r in self.space.resolutions])

    @cached_property
    def _tail(self) -> np.ndarray:
        """Head and classifier: (resolutions, widths of the last stage, 3)"""
        return np.array(
            [
                [self._count_tail(resolution, width) for width in self.space.stages[-1].widths]
                for resolution in self.space.resolutions
            ]
        )

    def _count_tail(self, resolution: int, width: int) -> np.ndarray:
        supernet, shape = self._supernet, self._shape(resolution, self.space.stages)
        cost = np.zeros(3, np.int64)
        if supernet.head is not None:
            cost += count(supernet.head.export(width), (width, *shape))
            width = self.space.head_width
        return cost + count(supernet.classifier.export(width), (width, *shape))

    def _table(self, position: int) -> np.ndarray:
        """(widths before, widths, resolutions, choices, 3) of one block.

        Blocks of a stage that are alike share one table; within a stage the width before is the width.
        """
        s, b = self._places[position]
        stage = self.space.stages[s]
        key = (s, b == 0, stage.blocks[b])
        if key not in self._tables:
            self._tables[key] = self._count_block(position, s, b, stage)
        return self._tables[key]

    def _count_block(self, position: int, s: int, b: int, stage: Stage) -> np.ndarray:
        block: ElasticBlock = self._supernet.blocks[position]
        if b:
            before = stage.widths
        else:
            before = self.space.stages[s - 1].widths if s else (self.space.stem.width,)
        choices = stage.blocks[b].choices
        known: dict[tuple, np.ndarray] = {}
        table = np.zeros(
            (len(before), len(stage.widths), len(self.space.resolutions), len(choices), 3), np.int64
        )
        sizes = [self._shape(r, self.space.stages[: s + bool(b)]) for r in self.space.resolutions]
        for i, in_channels in enumerate(before):
            for o, width in enumerate(stage.widths):
                if b and i != o:
                    continue  # inside a stage the width does not change
                for c, choice in enumerate(choices):
                    operator = self._supernet.operator(position, choice.operator, share=False)
                    for r, size in enumerate(sizes):
                        for key, (layers, channels, stride) in block.parts(
                            choice, in_channels, width, operator
                        ).items():
                            if (key, size) not in known:  # few parts make up many choices
                                part = merged(nn.Sequential(layers()))
                                known[key, size] = count(part, (channels, *size))
                            table[i, o, r, c] += known[key, size]
                            size = tuple(-(-side // stride) for side in size)
        return table

    def _repeated(self, vectors: np.ndarray, choices: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """(n, 3) of the kernels that an earlier block of the stage holds already."""
        repeated, sharing = np.zeros((len(vectors), len(COSTS)), np.int64), self.space.sharing(vectors)
        for position, (s, b) in enumerate(self._places):
            if b < 2 or not any(self.space.stages[s].share_kernels):
                continue
            kernels, costs = self._shared_kernels(s)
            row = choices[:, position - b + 1 : position + 1]  # of this block and those it may share with
            held = np.where(row >= 0, kernels[widths[:, [s]], row], -1)
            again = (held[:, -1] >= 0) & (held[:, :-1] == held[:, [-1]]).any(axis=1) & sharing[:, s]
            repeated[again] += costs[widths[again, s], row[again, -1]]
        return repeated

    def _shared_kernels(self, s: int) -> tuple[np.ndarray, np.ndarray]:
        """A number for each kernel that blocks of a stage may share, -1 where there is none, (widths, choices),
        and its cost without MACs, (widths, choices, 3)."""
        if s not in self._kernels:
            stage, position = self.space.stages[s], self._places.index((s, 1))
            shape = self._shape(self.space.resolutions[0], self.space.stages[: s + 1])
            choices, known = stage.blocks[1].choices, {}
            kernels = np.full((len(stage.widths), len(choices)), -1)
            costs = np.zeros((*kernels.shape, len(COSTS)), np.int64)
            for w, width in enumerate(stage.widths):
                for c, choice in enumerate(choices):
                    if choice.operator not in stage.shareable:
                        continue
                    hidden = hidden_channels(width, choice.expansion)
                    key = choice.operator, choice.settings, hidden
                    if key not in known:
                        elastic = self._supernet.operator(position, choice.operator, share=False)
                        plain = merged(nn.Sequential(elastic.export(hidden, **dict(choice.settings))))
                        known[key] = len(known), count(plain, (hidden, *shape)) * (0, 1, 1)
                    kernels[w, c], costs[w, c] = known[key]
            self._kernels[s] = kernels, costs
        return self._kernels[s]

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        return [(s, b) for s, b, _, _ in self.space.blocks]

    def _shape(self, resolution: int, stages: Sequence[Stage]) -> tuple[int, ...]:
        """(H, W) or (L,) after the stem and the given stages: each stride divides and rounds up."""
        _, *sides = self.space.input_shape(resolution)
        for stride in (self.space.stem.stride, *(stage.stride for stage in stages)):
            sides = [-(-side // stride) for side in sides]
        return tuple(sides)
