"""Depthwise convolution whose kernel size and dilation may vary.

All kernel sizes share one weight, a small kernel being the centre of a large one (once-for-all, Cai et
al., ICLR 2020, section 3.3); dilations share it too. Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉), (N, C, L) to
(N, C, ⌈L/s⌉).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.slicing import center, same_padding
from supernets.spatial import conv, convolution


class Operator(nn.Module):
    paper = 'Cai et al., "Once-for-All", ICLR 2020'
    exactness = "exact slice"
    settings = {"kernel_size": (3, 5, 7, 9), "dilation": (1, 2)}
    defaults = {"kernel_size": (3, 5, 7)}
    dims = (1, 2)

    def __init__(
        self,
        channels: int,
        stride: int,
        kernel_size: tuple[int, ...],
        dilation: tuple[int, ...],
        dims: int = 2,
    ):
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels, 1, *[max(kernel_size)] * dims))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def kernel(self, channels: int, kernel_size: int) -> Tensor:
        """The (C, 1, k, k) or (C, 1, k) weight of one choice."""
        return center(self.weight[:channels], kernel_size)

    def forward(self, x: Tensor, kernel_size: int, dilation: int) -> Tensor:
        channels = x.shape[1]
        padding = same_padding(kernel_size, dilation)
        kernel = self.kernel(channels, kernel_size)
        return conv(x, kernel, self.stride, padding, dilation, groups=channels)

    def export(self, channels: int, kernel_size: int, dilation: int) -> nn.Module:
        padding = same_padding(kernel_size, dilation)
        return convolution(
            self.kernel(channels, kernel_size), self.stride, padding, dilation, groups=channels
        )
