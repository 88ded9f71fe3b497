"""Max pooling: no parameters, so nothing to share and nothing to slice.

As a layer that mixes space without weights: Kim et al., "Understanding the Parameter-Free Operations"
(PfLayer). Padding is minus infinity. Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉).
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
        return F.max_pool2d(x, kernel_size, self.stride, kernel_size // 2)

    def export(self, channels: int, kernel_size: int) -> nn.Module:
        return nn.MaxPool2d(kernel_size, self.stride, kernel_size // 2)
