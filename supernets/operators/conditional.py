"""CondConv: a depthwise convolution whose kernel each image mixes from several experts.

After Yang, Bender, Le and Ngiam, "CondConv: Conditionally Parameterized Convolutions for Efficient Inference",
NeurIPS 2019, section 3: W = Σ α_i W_i with α = sigmoid(Linear(mean(x))). Here every expert convolves and the
results are mixed, which by linearity is the same, for batches of any size and in ONNX too. It costs as
many times the MACs of one depthwise convolution as there are experts; mixing the kernels first would cost one,
but a different one for each image. The 1×1 convolutions around, where most MACs are, stay as they are.

Fewer experts are the first of more, and widths share the low channels of kernels and routing.
Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉), (N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.slicing import center, leading, same_padding
from supernets.spatial import GLOBAL_POOLS, conv, convolution, mean


class Operator(nn.Module):
    paper = 'Yang et al., "CondConv", NeurIPS 2019'
    exactness = "exact slice; mixed anew for each image"
    settings = {"experts": (2, 4), "kernel_size": (3,)}
    dims = (1, 2)
    shareable = True
    experimental = True

    def __init__(
        self,
        channels: int,
        stride: int,
        experts: tuple[int, ...],
        kernel_size: tuple[int, ...],
        dims: int = 2,
    ):
        super().__init__()
        self.stride, self.dims = stride, dims
        largest = max(kernel_size)
        self.weight = nn.Parameter(torch.empty(channels, max(experts), *[largest] * dims))
        self.routing = nn.Parameter(torch.empty(max(experts), channels, *[1] * dims))
        self.routing_bias = nn.Parameter(torch.zeros(max(experts)))
        nn.init.normal_(self.weight, std=(2 / largest**dims) ** 0.5)
        nn.init.kaiming_normal_(self.routing, nonlinearity="linear")

    def parts(self, channels: int, experts: int, kernel_size: int) -> tuple[list[Tensor], Tensor, Tensor]:
        """(C, 1, k, k) weight of each expert, routing weight (E, C, 1, 1) and bias (E,)."""
        kernels = center(self.weight[:channels, :experts], kernel_size).split(1, dim=1)
        return list(kernels), leading(self.routing, experts, channels), self.routing_bias[:experts]

    def forward(self, x: Tensor, experts: int, kernel_size: int) -> Tensor:
        channels, padding = x.shape[1], same_padding(kernel_size)
        kernels, routing, bias = self.parts(channels, experts, kernel_size)
        shares = conv(mean(x, keepdim=True), routing, bias=bias).sigmoid().split(1, dim=1)
        return sum(
            share * conv(x, kernel, self.stride, padding, groups=channels)
            for share, kernel in zip(shares, kernels, strict=True)
        )

    def export(self, channels: int, experts: int, kernel_size: int) -> nn.Module:
        padding = same_padding(kernel_size)
        kernels, routing, bias = self.parts(channels, experts, kernel_size)
        return Conditional(
            nn.Sequential(GLOBAL_POOLS[self.dims](1), convolution(routing, bias=bias), nn.Sigmoid()),
            [convolution(kernel, self.stride, padding, groups=channels) for kernel in kernels],
        )


class Conditional(nn.Module):
    """Convolutions of which each image takes its own sum."""

    def __init__(self, route: nn.Module, experts: list[nn.Module]):
        super().__init__()
        self.route, self.experts = route, nn.ModuleList(experts)

    def forward(self, x: Tensor) -> Tensor:
        shares = torch.split(self.route(x), 1, dim=1)
        mixed = shares[0] * self.experts[0](x)
        for number in range(1, len(self.experts)):
            mixed = mixed + shares[number] * self.experts[number](x)
        return mixed
