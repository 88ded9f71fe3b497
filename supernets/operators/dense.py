"""Ordinary k×k convolution, on all hidden channels at once: with expansions below 1, the bottleneck of
He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.

Kernel sizes share the centre, widths the low channels. Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉,
⌈W/s⌉), (N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.slicing import center, leading, same_padding
from supernets.spatial import conv, convolution


class Operator(nn.Module):
    paper = 'He et al., "Deep Residual Learning for Image Recognition", CVPR 2016'
    exactness = "exact slice"
    settings = {"kernel_size": (3, 5)}
    dims = (1, 2)

    def __init__(self, channels: int, stride: int, kernel_size: tuple[int, ...], dims: int = 2):
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels, channels, *[max(kernel_size)] * dims))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def kernel(self, channels: int, kernel_size: int) -> Tensor:
        """The (C, C, k, k) or (C, C, k) weight of one choice."""
        return center(leading(self.weight, channels, channels), kernel_size)

    def forward(self, x: Tensor, kernel_size: int) -> Tensor:
        kernel = self.kernel(x.shape[1], kernel_size)
        return conv(x, kernel, self.stride, same_padding(kernel_size))

    def export(self, channels: int, kernel_size: int) -> nn.Module:
        return convolution(self.kernel(channels, kernel_size), self.stride, same_padding(kernel_size))
