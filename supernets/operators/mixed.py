"""MixConv: depthwise convolution with a kernel size of its own for each group of channels.

After Tan and Le, "MixConv: Mixed Depthwise Convolutional Kernels", BMVC 2019, section 3.2. The channels are
split equally among the kernels, the remainder going to the first; or exponentially: the i-th group has
C·2⁻ⁱ of them, rounded down, and the last the rest. All choices share one depthwise weight, from which each
group takes the centre; the split follows the width in use, so a channel may meet different kernels in
different choices. Deployed, it is a convolution for each group, or one of the largest size with zeros around
the smaller kernels (`embed`): more arithmetic in fewer steps.
Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉), (N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from supernets.branches import SideBySide
from supernets.merging import enlarged
from supernets.slicing import center, equal, same_padding
from supernets.spatial import conv, convolution


class Operator(nn.Module):
    paper = 'Tan and Le, "MixConv: Mixed Depthwise Convolutional Kernels", BMVC 2019'
    exactness = "exact slice; its groups embed exactly into one kernel"
    settings = {"kernels": ((3, 5), (3, 5, 7), (3, 5, 7, 9)), "split": ("equal", "exponential")}
    defaults = {"split": ("equal",)}
    dims = (1, 2)
    shareable = True

    # `split` may be missing: what was stored before there was a choice is split equally
    def __init__(
        self,
        channels: int,
        stride: int,
        kernels: tuple[tuple[int, ...], ...],
        split: tuple[str, ...] = ("equal",),
        dims: int = 2,
    ):
        super().__init__()
        self.stride = stride
        largest = max(max(sizes) for sizes in kernels)
        self.weight = nn.Parameter(torch.empty(channels, 1, *[largest] * dims))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def kernels_of(self, channels: int, kernels: tuple[int, ...], split: str) -> Iterator[tuple[int, Tensor]]:
        """(kernel size, (c, 1, k, k) or (c, 1, k) weight) of each group of channels, in order."""
        start = 0
        for kernel_size, size in zip(kernels, SPLITS[split](channels, len(kernels)), strict=True):
            if size:
                yield kernel_size, center(self.weight[start : start + size], kernel_size)
            start += size

    def forward(self, x: Tensor, kernels: tuple[int, ...], split: str = "equal") -> Tensor:
        groups = list(self.kernels_of(x.shape[1], kernels, split))
        parts = x.split([len(weight) for _, weight in groups], dim=1)
        mixed = [
            conv(part, weight, self.stride, same_padding(kernel_size), groups=len(weight))
            for part, (kernel_size, weight) in zip(parts, groups, strict=True)
        ]
        return torch.cat(mixed, dim=1)

    def export(self, channels: int, kernels: tuple[int, ...], split: str = "equal") -> nn.Module:
        groups = [
            convolution(weight, self.stride, same_padding(kernel_size), groups=len(weight))
            for kernel_size, weight in self.kernels_of(channels, kernels, split)
        ]
        sizes = [one.in_channels for one in groups]
        return Mixed(sizes, groups) if len(groups) > 1 else groups[0]


class Mixed(SideBySide):
    """Depthwise convolutions side by side, each on its own channels."""

    def embed(self) -> nn.Module:
        """One convolution of the largest size that computes the same."""
        kernel_size = max(one.kernel_size[0] for one in self.layers)
        weight = torch.cat([enlarged(one.weight, kernel_size) for one in self.layers])
        stride = self.layers[0].stride
        return convolution(weight, stride, same_padding(kernel_size), groups=len(weight))


def exponential(channels: int, groups: int) -> list[int]:
    """A half of the channels, a quarter and so on, rounded down; the rest to the last."""
    shares = [channels // 2**number for number in range(1, groups)]
    return [*shares, channels - sum(shares)]


SPLITS = {"equal": equal, "exponential": exponential}
