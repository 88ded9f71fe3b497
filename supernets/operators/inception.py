"""Inception depthwise convolution: 3×3, 1×k and k×1 kernels on a few channels each, the rest untouched.

Yu et al., "InceptionNeXt: When Inception Meets ConvNeXt", CVPR 2024, section 3: the channels are split, in
the order of their code, into untouched | 3×3 | 1×band | band×1, of which the last three have gc = int(C ·
ratio) channels each, but at least 1: it takes HW · gc · (9 + 2 · band) MACs at stride 1. With 2 channels
there is no band×1, with 1 only the 3×3. A stride keeps every s-th pixel of the untouched. Each kernel has a
weight of its own, of which a width reads the first gc and a band the middle; the split follows the width in
use, so a channel may meet different kernels in different widths.
Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.branches import SideBySide
from supernets.elastic import add_identity
from supernets.slicing import center, same_padding
from supernets.spatial import Subsample, conv, convolution, every


class Operator(nn.Module):
    paper = 'Yu et al., "InceptionNeXt: When Inception Meets ConvNeXt", CVPR 2024'
    exactness = "exact slice"
    settings = {"band": (7, 11, 15), "ratio": (0.125, 0.25)}
    defaults = {"band": (11,)}
    shareable = True

    def __init__(self, channels: int, stride: int, band: tuple[int, ...], ratio: tuple[float, ...]):
        super().__init__()
        self.stride, self.kept = stride, every(stride)
        _, most, _, _ = split(channels, max(ratio))
        self.square = nn.Parameter(torch.empty(most, 1, 3, 3))
        self.row = nn.Parameter(torch.empty(most, 1, max(band)))
        self.column = nn.Parameter(torch.empty(most, 1, max(band)))
        for weight in (self.square, self.row, self.column):
            nn.init.kaiming_normal_(weight, nonlinearity="relu")

    def start_near_identity(self) -> None:
        for weight in (self.square, self.row, self.column):
            add_identity(weight)

    def kernels(self, channels: int, band: int, ratio: float) -> list[tuple[int, Tensor | None]]:
        """(channels c, weight (c, 1, 3, 3), (c, 1, 1, band) or (c, 1, band, 1), or None if untouched)."""
        untouched, square, row, column = split(channels, ratio)
        parts = [
            (untouched, None),
            (square, self.square[:square]),
            (row, center(self.row[:row], band).unsqueeze(2)),
            (column, center(self.column[:column], band).unsqueeze(3)),
        ]
        return [(size, weight) for size, weight in parts if size]

    def forward(self, x: Tensor, band: int, ratio: float) -> Tensor:
        kernels = self.kernels(x.shape[1], band, ratio)
        parts = x.split([size for size, _ in kernels], dim=1)
        return torch.cat(
            [
                part[self.kept]
                if weight is None
                else conv(part, weight, self.stride, padding(weight), groups=len(weight))
                for part, (_, weight) in zip(parts, kernels, strict=True)
            ],
            dim=1,
        )

    def export(self, channels: int, band: int, ratio: float) -> nn.Module:
        kernels = self.kernels(channels, band, ratio)
        return SideBySide(
            [size for size, _ in kernels],
            [
                Subsample(self.kept)
                if weight is None
                else convolution(weight, self.stride, padding(weight), groups=size)
                for size, weight in kernels
            ],
        )


def split(channels: int, ratio: float) -> list[int]:
    """How many channels are untouched and have the square, the row and the column."""
    each, sizes = max(1, int(channels * ratio)), []
    for _ in range(3):
        sizes.append(min(each, channels - sum(sizes)))
    return [channels - sum(sizes), *sizes]


def padding(weight: Tensor) -> tuple[int, int]:
    _, _, height, width = weight.shape
    return same_padding(height), same_padding(width)
