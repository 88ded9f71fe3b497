"""Spatially separable depthwise convolution: 1×k, then k×1, in place of k×k.

The factorisation of Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016,
section 3.2, fixed beforehand and depthwise: 2k taps for each channel where k×k has k². Nothing stands between
the two, so they are one k×k kernel of rank 1. A stride goes along the row first, then along the column.
Kernel sizes share the centre, widths the low channels.
Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.slicing import center, same_padding
from supernets.spatial import conv, convolution


class Operator(nn.Module):
    paper = 'Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016'
    exactness = "exact slice"
    settings = {"kernel_size": (3, 5, 7, 11)}
    shareable = True

    def __init__(self, channels: int, stride: int, kernel_size: tuple[int, ...]):
        super().__init__()
        self.stride = stride
        self.row = nn.Parameter(torch.empty(channels, 1, max(kernel_size)))
        self.column = nn.Parameter(torch.empty(channels, 1, max(kernel_size)))
        nn.init.kaiming_normal_(self.row, nonlinearity="linear")
        nn.init.kaiming_normal_(self.column, nonlinearity="relu")

    def kernels(self, channels: int, kernel_size: int) -> list[tuple[Tensor, tuple, tuple]]:
        """(weight, stride, padding) of the (C, 1, 1, k) and of the (C, 1, k, 1) convolution."""
        row, column = (center(one[:channels], kernel_size) for one in (self.row, self.column))
        padding = same_padding(kernel_size)
        return [
            (row.unsqueeze(2), (1, self.stride), (0, padding)),
            (column.unsqueeze(3), (self.stride, 1), (padding, 0)),
        ]

    def forward(self, x: Tensor, kernel_size: int) -> Tensor:
        for weight, stride, padding in self.kernels(x.shape[1], kernel_size):
            x = conv(x, weight, stride, padding, groups=len(weight))
        return x

    def export(self, channels: int, kernel_size: int) -> nn.Module:
        return nn.Sequential(
            *(
                convolution(weight, stride, padding, groups=channels)
                for weight, stride, padding in self.kernels(channels, kernel_size)
            )
        )
