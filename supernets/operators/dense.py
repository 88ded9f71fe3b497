"""Ordinary k×k convolution, on all hidden channels at once: with expansions below 1, the bottleneck of
He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; with `groups`, that of Xie et al.,
"Aggregated Residual Transformations for Deep Neural Networks" (ResNeXt), CVPR 2017.

Kernel sizes share the centre, widths the low channels, dilations all. Groups share the dense weight: each is
a square on its diagonal, so what lies between one channel and another is the same number in every choice that
connects them. Any width has any groups: equal shares, the remainder going to the first. Shares that are equal
export as one grouped convolution, others as one convolution each.
Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉), (N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.branches import SideBySide
from supernets.slicing import center, equal, same_padding
from supernets.spatial import conv, convolution


class Operator(nn.Module):
    paper = 'He et al., "Deep Residual Learning", CVPR 2016; Xie et al., "ResNeXt", CVPR 2017 (groups)'
    exactness = "exact slice"
    settings = {"kernel_size": (1, 3, 5), "groups": (1, 2, 4), "dilation": (1, 2)}
    defaults = {"kernel_size": (3, 5), "groups": (1,), "dilation": (1,)}
    dims = (1, 2)
    shareable = True

    # `groups` and `dilation` may be missing: what was stored before there was a choice has 1 and 1
    def __init__(
        self,
        channels: int,
        stride: int,
        kernel_size: tuple[int, ...],
        groups: tuple[int, ...] = (1,),
        dilation: tuple[int, ...] = (1,),
        dims: int = 2,
    ):
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels, channels, *[max(kernel_size)] * dims))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def kernels(self, channels: int, kernel_size: int, groups: int) -> list[Tensor]:
        """The (c, c, k, k) or (c, c, k) weight of each group."""
        weight, kernels, end = center(self.weight, kernel_size), [], 0
        for size in filter(None, equal(channels, groups)):  # with too few channels the first alone is there
            start, end = end, end + size
            kernels.append(weight[start:end, start:end])
        return kernels

    def forward(self, x: Tensor, kernel_size: int, groups: int = 1, dilation: int = 1) -> Tensor:
        kernels, padding = self.kernels(x.shape[1], kernel_size, groups), same_padding(kernel_size, dilation)
        if is_equal(kernels):
            return conv(x, torch.cat(kernels), self.stride, padding, dilation, len(kernels))
        parts = x.split([len(kernel) for kernel in kernels], dim=1)
        return torch.cat(
            [
                conv(part, kernel, self.stride, padding, dilation)
                for part, kernel in zip(parts, kernels, strict=True)
            ],
            dim=1,
        )

    def export(self, channels: int, kernel_size: int, groups: int = 1, dilation: int = 1) -> nn.Module:
        kernels, padding = self.kernels(channels, kernel_size, groups), same_padding(kernel_size, dilation)
        if is_equal(kernels):
            return convolution(torch.cat(kernels), self.stride, padding, dilation, len(kernels))
        return SideBySide(
            [len(kernel) for kernel in kernels],
            [convolution(kernel, self.stride, padding, dilation) for kernel in kernels],
        )


def is_equal(kernels: list[Tensor]) -> bool:
    """Whether the groups have as many channels each."""
    return len({len(kernel) for kernel in kernels}) == 1
