"""Low-rank convolution: a k×k convolution on few channels, between a 1×1 into them and a 1×1 out of them.

The Tucker-2 form of Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power
Mobile Applications", ICLR 2016, trained as such: R = int(rank · C), but at least 1, channels in the middle,
and no norm or activation between, so the three are one k×k convolution whose weight has rank R in its inputs
and outputs. Kernel sizes share the centre; ranks and widths the low channels, in the middle too.
Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉), (N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.elastic import add_identity
from supernets.slicing import center, leading, same_padding
from supernets.spatial import conv, convolution


class Operator(nn.Module):
    paper = 'Kim et al., "Compression of Deep CNNs for Fast and Low Power Mobile Applications", ICLR 2016'
    exactness = "exact slice"
    settings = {"kernel_size": (3, 5), "rank": (0.25, 0.5)}
    dims = (1, 2)
    shareable = True

    def __init__(
        self,
        channels: int,
        stride: int,
        kernel_size: tuple[int, ...],
        rank: tuple[float, ...],
        dims: int = 2,
    ):
        super().__init__()
        self.stride = stride
        middle = middle_of(channels, max(rank))
        self.reduce = nn.Parameter(torch.empty(middle, channels, *[1] * dims))
        self.core = nn.Parameter(torch.empty(middle, middle, *[max(kernel_size)] * dims))
        self.restore = nn.Parameter(torch.empty(channels, middle, *[1] * dims))
        nn.init.kaiming_normal_(self.reduce, nonlinearity="linear")
        nn.init.kaiming_normal_(self.core, nonlinearity="linear")
        nn.init.kaiming_normal_(self.restore, nonlinearity="relu")

    def start_near_identity(self) -> None:
        for weight in (self.reduce, self.core, self.restore):
            add_identity(weight)

    def weights(self, channels: int, kernel_size: int, rank: float) -> tuple[Tensor, Tensor, Tensor]:
        """(R, C, 1, 1), (R, R, k, k) and (C, R, 1, 1), or without the last dimension."""
        middle = middle_of(channels, rank)
        reduce, restore = leading(self.reduce, middle, channels), leading(self.restore, channels, middle)
        return reduce, center(leading(self.core, middle, middle), kernel_size), restore

    def forward(self, x: Tensor, kernel_size: int, rank: float) -> Tensor:
        reduce, core, restore = self.weights(x.shape[1], kernel_size, rank)
        return conv(conv(conv(x, reduce), core, self.stride, same_padding(kernel_size)), restore)

    def export(self, channels: int, kernel_size: int, rank: float) -> nn.Module:
        reduce, core, restore = self.weights(channels, kernel_size, rank)
        return nn.Sequential(
            convolution(reduce),
            convolution(core, self.stride, same_padding(kernel_size)),
            convolution(restore),
        )


def middle_of(channels: int, rank: float) -> int:
    return max(1, int(channels * rank))
