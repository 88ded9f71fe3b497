"""Shiftwise convolution: a large cross-shaped kernel put together from small ones.

After Li, Li, Chen and Li, "ShiftwiseConv: Small Convolutional Kernel with Large Kernel Effect", CVPR 2025,
section 3: K/3 depthwise 3×3 convolutions give as many maps of each channel; shifted by 3 pixels from one to the
next they are summed once along the rows and once along the columns, and each sum, as well as the map in
the middle alone, has its own norm. To shift the maps before they are summed is to convolve with their kernels
side by side, borders included: so that is how it is computed, without the maps in memory and without code
for the shifts. A norm scales what it gets, so both bands and the middle merge exactly: into two convolutions
of 3×K and K×3, or one K×K, whichever the device runs faster.

Left out of the paper: dynamic sparsity and the channels copied past the operator, which would have to be others
at each width; the random order of the maps, with which kernel sizes would not nest; the inner residual, since
the block has one. A smaller kernel is the maps in the middle. Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.elastic import Norm
from supernets.merging import fold
from supernets.slicing import same_padding
from supernets.spatial import conv, convolution

SIDE = 3  # of the small kernels


class Operator(nn.Module):
    paper = 'Li et al., "ShiftwiseConv: Small Convolutional Kernel with Large Kernel Effect", CVPR 2025'
    exactness = "branches merge exactly into two bands or one K×K kernel"
    # odd multiples of 3; above 21 torch 2.13 crashes in the gradient of a single channel (oneDNN on AVX-512)
    settings = {"kernel_size": (15, 21)}
    experimental = True

    def __init__(self, channels: int, stride: int, kernel_size: tuple[int, ...]):
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels, max(kernel_size) // SIDE, SIDE, SIDE))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        self.norms = nn.ModuleList(Norm(channels) for _ in range(3))

    def kernels(self, channels: int, kernel_size: int) -> list[Tensor]:
        """(C, 1, 3, K), (C, 1, K, 3) and (C, 1, 3, 3): small kernels along a row, a column, and one alone."""
        count = kernel_size // SIDE
        start = (self.weight.shape[1] - count) // 2
        small = self.weight[:channels, start : start + count]
        row = small.transpose(1, 2).reshape(channels, 1, SIDE, kernel_size)
        column = small.reshape(channels, 1, kernel_size, SIDE)
        return [row, column, small[:, count // 2].unsqueeze(1)]

    def forward(self, x: Tensor, kernel_size: int) -> Tensor:
        channels = x.shape[1]
        return sum(
            norm(conv(x, kernel, self.stride, padding_of(kernel), groups=channels))
            for norm, kernel in zip(self.norms, self.kernels(channels, kernel_size), strict=True)
        )

    def export(self, channels: int, kernel_size: int) -> nn.Module:
        kernels = self.kernels(channels, kernel_size)
        return Shiftwise(
            [depthwise(kernel, self.stride) for kernel in kernels],
            [norm.export(channels) for norm in self.norms],
        )


class Shiftwise(nn.Module):
    """Row, column and middle, each with its norm, summed."""

    def __init__(self, convolutions: list[nn.Module], norms: list[nn.Module]):
        super().__init__()
        self.convolutions, self.norms = nn.ModuleList(convolutions), nn.ModuleList(norms)

    def forward(self, x: Tensor) -> Tensor:
        row, column, middle = (
            norm(convolution(x)) for convolution, norm in zip(self.convolutions, self.norms, strict=True)
        )
        return row + column + middle

    def merge(self) -> nn.Module:
        """Two convolutions; the middle goes into the row."""
        folded = [
            fold(convolution.weight, None, norm)
            for convolution, norm in zip(self.convolutions, self.norms, strict=True)
        ]
        (row, *_), (column, *_), (middle, *_) = folded
        start = (row.shape[-1] - SIDE) // 2
        row[..., start : start + SIDE] += middle
        stride = self.convolutions[0].stride
        return Bands(depthwise(row, stride, sum(bias for _, bias in folded)), depthwise(column, stride))


class Bands(nn.Module):
    """A 3×K and a K×3 convolution, summed."""

    def __init__(self, row: nn.Module, column: nn.Module):
        super().__init__()
        self.row, self.column = row, column

    def forward(self, x: Tensor) -> Tensor:
        return self.row(x) + self.column(x)

    def embed(self) -> nn.Module:
        """One convolution with a cross in its kernel."""
        row, column = self.row.weight, self.column.weight
        kernel_size = row.shape[-1]
        start = (kernel_size - SIDE) // 2
        cross = row.new_zeros(len(row), 1, kernel_size, kernel_size)
        cross[:, :, start : start + SIDE] = row
        cross[..., start : start + SIDE] += column
        return depthwise(cross, self.row.stride, self.row.bias)


def depthwise(kernel: Tensor, stride: int | tuple[int, ...], bias: Tensor | None = None) -> nn.Module:
    return convolution(kernel, stride, padding_of(kernel), groups=len(kernel), bias=bias)


def padding_of(kernel: Tensor) -> tuple[int, ...]:
    """That keeps the size at stride 1, for a kernel that need not be square."""
    return tuple(same_padding(side) for side in kernel.shape[2:])
