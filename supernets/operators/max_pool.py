"""Max pooling: no parameters, so nothing to share and nothing to slice.

As a layer that mixes space without weights: Han et al., "Learning Features with Parameter-Free Layers"
(PfLayer), ICLR 2022. Padding is minus infinity. Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉),
(N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from supernets.spatial import MAX_POOLS


class Operator(nn.Module):
    paper = 'Han et al., "Learning Features with Parameter-Free Layers" (PfLayer), ICLR 2022'
    exactness = "nothing to slice"
    settings = {"kernel_size": (3, 5)}
    dims = (1, 2)

    def __init__(self, channels: int, stride: int, kernel_size: tuple[int, ...], dims: int = 2):
        super().__init__()
        self.stride, self.dims = stride, dims

    def forward(self, x: Tensor, kernel_size: int) -> Tensor:
        pool = F.max_pool2d if x.ndim == 4 else F.max_pool1d
        return pool(x, kernel_size, self.stride, kernel_size // 2)

    def export(self, channels: int, kernel_size: int) -> nn.Module:
        return MAX_POOLS[self.dims](kernel_size, self.stride, kernel_size // 2)
