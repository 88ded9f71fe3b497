"""Efficient channel attention: each channel scaled by what the channels next to it hold on average.

Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", CVPR 2020: global
average, 1-D convolution without bias along the channels, sigmoid. The kernel size follows from the channels
in use by their rule, (log₂ C + 1) / 2 made odd and at least 3: 3 below 128 channels, 5 below 2048, then 7.
All widths share one kernel, a small one being the centre of a large one.
Shapes: (N, C, H, W) or (N, C, L) to the same.
"""

from __future__ import annotations

from math import log2

import torch
from torch import Tensor, nn

from supernets.slicing import center, same_padding
from supernets.spatial import conv, convolution, mean


class Attention(nn.Module):
    paper = 'Wang et al., "ECA-Net: Efficient Channel Attention", CVPR 2020'
    exactness = "exact slice"
    dims = (1, 2)

    def __init__(self, channels: int, dims: int = 2):
        super().__init__()
        self.dims = dims
        self.weight = nn.Parameter(torch.empty(1, 1, kernel_size_of(channels)))
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")

    def kernel(self, channels: int) -> tuple[Tensor, tuple[int, ...]]:
        """The (1, 1, k, 1) or (1, 1, k) weight of a width and its padding, over (N, 1, C, 1) or (N, 1, C)."""
        kernel_size = kernel_size_of(channels)
        others = [1] * (self.dims - 1)
        weight = center(self.weight, kernel_size).view(1, 1, kernel_size, *others)
        return weight, (same_padding(kernel_size), *[0] * (self.dims - 1))

    def forward(self, x: Tensor) -> Tensor:
        weight, padding = self.kernel(x.shape[1])
        gate = conv(mean(x, keepdim=True).transpose(1, 2), weight, padding=padding)
        return x * gate.transpose(1, 2).sigmoid()

    def export(self, channels: int) -> nn.Module:
        weight, padding = self.kernel(channels)
        return EfficientChannel(convolution(weight, padding=padding), self.dims)


class EfficientChannel(nn.Module):
    def __init__(self, along: nn.Module, dims: int):
        super().__init__()
        self.along = along
        self.places = (2, 3)[:dims]

    def forward(self, x: Tensor) -> Tensor:
        average = x.mean(self.places, keepdim=True)
        return x * self.along(average.transpose(1, 2)).transpose(1, 2).sigmoid()


def kernel_size_of(channels: int) -> int:
    """Odd, and slowly larger with the channels."""
    return max(3, int((log2(channels) + 1) / 2) | 1)
