"""MixPath: several depthwise convolutions at once, their outputs summed.

After Chu et al., "MixPath: A Unified Approach for One-Shot Neural Architecture Search", ICCV 2023, section 3:
every path has a kernel, a norm and an activation of its own, and any of them may be active together. The sum
of m paths has other statistics than one path, so the block keeps a last norm for each number of them
(Shadow BN). A path has its own weight, whatever stands beside it; only widths share, low channels first.
`linear` is ours: one activation after the sum and none before, so that the paths merge into one kernel.
Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉), (N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.branches import Reparameterized, Summed
from supernets.elastic import ACTIVATIONS, Norm
from supernets.slicing import same_padding
from supernets.spatial import conv, convolution


class Operator(nn.Module):
    paper = 'Chu et al., "MixPath", ICCV 2023'
    exactness = "exact; linear paths merge exactly into one kernel"
    settings = {
        "paths": ((3,), (5,), (7,), (3, 5), (3, 7), (5, 7), (3, 5, 7)),
        "linear": (False, True),
    }
    defaults = {"linear": (False,)}
    dims = (1, 2)
    normalized = True

    def __init__(
        self,
        channels: int,
        stride: int,
        paths: tuple[tuple[int, ...], ...],
        linear: tuple[bool, ...],
        dims: int = 2,
        activation: str = "relu",
    ):
        super().__init__()
        self.stride = stride
        sizes = sorted({size for together in paths for size in together})
        self.weights = nn.ParameterDict(
            {str(size): torch.empty(channels, 1, *[size] * dims) for size in sizes}
        )
        self.norms = nn.ModuleDict({str(size): Norm(channels, dims) for size in sizes})
        self.activation = ACTIVATIONS[activation]()
        for weight in self.weights.values():
            nn.init.kaiming_normal_(weight, nonlinearity="relu")

    @staticmethod
    def paths(paths: tuple[int, ...], linear: bool) -> int:
        """How many paths are active."""
        return len(paths)

    def active(self, channels: int, paths: tuple[int, ...]) -> list[tuple[Tensor, Norm]]:
        """The (C, 1, k, k) or (C, 1, k) weight of each path, with its norm."""
        return [(self.weights[str(size)][:channels], self.norms[str(size)]) for size in paths]

    def forward(self, x: Tensor, paths: tuple[int, ...], linear: bool) -> Tensor:
        channels = x.shape[1]
        total = 0
        for weight, norm in self.active(channels, paths):
            y = norm(conv(x, weight, self.stride, same_padding(weight.shape[-1]), groups=channels))
            total = total + (y if linear else self.activation(y))
        return self.activation(total) if linear else total

    def export(self, channels: int, paths: tuple[int, ...], linear: bool) -> nn.Module:
        rows = []
        for weight, norm in self.active(channels, paths):
            plain = convolution(weight, self.stride, same_padding(weight.shape[-1]), groups=channels)
            rows.append([plain, norm.export(channels)])
        activation = type(self.activation)
        if linear:
            return nn.Sequential(Reparameterized([nn.Sequential(*row) for row in rows]), activation())
        return Summed([nn.Sequential(*row, activation()) for row in rows])
