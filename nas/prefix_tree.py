"""Many subnets as one network: what the same layers in the same order begin with is there, and computed, once.

Architectures that agree in their first blocks, or in the first parts of a block, make one path until they part: a
tree whose leaves are their classifiers. It is calibrated, merged and scored by the very functions that a subnet is.
Each layer sees the very batches, in the same order, that it sees in a subnet of its own: what comes before it is
the same, and in calibration a batch norm goes by the batch at hand alone. So statistics and logits are those of the
plain path bit for bit where one computation gives the same bits twice, as it does on a CPU.

A batch goes through the tree depth first, and what was computed is kept only while something that it leads to is
waiting. How much that is follows from the architectures, and `portions` cuts so many into trees that it stays
within bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces import Architecture
from supernets.calibration import with_own_statistics
from supernets.cost import COSTS, count
from supernets.spatial import channels_last
from supernets.supernet import Layers, Supernet

KEPT = 2**28  # bytes of exported parts


@dataclass(frozen=True)
class Part:
    """A few layers of an architecture: its stem, its tail, or what expands, mixes, attends or projects in a block.

    Args:
        key: after equal parts, equal keys are the same layers of the supernet, for as long as it lives.
        make: exports the layers.
        shape: of what they take, without the images.
        waiting: numbers per image that wait until they are computed: what they take, and the block's input.
        begins: no block is begun before them.
        adds: the block's input is added to what they give.
    """

    key: Hashable
    make: Callable[[], Layers]
    shape: tuple[int, ...]
    waiting: int
    begins: bool = True
    adds: bool = False

    @property
    def layers(self) -> Hashable:
        """Equal of parts that are the same layers of the supernet and take the same size, whatever is before them."""
        return self.key, self.shape


@dataclass
class Node:
    """A part, and the numbers of the nodes that come after it, or of the architecture that ends here."""

    part: Part
    following: list[int] = field(default_factory=list)
    end: int | None = None


def path(supernet: Supernet, architecture: Architecture) -> list[Part]:
    """The parts of an architecture, in order; together they are what `supernet.export` gives.

    Raises:
        ValueError: the architecture is not of this space.
    """
    space = supernet.space
    space.check(architecture)
    image = space.input_shape(architecture.resolution)
    width, size = space.stem.width, _strided(image[1:], space.stem.stride)
    parts = [Part("stem", lambda: Layers(stem=supernet.stem.export()), image, math.prod(image))]
    rows = zip(supernet.rows(architecture), supernet.operators(architecture), strict=True)
    for (position, choice, out), operator in rows:
        block, taken = supernet.blocks[position], math.prod((width, *size))
        made = block.parts(choice, width, out, operator)
        for number, (key, (make, channels, stride)) in enumerate(made.items()):
            shared = id(operator) if key[0] == "operator" else None  # the block's own or that of another
            shape = (channels, *size)
            waiting = math.prod(shape) + (taken if number else 0)
            adds = number == len(made) - 1 and block.residual(width, out)
            parts.append(Part((position, key, shared), make, shape, waiting, number == 0, adds))
            size = _strided(size, stride)
        width = out
    return [*parts, _tail(supernet, width, size)]


def _tail(supernet: Supernet, width: int, size: tuple[int, ...]) -> Part:
    """Head, where there is one, and classifier."""

    def make() -> Layers:
        head = {} if supernet.head is None else {"head": supernet.head.export(width)}
        return Layers(**head, classifier=supernet.classifier.export(supernet.space.head_width or width))

    return Part("tail", make, (width, *size), math.prod((width, *size)))


def _strided(size: tuple[int, ...], stride: int) -> tuple[int, ...]:
    return tuple(-(-side // stride) for side in size)


def grouped(paths: Sequence[Sequence[Part]]) -> list[Node]:
    """The tree of paths of one resolution, its root first; every node comes before those that follow it."""
    nodes: list[Node] = []
    known: dict[tuple[int | None, Hashable], int] = {}
    for number, parts in enumerate(paths):
        at = None
        for part in parts:
            if (at, part.key) not in known:
                known[at, part.key] = len(nodes)
                if at is not None:
                    nodes[at].following.append(len(nodes))
                nodes.append(Node(part))
            at = known[at, part.key]
        nodes[at].end = number
    return nodes


def depth_first(nodes: Sequence[Node]) -> list[int]:
    """The numbers of the architectures, those that begin alike next to each other."""
    order, waiting = [], [0]
    while waiting:
        node = nodes[waiting.pop()]
        order += [] if node.end is None else [node.end]
        waiting += reversed(node.following)
    return order


def most_waiting(nodes: Sequence[Node]) -> int:
    """Numbers per image that are kept at once for what is not yet computed, at most."""
    most = [0] * len(nodes)
    for number in reversed(range(len(nodes))):
        following = nodes[number].following
        kept = nodes[following[0]].part.waiting if len(following) > 1 else 0
        most[number] = kept + max((most[one] for one in following), default=0)
    return most[0]


def portions(paths: Sequence[Sequence[Part]], size: int, values: int) -> list[list[int]]:
    """The numbers of the paths, which are of one resolution, in portions: those that begin alike together.

    Args:
        size: paths in a portion, at most.
        values: numbers per image that may wait; one path alone keeps none.
    """

    def cut(numbers: list[int]) -> list[list[int]]:
        tree = grouped([paths[number] for number in numbers])
        if len(numbers) == 1 or (len(numbers) <= size and most_waiting(tree) <= values):
            return [sorted(numbers)]
        middle = len(numbers) // 2
        return cut(numbers[:middle]) + cut(numbers[middle:])

    return cut(depth_first(grouped(paths))) if paths else []


class Exported:
    """Parts of a supernet, which does not change, as they are exported: of many trees each is made once.

    Args:
        device: where they are to be.
        most: bytes of weights that are kept; what was used longest ago goes first.
    """

    def __init__(self, device: torch.device | str = "cpu", most: int = KEPT):
        self.device, self.most, self.held = device, most, 0
        self._kept: dict[Hashable, nn.Module] = {}  # last used last

    def __call__(self, part: Part) -> nn.Module:
        """Its layers in evaluation mode, their batch norms for the caller alone, their weights for all who ask."""
        layers = self._kept.pop(part.layers, None)
        if layers is None:
            layers = channels_last(nn.Sequential(part.make()).eval().to(self.device))
            self.held += stored(layers)
        self._kept[part.layers] = layers
        while self.held > self.most:
            self.held -= stored(self._kept.pop(next(iter(self._kept))))
        return with_own_statistics(layers)


def stored(layers: nn.Module) -> int:
    """Bytes of weights and statistics."""
    return sum(one.nbytes for one in (*layers.parameters(), *layers.buffers()))


class PrefixTree(nn.Module):
    """The subnets of some architectures of one resolution, with the layers that they begin with in common.

    In evaluation mode, laid out, and as it is exported: for use, give it batch-norm statistics, as a subnet. Those are
    all that is its own; weights belong to all trees of the parts.

    Args:
        exported: where the parts come from, by default made anew.
    """

    def __init__(self, paths: Sequence[Sequence[Part]], exported: Exported | None = None):
        super().__init__()
        nodes, exported = grouped(paths), exported or Exported()
        self.layers = nn.ModuleList(exported(node.part) for node in nodes)
        self.following = [node.following for node in nodes]
        self.ends = [node.end for node in nodes]
        self.begins, self.adds = ([getattr(node.part, name) for node in nodes] for name in ("begins", "adds"))
        self.keys = [node.part.layers for node in nodes]
        self.paths = len(paths)
        self.training = False

    def forward(self, images: Tensor, numbers: Sequence[int] | None = None) -> Tensor:
        """(N, C, H, W) images, or (N, C, L) signals, to the logits of all, (paths, N, classes), or of some by their
        numbers, in that order."""
        return self.through(images, lambda layers, x: layers(x), numbers)

    def through(
        self,
        images: Tensor,
        layers_of: Callable[[nn.Module, Tensor], Tensor],
        numbers: Sequence[int] | None = None,
    ) -> Tensor:
        """As `forward`, the layers of a node being gone through by a function of them and of what they take."""
        numbers = range(self.paths) if numbers is None else numbers
        needed = self._leading_to(set(numbers))
        logits: list[Tensor | None] = [None] * self.paths
        waiting: list[tuple[int, Tensor, Tensor | None]] = [(0, images, None)]
        while waiting:
            number, x, begun = waiting.pop()
            begun = x if self.begins[number] else begun
            x = layers_of(self.layers[number], x)
            if self.adds[number]:
                x += begun  # what a projection gives is seen by nobody else
            if self.ends[number] is not None:
                logits[self.ends[number]] = x
            for one in reversed(self.following[number]):
                if needed[one]:
                    waiting.append((one, x, None if self.begins[one] else begun))
        return torch.stack([logits[number] for number in numbers])

    def _leading_to(self, numbers: Collection[int]) -> list[bool]:
        """Of each node whether one of these subnets goes through it."""
        needed = [end in numbers for end in self.ends]
        for number in reversed(range(len(needed))):
            needed[number] |= any(needed[one] for one in self.following[number])
        return needed

    def costs(self, known: dict[Hashable, np.ndarray]) -> np.ndarray:
        """What each subnet costs, (paths, 3) in the order of COSTS, if no layer of it stands in two places.

        Args:
            known: what parts of this supernet cost; those counted now are added.
        """
        found = np.zeros((self.paths, len(COSTS)), np.int64)
        before = {0: np.zeros(len(COSTS), np.int64)}
        for number, (layers, key) in enumerate(zip(self.layers, self.keys, strict=True)):
            if key not in known:
                known[key] = count(layers, key[1])
            cost = before[number] + known[key]
            before.update(dict.fromkeys(self.following[number], cost))
            if self.ends[number] is not None:
                found[self.ends[number]] = cost
        return found
