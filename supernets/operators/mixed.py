"""MixConv: depthwise convolution with a kernel size of its own for each group of channels.

After Tan and Le, "MixConv: Mixed Depthwise Convolutional Kernels", BMVC 2019: the channels are split
equally among the kernels, the remainder going to the first. All choices share one depthwise weight, from
which each group takes the centre; the split follows the width in use, so a channel may meet different
kernels in different choices. Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉),
(N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from supernets.slicing import center, same_padding
from supernets.spatial import conv, convolution


class Operator(nn.Module):
    paper = 'Tan and Le, "MixConv: Mixed Depthwise Convolutional Kernels", BMVC 2019'
    exactness = "exact slice"
    settings = {"kernels": ((3, 5), (3, 5, 7), (3, 5, 7, 9))}
    dims = (1, 2)

    def __init__(self, channels: int, stride: int, kernels: tuple[tuple[int, ...], ...], dims: int = 2):
        super().__init__()
        self.stride = stride
        largest = max(max(sizes) for sizes in kernels)
        self.weight = nn.Parameter(torch.empty(channels, 1, *[largest] * dims))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def kernels_of(self, channels: int, kernels: tuple[int, ...]) -> Iterator[tuple[int, Tensor]]:
        """(kernel size, (c, 1, k, k) or (c, 1, k) weight) of each group of channels, in order."""
        start = 0
        for kernel_size, size in zip(kernels, group_sizes(channels, len(kernels)), strict=True):
            if size:
                yield kernel_size, center(self.weight[start : start + size], kernel_size)
            start += size

    def forward(self, x: Tensor, kernels: tuple[int, ...]) -> Tensor:
        groups = list(self.kernels_of(x.shape[1], kernels))
        parts = x.split([len(weight) for _, weight in groups], dim=1)
        mixed = [
            conv(part, weight, self.stride, same_padding(kernel_size), groups=len(weight))
            for part, (kernel_size, weight) in zip(parts, groups, strict=True)
        ]
        return torch.cat(mixed, dim=1)

    def export(self, channels: int, kernels: tuple[int, ...]) -> nn.Module:
        return Mixed(
            [
                convolution(weight, self.stride, same_padding(kernel_size), groups=len(weight))
                for kernel_size, weight in self.kernels_of(channels, kernels)
            ]
        )


class Mixed(nn.Module):
    """Convolutions side by side, each on its own channels."""

    def __init__(self, convolutions: list[nn.Module]):
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)
        self.sizes = [convolution.in_channels for convolution in convolutions]

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.sizes, dim=1)
        return torch.cat(
            [convolution(parts[number]) for number, convolution in enumerate(self.convolutions)], dim=1
        )


def group_sizes(channels: int, groups: int) -> list[int]:
    """Equal shares of the channels, the remainder to the first; with few channels some are 0."""
    share = channels // groups
    return [channels - share * (groups - 1)] + [share] * (groups - 1)
