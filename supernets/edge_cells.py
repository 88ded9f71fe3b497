"""The supernet of a space of edge cells: every operator on every edge of every cell has weights of its own.

Dong & Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020, section
2.1. An architecture takes one operator per edge, the same in all cells; its export has the very weights. The
layers are those of the networks in the public tables, one by one: convolutions are activation, convolution, batch
norm; the stem has no activation; a residual block is two such 3×3 convolutions beside an average pooling and a
1×1 convolution; batch norm and activation come before the classifier.

A node that no edge brings anything is zero, and a convolution on it still gives what its batch norm adds, as it
does there; so does a cell whose output is such a node. Edges to nodes that nobody reads are computed, exported
and counted: the same network without them is another architecture of the space.

Convolutions of edges start near the identity, as those of `supernets.cells`, ours.

Shapes: (N, C, H, W) images or (N, C, L) signals; a residual block gives ⌈H/2⌉ × ⌈W/2⌉ and twice the filters.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from search_spaces.edge_cells import EdgeCellArchitecture, EdgeCellSpace, Edges
from supernets.cells import make_path, plain
from supernets.elastic import ACTIVATIONS, Classifier, Norm
from supernets.slicing import same_padding
from supernets.spatial import AVERAGE_POOLS, CONVOLUTIONS
from supernets.supernet import resize

PATHS = {  # the names of the public tables, and of the same layers in `supernets.cells.make_path`
    "skip_connect": "identity",
    "avg_pool_3x3": "avg_pool_3x3",
    "nor_conv_1x1": "conv_1x1",
    "nor_conv_3x3": "conv_3x3",
}


class EdgeCellSupernet(nn.Module):
    """Stem, cells, residual blocks, classifier.

    Args:
        space: the space; it knows the images' shape and the number of classes.
        seed: of the initial weights.
    """

    def __init__(self, space: EdgeCellSpace, seed: int = 0):
        super().__init__()
        self.space = space
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build()

    def _build(self) -> None:
        space, channels = self.space, self.space.filters
        self.stem = make_stem(space)
        self.blocks = nn.ModuleList()
        for place in space.places:
            if place.kind == "reduction":
                block = make_residual(channels, place.filters, space.activation, space.dims)
            else:
                block = ElasticEdgeCell(space, place.filters)
            self.blocks.append(block)
            channels = place.filters
        self.head = make_head(channels, space.activation, space.dims)
        self.classifier = Classifier(channels, space.classes, space.dims)

    def forward(self, images: Tensor, architecture: EdgeCellArchitecture) -> Tensor:
        """(N, C, H, W) images, or (N, C, L) signals, to (N, classes) logits, through one architecture."""
        return self.classify(self.features(images, architecture), architecture)

    def features(self, images: Tensor, architecture: EdgeCellArchitecture) -> Tensor:
        """What the classifier pools: (N, C, H, W), or (N, C, L)."""
        x = self.stem(resize(images, self.space.input_shape(architecture.resolution)))
        for block in self.blocks:
            x = block(x, architecture.edges) if isinstance(block, ElasticEdgeCell) else block(x)
        return self.head(x)

    def classify(self, features: Tensor, architecture: EdgeCellArchitecture) -> Tensor:
        """What `features` gave to (N, classes) logits."""
        return self.classifier(features)

    def export(self, architecture: EdgeCellArchitecture) -> nn.Sequential:
        """A plain network with its own copy of the weights that this architecture uses.

        It takes images at the space's resolution and is in the same mode, training or evaluation, as the supernet.
        For use, give it batch-norm statistics of its own: `supernets.calibration.recalibrate`.

        Raises:
            ValueError: the architecture is not of this space.
        """
        self.space.check(architecture)
        parts = OrderedDict(stem=plain(self.stem))
        for number, block in enumerate(self.blocks):
            own = (architecture.edges,) if isinstance(block, ElasticEdgeCell) else ()
            parts[f"block{number}"] = block.export(*own)
        parts["head"] = plain(self.head)
        parts["classifier"] = self.classifier.export(self.classifier.weight.shape[1])
        return nn.Sequential(parts).train(self.training)


class ElasticEdgeCell(nn.Module):
    """One cell of the network, with everything that may be on its edges."""

    def __init__(self, space: EdgeCellSpace, filters: int):
        super().__init__()
        self.paths = nn.ModuleDict()
        for node, source in space.edges:
            offered = (space.found[node - 1][source],) if space.found else space.operators
            for name in offered:
                if name != "none":
                    path = make_edge(name, filters, space.activation, space.dims)
                    self.paths[_name(node, source, name)] = path

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """What the last node gives."""
        states = [x]
        for node, row in enumerate(edges, 1):
            brought = [
                self.paths[_name(node, source, name)](states[source])
                for source, name in enumerate(row)
                if name != "none"
            ]
            states.append(reduce(add, brought) if brought else torch.zeros_like(x))
        return states[-1]

    def export(self, edges: Edges) -> PlainEdgeCell:
        rows = [[source for source, name in enumerate(row) if name != "none"] for row in edges]
        made = [
            plain(self.paths[_name(node, source, edges[node - 1][source])])
            for node, row in enumerate(rows, 1)
            for source in row
        ]
        return PlainEdgeCell(rows, made)


def _name(node: int, source: int, operator: str) -> str:
    return f"{node}_{source}_{operator}"


# -- layers ------------------------------------------------------------------------------------


def make_edge(operator: str, filters: int, activation: str, dims: int) -> nn.Sequential:
    """What is on an edge, but for `none`."""
    return make_path(PATHS[operator], filters, 1, activation, dims)


def make_stem(space: EdgeCellSpace) -> nn.Sequential:
    """Convolution and batch norm."""
    stem = space.stem
    make, padding = CONVOLUTIONS[space.dims], same_padding(stem.kernel_size)
    layer = make(space.image_shape[0], stem.width, stem.kernel_size, stem.stride, padding, bias=False)
    return nn.Sequential(_started(layer), Norm(stem.width, space.dims))


def make_residual(channels: int, filters: int, activation: str, dims: int) -> Residual:
    """The block that halves the size; where a side is odd, the last window of its pooling takes what is left."""
    act, make = ACTIVATIONS[activation], CONVOLUTIONS[dims]
    first = _started(make(channels, filters, 3, 2, 1, bias=False))
    second = _started(make(filters, filters, 3, 1, 1, bias=False))
    body = nn.Sequential(act(), first, Norm(filters, dims), act(), second, Norm(filters, dims))
    pool = AVERAGE_POOLS[dims](2, 2, ceil_mode=True)
    return Residual(body, nn.Sequential(pool, _started(make(channels, filters, 1, bias=False))))


def make_head(channels: int, activation: str, dims: int) -> nn.Sequential:
    """What comes before the pooling."""
    return nn.Sequential(Norm(channels, dims), ACTIVATIONS[activation]())


def _started(layer: nn.Module) -> nn.Module:
    """The convolution with He's initial weights."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class Residual(nn.Module):
    """Two rows of layers side by side, added. Exported, its layers are plain."""

    def __init__(self, body: nn.Sequential, shortcut: nn.Sequential):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)

    def export(self) -> Residual:
        return Residual(plain(self.body), plain(self.shortcut))


class PlainEdgeCell(nn.Module):
    """A cell of plain layers. `rows` holds, for each node after the first, the nodes that its edges come from;
    `edges` what is on them, in that order."""

    def __init__(self, rows: Sequence[Sequence[int]], edges: Sequence[nn.Module]):
        super().__init__()
        self.rows = tuple(map(tuple, rows))
        self.edges = nn.ModuleList(edges)

    def forward(self, x: Tensor) -> Tensor:
        states, edges = [x], iter(self.edges)
        for row in self.rows:
            brought = [next(edges)(states[source]) for source in row]
            states.append(reduce(add, brought) if brought else x * 0.0)
        return states[-1]
