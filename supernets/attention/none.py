"""No attention."""

from __future__ import annotations

from torch import Tensor, nn


class Attention(nn.Module):
    paper = "textbook"
    exactness = "nothing to slice"
    dims = (1, 2)

    def __init__(self, channels: int, dims: int = 2):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x

    def export(self, channels: int) -> nn.Module:
        return nn.Identity()
