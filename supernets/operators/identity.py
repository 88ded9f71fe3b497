"""Nothing: the block then only mixes channels. With a stride it keeps every stride-th pixel.

Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉).
"""

from __future__ import annotations

from torch import Tensor, nn


class Operator(nn.Module):
    settings: dict[str, tuple] = {}

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride]

    def export(self, channels: int) -> nn.Module:
        return nn.Identity() if self.stride == 1 else Subsample(self.stride)


class Subsample(nn.Module):
    """Every stride-th pixel."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride]
