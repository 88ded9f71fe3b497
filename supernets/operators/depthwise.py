"""Depthwise convolution whose kernel size and dilation may vary.

All kernel sizes share one weight, a small kernel being the centre of a large one (once-for-all, Cai et al.,
ICLR 2020, section 3.3); dilations share it too. With `transform`, as there, the next smaller kernel is a
learned matrix times that centre, from the largest size offered down: one matrix per step, for all channels,
that starts as the identity. It is held as its difference from that, so that weight decay pulls to the plain
centre; the matrices exist only where `transform` may be true, and export multiplies them out.
Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉), (N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.slicing import center, same_padding
from supernets.spatial import conv, convolution


class Operator(nn.Module):
    paper = 'Cai et al., "Once-for-All", ICLR 2020'
    exactness = "exact slice; transformed kernels are multiplied out"
    settings = {"kernel_size": (3, 5, 7, 9), "dilation": (1, 2), "transform": (False, True)}
    defaults = {"kernel_size": (3, 5, 7), "transform": (False,)}
    dims = (1, 2)
    shareable = True

    # `transform` may be missing: what was stored before there was a choice has none
    def __init__(
        self,
        channels: int,
        stride: int,
        kernel_size: tuple[int, ...],
        dilation: tuple[int, ...],
        transform: tuple[bool, ...] = (False,),
        dims: int = 2,
    ):
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels, 1, *[max(kernel_size)] * dims))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        self.smaller = sorted(kernel_size, reverse=True)[1:] if any(transform) else []
        self.differences = nn.ParameterDict(
            {str(size): torch.zeros(size**dims, size**dims) for size in self.smaller}
        )

    def kernel(self, channels: int, kernel_size: int, transform: bool) -> Tensor:
        """The (C, 1, k, k) or (C, 1, k) weight of one choice."""
        weight = self.weight[:channels]
        if transform:
            for size in (one for one in self.smaller if one >= kernel_size):
                middle = center(weight, size)
                weight = middle + (middle.flatten(1) @ self.differences[str(size)].T).view_as(middle)
        return center(weight, kernel_size)

    def forward(self, x: Tensor, kernel_size: int, dilation: int, transform: bool = False) -> Tensor:
        channels = x.shape[1]
        padding = same_padding(kernel_size, dilation)
        kernel = self.kernel(channels, kernel_size, transform)
        return conv(x, kernel, self.stride, padding, dilation, groups=channels)

    def export(self, channels: int, kernel_size: int, dilation: int, transform: bool = False) -> nn.Module:
        padding = same_padding(kernel_size, dilation)
        kernel = self.kernel(channels, kernel_size, transform)
        return convolution(kernel, self.stride, padding, dilation, groups=channels)
