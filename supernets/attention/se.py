"""Squeeze-and-excitation: each channel scaled by what all channels hold on average.

Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, equations 2 to 4, with a quarter of the channels
in the middle and the hard sigmoid of MobileNetV3. Widths share the low channels, in the middle too.
Shapes: (N, C, H, W) to the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.elastic import copied
from supernets.slicing import leading


class Attention(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        middle = squeezed(channels)
        self.squeeze = nn.Parameter(torch.empty(middle, channels, 1, 1))
        self.squeeze_bias = nn.Parameter(torch.zeros(middle))
        self.excite = nn.Parameter(torch.empty(channels, middle, 1, 1))
        self.excite_bias = nn.Parameter(torch.zeros(channels))
        nn.init.kaiming_normal_(self.squeeze, nonlinearity="relu")
        nn.init.kaiming_normal_(self.excite, nonlinearity="linear")

    def weights(self, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Squeeze weight (M, C, 1, 1) and bias (M,), excite weight (C, M, 1, 1) and bias (C,)."""
        middle = squeezed(channels)
        squeeze, excite = leading(self.squeeze, middle, channels), leading(self.excite, channels, middle)
        return squeeze, self.squeeze_bias[:middle], excite, self.excite_bias[:channels]

    def forward(self, x: Tensor) -> Tensor:
        squeeze, squeeze_bias, excite, excite_bias = self.weights(x.shape[1])
        middle = F.relu(F.conv2d(x.mean((2, 3), keepdim=True), squeeze, squeeze_bias))
        return x * F.hardsigmoid(F.conv2d(middle, excite, excite_bias))

    def export(self, channels: int) -> nn.Module:
        squeeze, squeeze_bias, excite, excite_bias = self.weights(channels)
        return SqueezeExcite(
            copied(nn.Conv2d(channels, len(squeeze), 1), weight=squeeze, bias=squeeze_bias),
            copied(nn.Conv2d(len(squeeze), channels, 1), weight=excite, bias=excite_bias),
        )


class SqueezeExcite(nn.Module):
    def __init__(self, squeeze: nn.Conv2d, excite: nn.Conv2d):
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), squeeze, nn.ReLU(), excite, nn.Hardsigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def squeezed(channels: int) -> int:
    """How many channels are in the middle."""
    return max(4, channels // 4)
