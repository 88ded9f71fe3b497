"""The supernet: every architecture of a space, sharing weights.

The architecture is an argument of `forward` and `export`, never a state of the module, so there is no
active subnet to set, reset or forget.

Where a stage shares kernels, its blocks after the first use the operators of the second; what is around an
operator, expand, norms, attention and project, stays each block's own. Blocks whose operator has the same
settings and hidden channels then export one module that stands in several places, so that whatever is
made of it holds the weights once; with other settings they export slices of their own. An operator with norms
inside is never shared: one set of running statistics would be averaged over two places, and then neither
place computes what the supernet did, which normalises by the batch in each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import Architecture, Block, CellSpace, Choice, EdgeCellSpace, NetworkSpace, SearchSpace
from supernets.attention import make_attention
from supernets.elastic import ACTIVATIONS, Classifier, Norm, Pointwise, start_near_identity
from supernets.operators import is_normalized, make_operator, paths
from supernets.slicing import same_padding
from supernets.spatial import CONVOLUTIONS, convolution

Layers = OrderedDict[str, nn.Module]
Part = tuple[Callable[[], Layers], int, int]


def make_supernet(space: NetworkSpace, seed: int = 0) -> nn.Module:
    """The supernet of a space, of whichever topology: all have `space`, `forward` and `export`."""
    from supernets.cells import CellSupernet
    from supernets.edge_cells import EdgeCellSupernet

    kinds = {SearchSpace: Supernet, CellSpace: CellSupernet, EdgeCellSpace: EdgeCellSupernet}
    return kinds[type(space)](space, seed)


class Supernet(nn.Module):
    """Stem, stages of blocks, head and classifier, each as large as the space allows.

    Args:
        space: the search space; it knows the images' shape and the number of classes.
        seed: of the initial weights.
    """

    def __init__(self, space: SearchSpace, seed: int = 0):
        super().__init__()
        self.space = space
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build()

    def _build(self) -> None:
        space = self.space
        self.stem = Stem(space)
        self.blocks = nn.ModuleList()
        self.owners: list[dict[str, int]] = []  # of each block, where its operators are if they are shared
        width = space.stem.width
        for _, number, stage, block in space.blocks:
            stride = stage.stride if number == 0 else 1
            elastic = ElasticBlock(block, width, max(stage.widths), stride, stage.activation, space.dims)
            shared = stage.shareable if number > 1 else ()
            self.owners.append(dict.fromkeys(shared, len(self.blocks) - number + 1))
            if False not in stage.share_kernels:
                for name in shared:
                    del elastic.operators[name]
            self.blocks.append(elastic)
            width = max(stage.widths)
        head = Head(width, space.head_width, space.activation, space.dims) if space.head_width else None
        self.head = head
        self.classifier = Classifier(space.head_width or width, space.classes, space.dims)

    def forward(self, images: Tensor, architecture: Architecture) -> Tensor:
        """(N, C, H, W) images, or (N, C, L) signals, to (N, classes) logits, through one architecture."""
        return self.classify(self.features(images, architecture), architecture)

    def features(
        self, images: Tensor, architecture: Architecture, drop: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """What the classifier pools: (N, C, H, W), or (N, C, L).

        Args:
            drop: `drop(x, depth=d)` leaves what a residual block adds out of some images; d is 1 for the last
                block and in proportion for those before it.
        """
        x = self.stem(resize(images, self.space.input_shape(architecture.resolution)))
        rows, operators = self.rows(architecture), self.operators(architecture)
        for number, ((position, choice, width), operator) in enumerate(zip(rows, operators, strict=True), 1):
            here = drop and partial(drop, depth=number / len(rows))
            x = self.blocks[position](x, choice, width, operator, here)
        return x if self.head is None else self.head(x)

    def classify(self, features: Tensor, architecture: Architecture) -> Tensor:
        """What `features` gave to (N, classes) logits."""
        return self.classifier(features)

    def export(self, architecture: Architecture) -> nn.Sequential:
        """A plain network with its own copy of the weights that this architecture uses.

        It takes images at the architecture's resolution, `space.input_shape(architecture.resolution)`,
        and is in the same mode, training or evaluation, as the supernet. For use, give it batch-norm
        statistics of its own: `supernets.calibration.recalibrate`.

        Raises:
            ValueError: the architecture is not of this space.
        """
        self.space.check(architecture)
        width = self.space.stem.width
        parts = OrderedDict(stem=self.stem.export())
        operators, exported = self.operators(architecture), {}
        for number, (position, choice, out) in enumerate(self.rows(architecture)):
            block = self.blocks[position].export(choice, width, out, operators[number])
            key = operators[number], choice.settings, hidden_channels(width, choice.expansion)
            block.operator = exported.setdefault(key, block.operator)
            parts[f"block{number}"] = block
            width = out
        if self.head is not None:
            parts["head"] = self.head.export(width)
            width = self.space.head_width
        parts["classifier"] = self.classifier.export(width)
        return nn.Sequential(parts).train(self.training)

    def rows(self, architecture: Architecture) -> list[tuple[int, Choice, int]]:
        """(position among all blocks, choice, width) of each block that is there, in order."""
        rows, first = [], 0
        for stage, chosen in zip(self.space.stages, architecture.stages, strict=True):
            rows += [(first + b, choice, chosen.width) for b, choice in enumerate(chosen.blocks)]
            first += len(stage.blocks)
        return rows

    def operators(self, architecture: Architecture) -> list[nn.Module]:
        """The operator of each block that is there, in order; one that is shared stands several times."""
        shares = [stage.share_kernels for stage in architecture.stages for _ in stage.blocks]
        rows = zip(self.rows(architecture), shares, strict=True)
        return [self.operator(position, choice.operator, share) for (position, choice, _), share in rows]

    def operator(self, position: int, name: str, share: bool) -> nn.Module:
        """An operator of a block: its own or, to share it, that of the second block of the stage."""
        own, owner = self.blocks[position].operators, self.owners[position].get(name, position)
        return self.blocks[owner].operators[name] if share or name not in own else own[name]


class Stem(nn.Module):
    """The convolution that every architecture starts with."""

    def __init__(self, space: SearchSpace):
        super().__init__()
        kernel_size = space.stem.kernel_size
        self.convolution = CONVOLUTIONS[space.dims](
            space.image_shape[0],
            space.stem.width,
            kernel_size,
            space.stem.stride,
            same_padding(kernel_size),
            bias=False,
        )
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out", nonlinearity="relu")
        self.norm = Norm(space.stem.width, space.dims)
        self.activation = ACTIVATIONS[space.activation]()

    def forward(self, images: Tensor) -> Tensor:
        return self.activation(self.norm(self.convolution(images)))

    def export(self) -> nn.Module:
        old = self.convolution
        return nn.Sequential(
            convolution(old.weight, old.stride, old.padding),
            self.norm.export(old.out_channels),
            type(self.activation)(),
        )


class ElasticBlock(nn.Module):
    """Expand 1×1, any of several operators to mix space, attention, project 1×1; each with its norm.

    An inverted bottleneck (Sandler et al., MobileNetV2, CVPR 2018) or, with expansions below 1, a
    bottleneck. Norms belong to an operator: what a convolution and a pooling put out is not alike.
    """

    def __init__(
        self,
        block: Block,
        in_channels: int,
        out_channels: int,
        stride: int,
        activation: str,
        dims: int = 2,
    ):
        super().__init__()
        hidden = hidden_channels(in_channels, max(block.expansions))
        self.stride = stride
        self.expand, self.expand_norm = Pointwise(in_channels, hidden, dims), Norm(hidden, dims)
        self.operators = nn.ModuleDict(
            {
                option.operator: make_operator(
                    option.operator, hidden, stride, dict(option.settings), activation, dims
                )
                for option in block.options
            }
        )
        if len(block.options) > 1:
            for operator in self.operators.values():
                start_near_identity(operator, hidden)
        self.norms = nn.ModuleDict(
            {
                option.operator: Norm(hidden, dims)
                for option in block.options
                if not is_normalized(option.operator)
            }
        )
        self.attentions = nn.ModuleDict(
            {name: make_attention(name, hidden, dims) for name in block.attentions}
        )
        self.project = Pointwise(hidden, out_channels, dims)
        banks = sorted({paths(choice.operator, choice.settings) for choice in block.choices})
        self.project_norms = nn.ModuleDict({str(number): Norm(out_channels, dims) for number in banks})
        self.activation = ACTIVATIONS[activation]()

    def forward(
        self,
        x: Tensor,
        choice: Choice,
        width: int,
        operator: nn.Module | None = None,
        drop: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Through one choice, with the block's own operator or the given one, which it shares.

        Where the block is residual, `drop` leaves what it adds out of some images.
        """
        operator = self.operators[choice.operator] if operator is None else operator
        hidden = hidden_channels(x.shape[1], choice.expansion)
        y = self.activation(self.expand_norm(self.expand(x, hidden)))
        y = operator(y, **dict(choice.settings))
        if choice.operator in self.norms:
            y = self.activation(self.norms[choice.operator](y))
        y = self.attentions[choice.attention](y)
        y = self.project_norm(choice)(self.project(y, width))
        if not self.residual(x.shape[1], width):
            return y
        return x + (y if drop is None else drop(y))

    def export(
        self, choice: Choice, in_channels: int, width: int, operator: nn.Module | None = None
    ) -> nn.Module:
        parts = (part for part, _, _ in self.parts(choice, in_channels, width, operator).values())
        rows = OrderedDict(row for part in parts for row in part().items())
        return (Residual if self.residual(in_channels, width) else nn.Sequential)(rows)

    def parts(
        self, choice: Choice, in_channels: int, width: int, shared: nn.Module | None = None
    ) -> dict[tuple, Part]:
        """What a choice exports, in order: by all that it depends on, a function that makes its layers, the
        channels it takes, and its stride. The operator is the block's own or a shared one."""
        hidden = hidden_channels(in_channels, choice.expansion)
        elastic = self.operators[choice.operator] if shared is None else shared

        def expand() -> Layers:
            return OrderedDict(
                expand=self.expand.export(in_channels, hidden),
                expand_norm=self.expand_norm.export(hidden),
                expand_activation=type(self.activation)(),
            )

        def operator() -> Layers:
            layers = OrderedDict(operator=elastic.export(hidden, **dict(choice.settings)))
            if choice.operator in self.norms:
                layers["norm"] = self.norms[choice.operator].export(hidden)
                layers["activation"] = type(self.activation)()
            return layers

        def attention() -> Layers:
            return OrderedDict(attention=self.attentions[choice.attention].export(hidden))

        def project() -> Layers:
            return OrderedDict(
                project=self.project.export(hidden, width),
                project_norm=self.project_norm(choice).export(width),
            )

        summed = paths(choice.operator, choice.settings)
        return {
            ("expand", in_channels, hidden): (expand, in_channels, 1),
            ("operator", choice.operator, choice.settings, hidden): (operator, hidden, self.stride),
            ("attention", choice.attention, hidden): (attention, hidden, 1),
            ("project", hidden, width, summed): (project, hidden, 1),
        }

    def project_norm(self, choice: Choice) -> Norm:
        """The last norm of a choice: one for each number of summed paths (Shadow BN, MixPath: Chu et al.,
        ICCV 2023), since their sums have statistics of different size."""
        return self.project_norms[str(paths(choice.operator, choice.settings))]

    def residual(self, in_channels: int, width: int) -> bool:
        return self.stride == 1 and in_channels == width


class Residual(nn.Sequential):
    """A row of layers whose output is added to its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Head(nn.Module):
    """The 1×1 convolution before the pooling."""

    def __init__(self, in_channels: int, width: int, activation: str, dims: int = 2):
        super().__init__()
        self.width = width
        self.convolution, self.norm = Pointwise(in_channels, width, dims), Norm(width, dims)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.convolution(x, self.width)))

    def export(self, in_channels: int) -> nn.Module:
        convolution = self.convolution.export(in_channels, self.width)
        return nn.Sequential(convolution, self.norm.export(self.width), type(self.activation)())


def hidden_channels(in_channels: int, expansion: float) -> int:
    """How many channels the operator of a block works on."""
    return max(1, round(in_channels * expansion))


def resize(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(N, C, H, W) images, or (N, C, L) signals, at the size of `shape`, untouched if they have it."""
    if images.shape[2:] == shape[1:]:
        return images
    flat = images.unsqueeze(2) if images.ndim == 3 else images  # a signal is an image of one row
    size = (1, *shape[1:]) if images.ndim == 3 else shape[1:]
    scaled = F.interpolate(flat, size, mode="bilinear", antialias=True, align_corners=False)
    return scaled.squeeze(2) if images.ndim == 3 else scaled
