"""Average pooling: no parameters. The padding does not count towards the mean.

Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉),
(N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from supernets.spatial import AVERAGE_POOLS


class Operator(nn.Module):
    paper = "textbook"
    exactness = "nothing to slice"
    settings = {"kernel_size": (3, 5)}
    dims = (1, 2)

    def __init__(self, channels: int, stride: int, kernel_size: tuple[int, ...], dims: int = 2):
        super().__init__()
        self.stride, self.dims = stride, dims

    def forward(self, x: Tensor, kernel_size: int) -> Tensor:
        pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool1d
        return pool(x, kernel_size, self.stride, kernel_size // 2, count_include_pad=False)

    def export(self, channels: int, kernel_size: int) -> nn.Module:
        return AVERAGE_POOLS[self.dims](kernel_size, self.stride, kernel_size // 2, count_include_pad=False)
