"""Squeeze-and-excitation: each channel scaled by what all channels hold on average.

Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, equations 2 to 4, with a quarter of the channels
in the middle and the hard sigmoid of MobileNetV3. Widths share the low channels, in the middle too.
Shapes: (N, C, H, W) or (N, C, L) to the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.slicing import first, leading
from supernets.spatial import GLOBAL_POOLS, conv, convolution, mean


class Attention(nn.Module):
    paper = 'Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018'
    exactness = "exact slice"
    dims = (1, 2)

    def __init__(self, channels: int, dims: int = 2):
        super().__init__()
        self.dims = dims
        middle = squeezed(channels)
        self.squeeze = nn.Parameter(torch.empty(middle, channels, *[1] * dims))
        self.squeeze_bias = nn.Parameter(torch.zeros(middle))
        self.excite = nn.Parameter(torch.empty(channels, middle, *[1] * dims))
        self.excite_bias = nn.Parameter(torch.zeros(channels))
        nn.init.kaiming_normal_(self.squeeze, nonlinearity="relu")
        nn.init.kaiming_normal_(self.excite, nonlinearity="linear")

    def weights(self, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Squeeze weight (M, C, 1, 1) and bias (M,), excite weight (C, M, 1, 1) and bias (C,)."""
        middle = squeezed(channels)
        squeeze, excite = leading(self.squeeze, middle, channels), leading(self.excite, channels, middle)
        return squeeze, first(self.squeeze_bias, middle), excite, first(self.excite_bias, channels)

    def forward(self, x: Tensor) -> Tensor:
        squeeze, squeeze_bias, excite, excite_bias = self.weights(x.shape[1])
        middle = F.relu(conv(mean(x, keepdim=True), squeeze, bias=squeeze_bias))
        return x * F.hardsigmoid(conv(middle, excite, bias=excite_bias))

    def export(self, channels: int) -> nn.Module:
        squeeze, squeeze_bias, excite, excite_bias = self.weights(channels)
        return SqueezeExcite(
            GLOBAL_POOLS[self.dims](1),
            convolution(squeeze, bias=squeeze_bias),
            convolution(excite, bias=excite_bias),
        )


class SqueezeExcite(nn.Module):
    def __init__(self, pool: nn.Module, squeeze: nn.Module, excite: nn.Module):
        super().__init__()
        self.gate = nn.Sequential(pool, squeeze, nn.ReLU(), excite, nn.Hardsigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def squeezed(channels: int) -> int:
    """How many channels are in the middle."""
    return max(4, channels // 4)
