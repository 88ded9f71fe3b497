"""Weighted convolution: a depthwise kernel times a density that is learned for each distance from its centre.

After the weighted convolution of Cammarasana and Patanè, who multiply kernels by a density of the distance
from the reference pixel. Here it is learned with the weights, one number for each ring of taps that are
equally far from the centre in the larger of both directions, for all channels of a layer. It starts at 1,
which is a plain depthwise convolution, and stays 1 at the centre. It adds no function that the kernel could
not learn alone: it is another course of training, and is multiplied into the kernel on export. Kernel sizes
share the centre and the rings, widths the low channels.
Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉), (N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.slicing import center, same_padding
from supernets.spatial import conv, convolution


class Operator(nn.Module):
    paper = "after Cammarasana and Patanè, weighted convolution"
    exactness = "the density multiplies exactly into the kernel"
    settings = {"kernel_size": (3, 5)}
    dims = (1, 2)
    shareable = True

    def __init__(self, channels: int, stride: int, kernel_size: tuple[int, ...], dims: int = 2):
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels, 1, *[max(kernel_size)] * dims))
        self.density = nn.Parameter(torch.ones(max(kernel_size) // 2))  # of ring 1, 2, ...
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def kernel(self, channels: int, kernel_size: int) -> Tensor:
        """The (C, 1, k, k) or (C, 1, k) weight of one choice."""
        weight = center(self.weight[:channels], kernel_size)
        density = torch.cat([self.density.new_ones(1), self.density[: kernel_size // 2]])
        return weight * density[rings(kernel_size, weight.ndim - 2, weight.device)]

    def forward(self, x: Tensor, kernel_size: int) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel(channels, kernel_size)
        return conv(x, kernel, self.stride, same_padding(kernel_size), groups=channels)

    def export(self, channels: int, kernel_size: int) -> nn.Module:
        kernel = self.kernel(channels, kernel_size)
        return convolution(kernel, self.stride, same_padding(kernel_size), groups=channels)


def rings(kernel_size: int, dims: int, device: torch.device) -> Tensor:
    """How far each tap of a (k, k) or (k,) kernel is from its centre, along the farther direction."""
    distance = (torch.arange(kernel_size, device=device) - kernel_size // 2).abs()
    return distance if dims == 1 else torch.maximum(distance[:, None], distance)
