"""The supernet of a cell space: every pair of cells, stacked, sharing weights.

Zoph, Vasudevan, Shlens, Le, "Learning Transferable Architectures for Scalable Image Recognition", CVPR 2018,
section 3 and appendix A.4 (ScheduledDropPath). Every place of a cell has weights of its own, one set for each
block, input and operator, whichever of the block's two paths uses it; two equal paths are computed once. So
nothing is sliced but what reads a cell's output: the concatenation of the blocks that no other reads, of
which each has its own part of the reader's 1×1 convolution. Operators keep the number of filters; after a
concatenation a 1×1 convolution brings it back. Exact: the export has the very weights.

Every convolution starts near the identity, ours: so whatever operators a block happens to get, its channels
mean what they meant before. From independent starts the operators find no common basis, and the supernet
hardly learns (docs/cells.md has figures).

Shapes: (N, C, H, W) images or (N, C, L) signals; a reduction gives ⌈H/2⌉ × ⌈W/2⌉ and twice the filters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.cells import INPUTS, Cell, CellArchitecture, CellBlock, CellSpace, Path, reads, unused
from supernets.drop_path import leave_out
from supernets.elastic import ACTIVATIONS, NOISE, Norm
from supernets.slicing import copied, same_padding
from supernets.spatial import AVERAGE_POOLS, CONVOLUTIONS, GLOBAL_POOLS, MAX_POOLS, conv, convolution, mean
from supernets.supernet import Stem, resize

Drop = Callable[[Tensor], Tensor]


class CellSupernet(nn.Module):
    """Stem, cells and classifier.

    Args:
        space: the cell space; it knows the images' shape and the number of classes.
        seed: of the initial weights.
    """

    def __init__(self, space: CellSpace, seed: int = 0):
        super().__init__()
        self.space = space
        self.drop = DropPath(space.drop_path)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build()

    def _build(self) -> None:
        space = self.space
        self.stem = Stem(space)
        self.cells = nn.ModuleList()
        before = last = Source(space.stem.width, 1, 0)
        for place in space.places:
            self.cells.append(ElasticCell(space, place.kind, place.filters, (before, last)))
            level = place.level + (place.kind == "reduction")
            before, last = last, Source(place.filters, space.blocks, level)
        self.classifier = PartsClassifier(last, space.classes, space.activation, space.dims)

    def forward(self, images: Tensor, architecture: CellArchitecture) -> Tensor:
        """(N, C, H, W) images, or (N, C, L) signals, to (N, classes) logits, through one architecture."""
        return self.classify(self.features(images, architecture), architecture)

    def features(self, images: Tensor, architecture: CellArchitecture) -> Tensor:
        """What the classifier pools: (N, C, H, W), or (N, C, L)."""
        space, place = self.space, -1
        outputs = {-1: self.stem(resize(images, space.input_shape(architecture.resolution)))}
        for place, cell, inputs in space.rows(architecture):
            given = {
                which: (outputs[source], space.parts(architecture, source))
                for which, source in inputs.items()
            }
            outputs[place] = self.cells[place](given, cell, self.drop)
        return self.classifier.activation(outputs[place])

    def classify(self, features: Tensor, architecture: CellArchitecture) -> Tensor:
        """What `features` gave to (N, classes) logits."""
        return self.classifier(features, self.space.parts(architecture, len(self.space.places) - 1))

    def export(self, architecture: CellArchitecture) -> nn.Module:
        """A plain network with its own copy of the weights that this architecture uses.

        It takes images at the architecture's resolution, `space.input_shape(architecture.resolution)`,
        and is in the same mode, training or evaluation, as the supernet. For use, give it batch-norm
        statistics of its own: `supernets.calibration.recalibrate`.

        Raises:
            ValueError: the architecture is not of this space.
        """
        space, place = self.space, -1
        space.check(architecture)
        numbers, cells, inputs_of = {-1: 0}, [], []
        for place, cell, inputs in space.rows(architecture):
            parts = {which: space.parts(architecture, source) for which, source in inputs.items()}
            cells.append(self.cells[place].export(cell, parts))
            inputs_of.append(tuple(numbers[source] for source in inputs.values()))
            numbers[place] = len(cells)
        classifier = self.classifier.export(space.parts(architecture, place))
        return CellNetwork(self.stem.export(), cells, inputs_of, classifier).train(self.training)


@dataclass(frozen=True)
class Source:
    """What a cell reads: channels of each part, the largest number of parts, reductions before it."""

    channels: int
    parts: int
    level: int


class ElasticCell(nn.Module):
    """One place of a cell, with everything that the cell may be there."""

    def __init__(self, space: CellSpace, kind: str, filters: int, sources: tuple[Source, Source]):
        super().__init__()
        level, activation, dims = sources[1].level, space.activation, space.dims
        read = reads(space.found[kind == "reduction"]) if space.found else (0, 1)
        self.aligned = nn.ModuleDict(
            {
                str(which): PartsConvolution(source, filters, 2 ** (level - source.level), activation, dims)
                for which, source in enumerate(sources)
                if which in read
            }
        )
        self.paths = nn.ModuleDict()
        self.joins = nn.ModuleDict()
        for number, paths, combiners in _offered(space, kind):
            for path in paths:
                stride = path_stride(kind, path.input)
                self.paths[_name(number, path)] = make_path(path.operator, filters, stride, activation, dims)
            if "concat" in combiners:
                self.joins[str(number)] = make_join(filters, activation, dims)

    def forward(self, inputs: dict[int, tuple[Tensor, tuple[int, ...]]], cell: Cell, drop: Drop) -> Tensor:
        """What the cell gives: its unused blocks, concatenated.

        Args:
            inputs: of input 0 and 1 as far as they are read, the tensor and the parts that it is made of.
        """
        states = {which: self.aligned[str(which)](x, parts) for which, (x, parts) in inputs.items()}
        for number, block in enumerate(cell):
            made = {path: self.paths[_name(number, path)](states[path.input]) for path in block.paths}
            first, second = (drop(made[path]) for path in block.paths)
            if block.combiner == "add":
                states[number + INPUTS] = first + second
            else:
                states[number + INPUTS] = self.joins[str(number)](torch.cat([first, second], 1))
        return torch.cat([states[number + INPUTS] for number in unused(cell)], 1)

    def export(self, cell: Cell, parts: dict[int, tuple[int, ...]]) -> nn.Module:
        aligned = {
            which: self.aligned[str(which)].export(which_parts) for which, which_parts in parts.items()
        }
        blocks = [self._exported(number, block) for number, block in enumerate(cell)]
        return PlainCell(aligned, blocks, unused(cell))

    def _exported(self, number: int, block: CellBlock) -> PlainBlock:
        paths = list(dict.fromkeys(block.paths))
        join = self.joins[str(number)] if block.combiner == "concat" else None
        return PlainBlock(
            tuple(path.input for path in paths),
            [plain(self.paths[_name(number, path)]) for path in paths],
            join and plain(join),
        )


def _offered(space: CellSpace, kind: str) -> Iterator[tuple[int, Iterable[Path], Sequence[str]]]:
    """(number, paths, combiners) of each block of a kind of cell: everything that it may be."""
    if space.found:
        for number, block in enumerate(space.found[kind == "reduction"]):
            yield number, dict.fromkeys(block.paths), (block.combiner,)
        return
    for number in range(space.blocks):
        paths = [Path(which, name) for which in range(number + INPUTS) for name in space.operators]
        yield number, paths, space.combiners


def _name(number: int, path: Path) -> str:
    return f"{number}_{path.input}_{path.operator}"


def path_stride(kind: str, input: int) -> int:
    """A reduction cell halves what comes into it; its blocks work on what is halved already."""
    return 2 if kind == "reduction" and input < INPUTS else 1


# -- layers ------------------------------------------------------------------------------------


def make_path(operator: str, filters: int, stride: int, activation: str, dims: int) -> nn.Sequential:
    """An operator of the paper: activation, convolution, batch norm; separable ones twice, without either
    between depthwise and pointwise. Poolings have neither; an identity that halves is a factorised reduction."""
    act, make = ACTIVATIONS[activation], CONVOLUTIONS[dims]

    def dense(kernel_size: int | tuple[int, ...], stride: int | tuple[int, ...] = 1, **options) -> nn.Module:
        return identity_convolution(make(filters, filters, kernel_size, stride, bias=False, **options))

    def row(length: int) -> list[nn.Module]:
        side = length // 2
        across = dense((1, length), (1, stride), padding=(0, side))
        return [act(), across, dense((length, 1), (stride, 1), padding=(side, 0)), Norm(filters, dims)]

    def separable(size: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for step in (stride, 1):
            depthwise = dense(size, step, padding=same_padding(size), groups=filters)
            layers += [act(), depthwise, dense(1), Norm(filters, dims)]
        return layers

    def square(size: int, dilation: int = 1) -> list[nn.Module]:
        padding = same_padding(size, dilation)
        return [act(), dense(size, stride, padding=padding, dilation=dilation), Norm(filters, dims)]

    def halved() -> list[nn.Module]:
        if stride == 1:
            return [nn.Identity()]
        even, odd = (make(filters, out, 1, 2, bias=False) for out in halves(filters))
        for layer, first in ((even, 0), (odd, even.out_channels)):
            identity_convolution(layer, filters, first)
        return [act(), FactorizedReduction(even, odd), Norm(filters, dims)]

    layers = {
        "identity": halved,
        "avg_pool_3x3": lambda: [AVERAGE_POOLS[dims](3, stride, 1, count_include_pad=False)],
        "max_pool_3x3": lambda: [MAX_POOLS[dims](3, stride, 1)],
        "max_pool_5x5": lambda: [MAX_POOLS[dims](5, stride, 2)],
        "max_pool_7x7": lambda: [MAX_POOLS[dims](7, stride, 3)],
        "conv_1x1": lambda: square(1),
        "conv_3x3": lambda: square(3),
        "dilated_3x3": lambda: square(3, dilation=2),
        "conv_1x3_3x1": lambda: row(3),
        "conv_1x7_7x1": lambda: row(7),
        "separable_3x3": lambda: separable(3),
        "separable_5x5": lambda: separable(5),
        "separable_7x7": lambda: separable(7),
    }
    return nn.Sequential(*layers[operator]())


def make_join(filters: int, activation: str, dims: int) -> nn.Sequential:
    """What brings two concatenated results back to the number of filters."""
    pointwise = identity_convolution(CONVOLUTIONS[dims](2 * filters, filters, 1, bias=False))
    return nn.Sequential(ACTIVATIONS[activation](), pointwise, Norm(filters, dims))


def plain(layers: nn.Sequential) -> nn.Sequential:
    """The layers as an export has them, with copies of the weights."""
    return nn.Sequential(
        *(
            layer.export(layer.num_features) if isinstance(layer, Norm) else deepcopy(layer)
            for layer in layers
        )
    )


def halves(filters: int) -> tuple[int, int]:
    return filters - filters // 2, filters // 2


def shifted(x: Tensor, dims: int) -> Tensor:
    """One pixel up and to the left; what comes in is 0."""
    return F.pad(x, (-1, 1) * dims)


def identity_convolution(layer: nn.Module, filters: int | None = None, first: int = 0) -> nn.Module:
    """The convolution with initial weights: channel i goes to channel i, with some noise.

    Args:
        filters: of the whole output, of which the layer gives those from `first` on; by default all.
    """
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    outs, ins = layer.weight.shape[:2]
    period = min(filters or outs, ins)  # where widths differ, channels go round
    same = (torch.arange(first, first + outs)[:, None] - torch.arange(ins)) % period == 0
    middle = tuple(size // 2 for size in layer.weight.shape[2:])
    with torch.no_grad():
        layer.weight.mul_(NOISE)
        layer.weight[(..., *middle)] += same
    return layer


class FactorizedReduction(nn.Module):
    """Half the size without losing pixels: two 1×1 convolutions of stride 2, one pixel apart, side by side."""

    def __init__(self, even: nn.Module, odd: nn.Module):
        super().__init__()
        self.even, self.odd, self.dims = even, odd, even.weight.ndim - 2

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.even(x), self.odd(shifted(x, self.dims))], 1)


class PartsConvolution(nn.Module):
    """Activation, 1×1 convolution, batch norm on the parts of a source that are there; with stride 2 a
    factorised reduction. A weight per part: a part that is not there gets no gradient."""

    def __init__(self, source: Source, filters: int, stride: int, activation: str, dims: int):
        super().__init__()
        self.stride, self.dims = stride, dims
        make, self.weights, first = CONVOLUTIONS[dims], nn.ModuleList(), 0
        for outs in (filters,) if stride == 1 else halves(filters):
            layers = (make(source.channels, outs, 1, bias=False) for _ in range(source.parts))
            parts = [identity_convolution(layer, filters, first).weight for layer in layers]
            self.weights.append(nn.ParameterList(parts))
            first += outs
        self.activation = ACTIVATIONS[activation]()
        self.norm = Norm(filters, dims)

    def kernels(self, parts: Sequence[int]) -> list[Tensor]:
        return [torch.cat([weights[part] for part in parts], 1) for weights in self.weights]

    def forward(self, x: Tensor, parts: Sequence[int]) -> Tensor:
        x, kernels = self.activation(x), self.kernels(parts)
        made = [conv(x, kernels[0], self.stride)]
        made += [conv(shifted(x, self.dims), kernel, self.stride) for kernel in kernels[1:]]
        return self.norm(torch.cat(made, 1))

    def export(self, parts: Sequence[int]) -> nn.Module:
        layers = [convolution(kernel, self.stride) for kernel in self.kernels(parts)]
        reader = FactorizedReduction(*layers) if len(layers) == 2 else layers[0]
        return nn.Sequential(type(self.activation)(), reader, self.norm.export(self.norm.num_features))


class PartsClassifier(nn.Module):
    """Global average pooling and a linear layer on the parts that are there; exported with the activation
    before it, which `CellSupernet.features` has applied."""

    def __init__(self, source: Source, classes: int, activation: str, dims: int):
        super().__init__()
        self.dims, self.activation = dims, ACTIVATIONS[activation]()
        self.weights = nn.ParameterList(
            torch.empty(classes, source.channels).normal_(std=0.01) for _ in range(source.parts)
        )
        self.bias = nn.Parameter(torch.zeros(classes))

    def weight(self, parts: Sequence[int]) -> Tensor:
        return torch.cat([self.weights[part] for part in parts], 1)

    def forward(self, x: Tensor, parts: Sequence[int]) -> Tensor:
        return F.linear(mean(x), self.weight(parts), self.bias)

    def export(self, parts: Sequence[int]) -> nn.Module:
        weight = self.weight(parts)
        made = nn.Linear(weight.shape[1], len(self.bias), device=weight.device, dtype=weight.dtype)
        linear = copied(made, weight=weight, bias=self.bias)
        return nn.Sequential(type(self.activation)(), GLOBAL_POOLS[self.dims](1), nn.Flatten(), linear)


class DropPath(nn.Module):
    """ScheduledDropPath: a path is left out of an image with a probability that rises linearly over the
    training, p·t/T in step t of T; what is kept is divided by the chance of keeping it.

    It does nothing but in the steps that `schedule` announces.
    """

    def __init__(self, last: float):
        super().__init__()
        self.last = last
        self.probability = 0.0
        self.generator: torch.Generator | None = None

    def schedule(self, progress: float, seed: int) -> None:
        """Before a step of the training, how much of it is done; after the step, 0."""
        self.probability = progress * self.last
        self.generator = torch.Generator().manual_seed(seed) if self.probability else None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return x
        return leave_out(x, self.probability, self.generator)


# -- what is exported --------------------------------------------------------------------------


class CellNetwork(nn.Module):
    """A plain network of cells. `inputs_of` holds, for each, the numbers of what it reads: 0 for the stem,
    1 for the first cell."""

    def __init__(
        self,
        stem: nn.Module,
        cells: Sequence[nn.Module],
        inputs_of: Sequence[tuple[int, ...]],
        classifier: nn.Module,
    ):
        super().__init__()
        self.stem, self.cells, self.classifier = stem, nn.ModuleList(cells), classifier
        self.inputs_of = tuple(inputs_of)

    def forward(self, images: Tensor) -> Tensor:
        outputs = [self.stem(images)]
        for cell, inputs in zip(self.cells, self.inputs_of, strict=True):
            outputs.append(cell(*(outputs[number] for number in inputs)))
        return self.classifier(outputs[-1])


class PlainCell(nn.Module):
    """A cell of plain layers on the inputs that it reads."""

    def __init__(self, aligned: dict[int, nn.Module], blocks: Sequence[PlainBlock], output: tuple[int, ...]):
        super().__init__()
        self.inputs, self.aligned = tuple(aligned), nn.ModuleList(aligned.values())
        self.blocks, self.output = nn.ModuleList(blocks), output

    def forward(self, *inputs: Tensor) -> Tensor:
        states = {which: align(x) for which, align, x in zip(self.inputs, self.aligned, inputs, strict=True)}
        for number, block in enumerate(self.blocks):
            states[number + INPUTS] = block(*(states[which] for which in block.inputs))
        made = [states[number + INPUTS] for number in self.output]
        return made[0] if len(made) == 1 else torch.cat(made, 1)


class PlainBlock(nn.Module):
    """One path or two, added, or concatenated and joined; one path counts twice."""

    def __init__(self, inputs: tuple[int, ...], paths: Sequence[nn.Module], join: nn.Module | None):
        super().__init__()
        self.inputs, self.paths, self.join = inputs, nn.ModuleList(paths), join

    def forward(self, *inputs: Tensor) -> Tensor:
        made = [path(x) for path, x in zip(self.paths, inputs, strict=True)]
        if self.join is None:
            return made[0] + made[-1]
        return self.join(torch.cat([made[0], made[-1]], 1))
