"""UniRepLKNet: a large depthwise kernel, trained with small dilated ones beside it.

After Ding et al., "UniRepLKNet: A Universal Perception Large-Kernel ConvNet", CVPR 2024, the dilated
re-parameterisation block, its branches as in the published code: y = BN(K×K(x)) + Σ BN(k×k with dilation r(x)),
with nothing between the norms and the sum. A dilated kernel is one of size r(k − 1) + 1 with zeros between its
taps, so a deployed network has one K×K convolution with bias. The rows of the table are not nested, but at
each dilation a smaller K never has a larger kernel. So there is one weight and one norm for each dilation, of
which a K takes the centre that its row asks for, as it does of the K×K weight: every K is the paper's block.
Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉), (N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.branches import Reparameterized
from supernets.elastic import Norm
from supernets.slicing import center, same_padding
from supernets.spatial import conv, convolution

BRANCHES: dict[int, dict[int, int]] = {  # for each K, the kernel size at each dilation
    5: {1: 3, 2: 3},
    7: {1: 5, 2: 3, 3: 3},
    9: {1: 5, 2: 5, 3: 3, 4: 3},
    11: {1: 5, 2: 5, 3: 3, 4: 3, 5: 3},
    13: {1: 5, 2: 7, 3: 3, 4: 3, 5: 3},
}


class Operator(nn.Module):
    paper = 'Ding et al., "UniRepLKNet", CVPR 2024'
    exactness = "branches merge exactly into one K×K kernel"
    settings = {"kernel_size": tuple(BRANCHES)}
    defaults = {"kernel_size": (7, 9, 13)}
    dims = (1, 2)

    def __init__(self, channels: int, stride: int, kernel_size: tuple[int, ...], dims: int = 2):
        super().__init__()
        self.stride = stride
        largest: dict[int, int] = {}
        for size in kernel_size:
            for dilation, small in BRANCHES[size].items():
                largest[dilation] = max(small, largest.get(dilation, 0))
        self.weight = nn.Parameter(torch.empty(channels, 1, *[max(kernel_size)] * dims))
        self.norm = Norm(channels, dims)
        self.dilated = nn.ParameterDict(
            {str(dilation): torch.empty(channels, 1, *[size] * dims) for dilation, size in largest.items()}
        )
        self.dilated_norms = nn.ModuleDict({dilation: Norm(channels, dims) for dilation in self.dilated})
        for weight in (self.weight, *self.dilated.values()):
            nn.init.kaiming_normal_(weight, nonlinearity="relu")

    def branches(self, channels: int, kernel_size: int) -> list[tuple[Tensor, int, Norm]]:
        """(weight (C, 1, k, k) or (C, 1, k), dilation, norm) of each branch, the large kernel first."""
        rows = [(center(self.weight[:channels], kernel_size), 1, self.norm)]
        for dilation, size in BRANCHES[kernel_size].items():
            weight = center(self.dilated[str(dilation)][:channels], size)
            rows.append((weight, dilation, self.dilated_norms[str(dilation)]))
        return rows

    def forward(self, x: Tensor, kernel_size: int) -> Tensor:
        channels = x.shape[1]
        total = 0
        for weight, dilation, norm in self.branches(channels, kernel_size):
            padding = same_padding(weight.shape[-1], dilation)
            total = total + norm(conv(x, weight, self.stride, padding, dilation, groups=channels))
        return total

    def export(self, channels: int, kernel_size: int) -> nn.Module:
        rows = []
        for weight, dilation, norm in self.branches(channels, kernel_size):
            padding = same_padding(weight.shape[-1], dilation)
            plain = convolution(weight, self.stride, padding, dilation, groups=channels)
            rows.append(nn.Sequential(plain, norm.export(channels)))
        return Reparameterized(rows)
