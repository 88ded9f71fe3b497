"""Efficient local attention: each row and each column of every channel scaled by what is around it.

Xu and Wan, "ELA: Efficient Local Attention for Deep Convolutional Neural Networks", arXiv 2024: the means of
the rows and those of the columns go through the same depthwise 1-D convolution of size 7 without bias, group
norm and sigmoid, and both scale the image. A signal has one axis and needs no mean. The groups are the
largest divisor of the channels in use up to 16, so that any width has some (a prime one above 16 a single
group); they are not nested, but widths share the low channels of all weights.
Shapes: (N, C, H, W) or (N, C, L) to the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from supernets.slicing import copied, same_padding
from supernets.spatial import conv, convolution

KERNEL_SIZE, MOST_GROUPS = 7, 16


class Attention(nn.Module):
    paper = 'Xu and Wan, "ELA: Efficient Local Attention for Deep CNNs", arXiv 2024'
    exactness = "exact slice"
    dims = (1, 2)

    def __init__(self, channels: int, dims: int = 2):
        super().__init__()
        self.along = nn.Parameter(torch.empty(channels, 1, KERNEL_SIZE, *[1] * (dims - 1)))
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.padding = (same_padding(KERNEL_SIZE), *[0] * (dims - 1))
        nn.init.kaiming_normal_(self.along, nonlinearity="linear")

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        along, weight, bias = (one[:channels] for one in (self.along, self.weight, self.bias))

        def gate(line: Tensor) -> Tensor:
            line = conv(line, along, padding=self.padding, groups=channels)
            return torch.group_norm(line, groups(channels), weight, bias).sigmoid()

        return scaled(x, gate, len(self.padding))

    def export(self, channels: int) -> nn.Module:
        along = convolution(self.along[:channels], padding=self.padding, groups=channels)
        plain = nn.GroupNorm(groups(channels), channels, device=self.weight.device, dtype=self.weight.dtype)
        norm = copied(plain, weight=self.weight[:channels], bias=self.bias[:channels])
        return EfficientLocal(along, norm, len(self.padding))


class EfficientLocal(nn.Module):
    def __init__(self, along: nn.Module, norm: nn.GroupNorm, dims: int):
        super().__init__()
        self.along, self.norm, self.dims = along, norm, dims

    def forward(self, x: Tensor) -> Tensor:
        return scaled(x, self.gate, self.dims)

    def gate(self, line: Tensor) -> Tensor:
        # the module itself refuses a line of one pixel of one image, with one channel in a group
        norm = self.norm
        return torch.group_norm(self.along(line), norm.num_groups, norm.weight, norm.bias, norm.eps).sigmoid()


def scaled(x: Tensor, gate: Callable[[Tensor], Tensor], dims: int) -> Tensor:
    """An image times the gate of its rows' means and that of its columns', a signal times its own."""
    if dims == 1:
        return x * gate(x)
    rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)
    return x * gate(rows) * gate(columns).transpose(2, 3)


def groups(channels: int) -> int:
    return max(number for number in range(1, MOST_GROUPS + 1) if channels % number == 0)
