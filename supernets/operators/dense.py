"""Ordinary k×k convolution, on all hidden channels at once: with expansions below 1, the bottleneck of
He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.

Kernel sizes share the centre, widths the low channels. Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.elastic import copied
from supernets.slicing import center, leading, same_padding


class Operator(nn.Module):
    settings = {"kernel_size": (3, 5)}

    def __init__(self, channels: int, stride: int, kernel_size: tuple[int, ...]):
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels, channels, max(kernel_size), max(kernel_size)))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def kernel(self, channels: int, kernel_size: int) -> Tensor:
        """The (C, C, k, k) weight of one choice."""
        return center(leading(self.weight, channels, channels), kernel_size)

    def forward(self, x: Tensor, kernel_size: int) -> Tensor:
        kernel = self.kernel(x.shape[1], kernel_size)
        return F.conv2d(x, kernel, None, self.stride, same_padding(kernel_size))

    def export(self, channels: int, kernel_size: int) -> nn.Module:
        convolution = nn.Conv2d(
            channels, channels, kernel_size, self.stride, same_padding(kernel_size), bias=False
        )
        return copied(convolution, weight=self.kernel(channels, kernel_size))
