"""RecConv: one small depthwise convolution repeated over a pyramid of halved sizes.

After Zhao, Luo and Ouyang, "RecConv: Efficient Recursive Convolutions for Multi-Frequency Representations",
2024 (arXiv 2412.19628), section 3. With f_0 = x and f_i = down(f_{i-1}), a k×k depthwise convolution of stride 2
that all levels share, y goes from the coarsest level to the finest, y ← upsample(conv_i(f_i + y)), linearly to
the very size of f_{i-1}, odd ones too; out comes conv_0(x + y), which also takes the stride. At stride 1 that
reaches as far as k·2^ℓ pixels for 1 + 2 Σ 4^-i times the MACs of one convolution (2^-i on signals).

Level i is counted from the finest, so fewer levels are the first of more; of every kernel a smaller one is
the centre. Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉), (N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.slicing import center, same_padding
from supernets.spatial import conv, convolution

MODES = {3: "linear", 4: "bilinear"}  # by the dimensions of a tensor


class Operator(nn.Module):
    paper = (
        'Zhao et al., "RecConv: Efficient Recursive Convolutions for Multi-Frequency Representations", 2024'
    )
    exactness = "exact slice"
    settings = {"kernel_size": (3, 5), "levels": (1, 2, 3)}
    dims = (1, 2)
    shareable = True
    experimental = True

    def __init__(
        self, channels: int, stride: int, kernel_size: tuple[int, ...], levels: tuple[int, ...], dims: int = 2
    ):
        super().__init__()
        self.stride = stride
        largest = max(kernel_size)
        # along the second dimension: down, conv_0, conv_1, ...
        self.weight = nn.Parameter(torch.empty(channels, 2 + max(levels), *[largest] * dims))
        nn.init.normal_(
            self.weight, std=largest ** (-dims / 2)
        )  # they follow one another with nothing between

    def kernels(self, channels: int, kernel_size: int, levels: int) -> list[Tensor]:
        """(C, 1, k, k) or (C, 1, k) weights: down, then those of the levels from the finest."""
        return list(center(self.weight[:channels, : 2 + levels], kernel_size).split(1, dim=1))

    def forward(self, x: Tensor, kernel_size: int, levels: int) -> Tensor:
        channels, padding = x.shape[1], same_padding(kernel_size)
        down, finest, *coarser = self.kernels(channels, kernel_size, levels)
        pyramid = [x]
        for _ in coarser:
            pyramid.append(conv(pyramid[-1], down, 2, padding, groups=channels))
        total = pyramid[-1]
        for level in range(levels, 0, -1):
            mixed = conv(total, coarser[level - 1], padding=padding, groups=channels)
            total = pyramid[level - 1] + upsampled(mixed, pyramid[level - 1], MODES[x.ndim])
        return conv(total, finest, self.stride, padding, groups=channels)

    def export(self, channels: int, kernel_size: int, levels: int) -> nn.Module:
        padding = same_padding(kernel_size)
        down, finest, *coarser = self.kernels(channels, kernel_size, levels)
        return Recursive(
            convolution(down, 2, padding, groups=channels),
            [convolution(weight, padding=padding, groups=channels) for weight in coarser],
            convolution(finest, self.stride, padding, groups=channels),
            MODES[self.weight.ndim],
        )


class Recursive(nn.Module):
    """The pyramid of plain convolutions."""

    def __init__(self, down: nn.Module, coarser: list[nn.Module], finest: nn.Module, mode: str):
        super().__init__()
        self.down, self.coarser, self.finest, self.mode = down, nn.ModuleList(coarser), finest, mode

    def forward(self, x: Tensor) -> Tensor:
        pyramid = [x]
        for _ in self.coarser:
            pyramid.append(self.down(pyramid[-1]))
        total = pyramid.pop()
        for mix in reversed(self.coarser):
            finer = pyramid.pop()
            total = finer + upsampled(mix(total), finer, self.mode)
        return self.finest(total)


def upsampled(y: Tensor, like: Tensor, mode: str) -> Tensor:
    """Linearly to the size that another tensor has."""
    return F.interpolate(y, size=like.shape[2:], mode=mode, align_corners=False)
