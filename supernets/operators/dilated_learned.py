"""DCLS: depthwise convolution with few taps, whose positions are learned.

After Khalfaoui-Hassani, Pellegrini and Masquelier, "Dilated Convolution with Learnable Spacings", ICLR 2023,
section 3: each of `count` taps has a weight and a position, a real number along each dimension, counted from the
centre of an extent×extent kernel. A tap between grid points is shared among its neighbours linearly, so its
position has a gradient. At a grid point, where the derivative from the left is another, the one from the right
is taken (at the last point the one from the left); so no tap ever stands still, not even where it was clamped.
The later Gaussian construction is smooth instead, but on the grid it is no dilated convolution: each tap
leaks into its neighbours, and none of the kernel stays zero.

All extents share weights and positions, a position beyond an extent standing at its edge and learning nothing
there; fewer taps are the first of more. Exported is the kernel as it is then, a plain extent×extent
convolution; what no tap reaches around it is cut when it is deployed (`supernets.merging.trimmed`).
Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉), (N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.slicing import same_padding
from supernets.spatial import conv, convolution


class Operator(nn.Module):
    paper = 'Khalfaoui-Hassani et al., "Dilated Convolution with Learnable Spacings", ICLR 2023'
    exactness = "frozen into one dense kernel"
    settings = {"extent": (9, 17), "count": (9,)}
    dims = (1, 2)
    shareable = True
    experimental = True
    rates = {"positions": 5.0}

    def __init__(
        self, channels: int, stride: int, extent: tuple[int, ...], count: tuple[int, ...], dims: int = 2
    ):
        super().__init__()
        self.stride = stride
        self.reach = max(extent) // 2
        self.weight = nn.Parameter(torch.empty(channels, max(count)))
        self.positions = nn.Parameter(torch.empty(channels, max(count), dims))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        nn.init.normal_(self.positions, std=0.5)

    def constrain(self) -> None:
        """Bring back the taps that left the largest extent."""
        self.positions.clamp_(-self.reach, self.reach)

    def kernel(self, channels: int, extent: int, count: int) -> Tensor:
        """The dense (C, 1, k, k) or (C, 1, k) weight of one choice."""
        # (C, n, 1), then once per dimension: (C, n, k), (C, n, k, k)
        taps = self.weight[:channels, :count].unsqueeze(-1)
        shares = shared(self.positions[:channels, :count], extent)
        first, *others = shares.unbind(2)
        taps = taps * first
        for along in others:
            taps = taps.unsqueeze(-1) * along.unsqueeze(2)
        return taps.sum(1, keepdim=True)

    def forward(self, x: Tensor, extent: int, count: int) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel(channels, extent, count)
        return conv(x, kernel, self.stride, same_padding(extent), groups=channels)

    def export(self, channels: int, extent: int, count: int) -> nn.Module:
        kernel = self.kernel(channels, extent, count)
        return convolution(kernel, self.stride, same_padding(extent), groups=channels)


def shared(positions: Tensor, extent: int) -> Tensor:
    """How much of a tap each of the `extent` grid points gets: (...) to (..., extent), which add up to 1."""
    reach = extent // 2
    grid = torch.arange(-reach, reach + 1, device=positions.device, dtype=positions.dtype)
    position = positions.clamp(-reach, reach).unsqueeze(-1)
    left = position.detach().floor().clamp(max=reach - 1)
    beyond = position - left
    return (grid == left) * (1 - beyond) + (grid == left + 1) * beyond
