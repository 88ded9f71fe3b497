"""Nothing: the block then only mixes channels. With a stride it keeps every stride-th pixel.

Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉), (N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

from torch import Tensor, nn

from supernets.spatial import Subsample, every


class Operator(nn.Module):
    paper = "textbook"
    exactness = "nothing to slice"
    settings: dict[str, tuple] = {}
    dims = (1, 2)

    def __init__(self, channels: int, stride: int, dims: int = 2):
        super().__init__()
        self.stride = stride
        self.kept = every(stride, dims)

    def forward(self, x: Tensor) -> Tensor:
        return x[self.kept]

    def export(self, channels: int) -> nn.Module:
        return nn.Identity() if self.stride == 1 else Subsample(self.kept)
