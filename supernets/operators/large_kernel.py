"""RepLKNet: a large depthwise kernel, trained with a small one beside it.

After Ding et al., "Scaling Up Your Kernels to 31x31: Revisiting Large Kernel Design in CNNs", CVPR 2022,
guideline 3: y = BN(K×K(x)) + BN(k×k(x)), with nothing between the norms and the sum, so that a deployed network
has one K×K convolution with bias. All large kernels are the centre of the largest, all small ones likewise;
each branch has one norm for all its sizes. What a kernel has beyond twice the map meets only padding, and is not
computed in training.
Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉), (N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.branches import Reparameterized
from supernets.elastic import Norm
from supernets.slicing import center, same_padding
from supernets.spatial import conv, convolution


class Operator(nn.Module):
    paper = 'Ding et al., "Scaling Up Your Kernels to 31x31", CVPR 2022'
    exactness = "branches merge exactly into one K×K kernel"
    settings = {"kernel_size": (7, 13, 21, 31), "small_kernel": (3, 5)}
    defaults = {"kernel_size": (13, 21, 31), "small_kernel": (5,)}
    dims = (1, 2)

    def __init__(
        self,
        channels: int,
        stride: int,
        kernel_size: tuple[int, ...],
        small_kernel: tuple[int, ...],
        dims: int = 2,
    ):
        super().__init__()
        self.stride = stride
        self.large = nn.Parameter(torch.empty(channels, 1, *[max(kernel_size)] * dims))
        self.small = nn.Parameter(torch.empty(channels, 1, *[max(small_kernel)] * dims))
        self.large_norm, self.small_norm = Norm(channels, dims), Norm(channels, dims)
        for weight in (self.large, self.small):
            nn.init.kaiming_normal_(weight, nonlinearity="relu")

    def branches(self, channels: int, kernel_size: int, small_kernel: int) -> list[tuple[Tensor, Norm]]:
        """The (C, 1, k, k) or (C, 1, k) weight of each branch, with its norm."""
        return [
            (center(self.large[:channels], kernel_size), self.large_norm),
            (center(self.small[:channels], small_kernel), self.small_norm),
        ]

    def forward(self, x: Tensor, kernel_size: int, small_kernel: int) -> Tensor:
        channels = x.shape[1]
        total = 0
        for weight, norm in self.branches(channels, kernel_size, small_kernel):
            weight = within_reach(weight, x.shape[2:])
            padding = tuple(same_padding(size) for size in weight.shape[2:])
            total = total + norm(conv(x, weight, self.stride, padding, groups=channels))
        return total

    def export(self, channels: int, kernel_size: int, small_kernel: int) -> nn.Module:
        return Reparameterized(
            [
                nn.Sequential(
                    convolution(weight, self.stride, same_padding(weight.shape[-1]), groups=channels),
                    norm.export(channels),
                )
                for weight, norm in self.branches(channels, kernel_size, small_kernel)
            ]
        )


def within_reach(weight: Tensor, size: torch.Size) -> Tensor:
    """The middle of a kernel that can meet an image of this size; the rest meets only its padding."""
    for dimension, side in enumerate(size, start=2):
        whole = weight.shape[dimension]
        part = min(whole, 2 * side - 1)
        weight = weight.narrow(dimension, (whole - part) // 2, part)
    return weight
