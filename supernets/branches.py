"""Layers side by side, as exported networks have them: on channels of their own, or on one input and added."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.merging import enlarged, fold
from supernets.slicing import same_padding
from supernets.spatial import convolution


class SideBySide(nn.Module):
    """Layers on so many channels each, their outputs concatenated."""

    def __init__(self, sizes: list[int], layers: list[nn.Module]):
        super().__init__()
        self.sizes, self.layers = sizes, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.sizes, dim=1)
        return torch.cat([layer(parts[number]) for number, layer in enumerate(self.layers)], dim=1)


class Summed(nn.Module):
    """Modules side by side, their outputs added."""

    def __init__(self, branches: list[nn.Module]):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        total = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return total


class Reparameterized(Summed):
    """Depthwise convolutions of one stride, each with its norm and nothing after it: in truth one convolution.

    Each branch is a row (convolution without bias, batch norm) with padding for the same size.
    """

    def merge(self) -> nn.Module:
        """Every norm folded, every kernel enlarged to the largest, kernels and biases added."""
        first = self.branches[0][0]
        kernel_size = max(_extent(one) for one, _ in self.branches)
        weight, bias = 0, 0
        for one, norm in self.branches:
            scaled, shift = fold(one.weight.double(), None, norm)
            weight, bias = weight + enlarged(scaled, kernel_size, one.dilation[0]), bias + shift
        weight, bias = weight.to(first.weight.dtype), bias.to(first.weight.dtype)
        return convolution(weight, first.stride, same_padding(kernel_size), groups=first.groups, bias=bias)


def _extent(convolution: nn.Module) -> int:
    """How far the taps of a dilated kernel reach: r(k − 1) + 1."""
    return convolution.dilation[0] * (convolution.kernel_size[0] - 1) + 1
