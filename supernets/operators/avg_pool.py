"""Average pooling: no parameters. The padding does not count towards the mean.

Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Operator(nn.Module):
    settings = {"kernel_size": (3, 5)}

    def __init__(self, channels: int, stride: int, kernel_size: tuple[int, ...]):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, kernel_size: int) -> Tensor:
        return F.avg_pool2d(x, kernel_size, self.stride, kernel_size // 2, count_include_pad=False)

    def export(self, channels: int, kernel_size: int) -> nn.Module:
        return nn.AvgPool2d(kernel_size, self.stride, kernel_size // 2, count_include_pad=False)
