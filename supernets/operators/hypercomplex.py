"""Hypercomplex convolution: a dense kernel, a sum of n Kronecker products, from 1/n of the weights.

Zhang et al., "Beyond Fully-Connected Layers with Quaternions: Parameterization of Hypercomplex
Multiplications with 1/n Parameters", ICLR 2021; for convolutions, Grassucci et al., "PHNNs: Lightweight
Neural Networks via Parameterized Hypercomplex Convolutions", 2022. Of n matrices Aᵢ (n, n) and n small
kernels Fᵢ (C/n, C/n, k, k) the weight is Σ Fᵢ ⊗ Aᵢ. The papers write Aᵢ ⊗ Fᵢ, the same with the channels in
another order; in this one a narrow weight is the low channels of a wide one. A width that n does not divide
takes them of the next that it does. Where both n are offered they share the low indices of one bank, as large
as the smaller n needs and as many as the larger: what is stored is then no less than a dense weight, what
either learns is.

What is saved is weights to train, about C²k²/n for C²k². Deployed it is a plain dense convolution, the sum
multiplied out: its MACs and parameters are those of `dense`, and so counted.
Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉), (N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.elastic import NOISE
from supernets.slicing import same_padding
from supernets.spatial import conv, convolution


class Operator(nn.Module):
    paper = 'Zhang et al., "Beyond Fully-Connected Layers with Quaternions", ICLR 2021'
    exactness = "Kronecker products sum exactly to one dense kernel"
    settings = {"kernel_size": (3,), "n": (2, 4)}
    dims = (1, 2)
    shareable = True

    def __init__(
        self, channels: int, stride: int, kernel_size: tuple[int, ...], n: tuple[int, ...], dims: int = 2
    ):
        super().__init__()
        self.stride = stride
        self.taps = [max(kernel_size)] * dims
        most, small, taps = max(n), -(-channels // min(n)), max(kernel_size) ** dims
        self.algebra = nn.Parameter(torch.empty(most, most, most))
        self.kernels = nn.Parameter(torch.empty(most, small, small, taps))
        # products of the largest n have the variance of a dense kernel's weights: n · 1/n · 2/(C·k²)
        nn.init.normal_(self.algebra, std=most**-0.5)
        nn.init.normal_(self.kernels, std=(2 / (channels * taps)) ** 0.5)

    @torch.no_grad()
    def start_near_identity(self) -> None:
        """The first product is the identity."""
        small, middle = range(self.kernels.shape[1]), self.kernels.shape[3] // 2
        self.algebra.mul_(NOISE)
        self.algebra[0] += torch.eye(len(self.algebra), device=self.algebra.device)
        self.kernels.mul_(NOISE)
        self.kernels[0, small, small, middle] += 1

    def kernel(self, channels: int, n: int) -> Tensor:
        """The (C, C, k, k) or (C, C, k) weight of one choice."""
        small = -(-channels // n)
        algebra, kernels = self.algebra[:n, :n, :n], self.kernels[:n, :small, :small]
        products = torch.einsum("iac,ibdt->badct", algebra, kernels).flatten(2, 3).flatten(0, 1)
        return products[:channels, :channels].unflatten(2, self.taps)

    def forward(self, x: Tensor, kernel_size: int, n: int) -> Tensor:
        return conv(x, self.kernel(x.shape[1], n), self.stride, same_padding(kernel_size))

    def export(self, channels: int, kernel_size: int, n: int) -> nn.Module:
        return convolution(self.kernel(channels, n), self.stride, same_padding(kernel_size))
