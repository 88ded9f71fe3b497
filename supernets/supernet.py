"""The supernet: every architecture of a space, sharing weights.

The architecture is an argument of `forward` and `export`, never a state of the module, so there is no
active subnet to set, reset or forget.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import Architecture, Block, Choice, SearchSpace
from supernets.attention import ATTENTIONS
from supernets.elastic import ACTIVATIONS, Classifier, Norm, Pointwise, copied
from supernets.operators import OPERATORS
from supernets.slicing import same_padding


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
        width = space.stem.width
        for _, number, stage, block in space.blocks:
            stride = stage.stride if number == 0 else 1
            self.blocks.append(ElasticBlock(block, width, max(stage.widths), stride, stage.activation))
            width = max(stage.widths)
        self.head = Head(width, space.head_width, space.activation) if space.head_width else None
        self.classifier = Classifier(space.head_width or width, space.classes)

    def forward(self, images: Tensor, architecture: Architecture) -> Tensor:
        """(N, C, H, W) images to (N, classes) logits, through one architecture."""
        x = self.stem(resize(images, self.space.input_shape(architecture.resolution)))
        for position, choice, width in self.rows(architecture):
            x = self.blocks[position](x, choice, width)
        if self.head is not None:
            x = self.head(x)
        return self.classifier(x)

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
        for number, (position, choice, out) in enumerate(self.rows(architecture)):
            parts[f"block{number}"] = self.blocks[position].export(choice, width, out)
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


class Stem(nn.Module):
    """The convolution that every architecture starts with."""

    def __init__(self, space: SearchSpace):
        super().__init__()
        kernel_size = space.stem.kernel_size
        self.convolution = nn.Conv2d(
            space.image_shape[0],
            space.stem.width,
            kernel_size,
            space.stem.stride,
            same_padding(kernel_size),
            bias=False,
        )
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out", nonlinearity="relu")
        self.norm = Norm(space.stem.width)
        self.activation = ACTIVATIONS[space.activation]()

    def forward(self, images: Tensor) -> Tensor:
        return self.activation(self.norm(self.convolution(images)))

    def export(self) -> nn.Module:
        old = self.convolution
        convolution = nn.Conv2d(
            old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=False
        )
        width = old.out_channels
        return nn.Sequential(
            copied(convolution, weight=old.weight), self.norm.export(width), type(self.activation)()
        )


class ElasticBlock(nn.Module):
    """Expand 1×1, any of several operators to mix space, attention, project 1×1; each with its norm.

    An inverted bottleneck (Sandler et al., MobileNetV2, CVPR 2018) or, with expansions below 1, a
    bottleneck. Norms belong to an operator: what a convolution and a pooling put out is not alike.
    """

    def __init__(self, block: Block, in_channels: int, out_channels: int, stride: int, activation: str):
        super().__init__()
        hidden = hidden_channels(in_channels, max(block.expansions))
        self.stride = stride
        self.expand, self.expand_norm = Pointwise(in_channels, hidden), Norm(hidden)
        self.operators = nn.ModuleDict(
            {
                option.operator: OPERATORS[option.operator](hidden, stride, **dict(option.settings))
                for option in block.options
            }
        )
        self.norms = nn.ModuleDict({option.operator: Norm(hidden) for option in block.options})
        self.attentions = nn.ModuleDict({name: ATTENTIONS[name](hidden) for name in block.attentions})
        self.project, self.project_norm = Pointwise(hidden, out_channels), Norm(out_channels)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor, choice: Choice, width: int) -> Tensor:
        hidden = hidden_channels(x.shape[1], choice.expansion)
        y = self.activation(self.expand_norm(self.expand(x, hidden)))
        y = self.operators[choice.operator](y, **dict(choice.settings))
        y = self.activation(self.norms[choice.operator](y))
        y = self.attentions[choice.attention](y)
        y = self.project_norm(self.project(y, width))
        return x + y if self.residual(x.shape[1], width) else y

    def export(self, choice: Choice, in_channels: int, width: int) -> nn.Module:
        hidden = hidden_channels(in_channels, choice.expansion)
        parts = OrderedDict(
            expand=self.expand.export(in_channels, hidden),
            expand_norm=self.expand_norm.export(hidden),
            expand_activation=type(self.activation)(),
            operator=self.operators[choice.operator].export(hidden, **dict(choice.settings)),
            norm=self.norms[choice.operator].export(hidden),
            activation=type(self.activation)(),
            attention=self.attentions[choice.attention].export(hidden),
            project=self.project.export(hidden, width),
            project_norm=self.project_norm.export(width),
        )
        return (Residual if self.residual(in_channels, width) else nn.Sequential)(parts)

    def residual(self, in_channels: int, width: int) -> bool:
        return self.stride == 1 and in_channels == width


class Residual(nn.Sequential):
    """A row of layers whose output is added to its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Head(nn.Module):
    """The 1×1 convolution before the pooling."""

    def __init__(self, in_channels: int, width: int, activation: str):
        super().__init__()
        self.width = width
        self.convolution, self.norm = Pointwise(in_channels, width), Norm(width)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.convolution(x, self.width)))

    def export(self, in_channels: int) -> nn.Module:
        convolution = self.convolution.export(in_channels, self.width)
        return nn.Sequential(convolution, self.norm.export(self.width), type(self.activation)())


def hidden_channels(in_channels: int, expansion: float) -> int:
    """How many channels the operator of a block works on."""
    return max(1, round(in_channels * expansion))


def resize(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(N, C, H, W) images at the height and width of `shape`, untouched if they have it."""
    if images.shape[-2:] == shape[-2:]:
        return images
    return F.interpolate(images, shape[-2:], mode="bilinear", antialias=True, align_corners=False)
