"""LSConv: a large kernel looks around, and says to each pixel which small kernel to gather with.

After Wang et al., "LSNet: See Large, Focus Small", CVPR 2025, section 3. Seeing: 1×1 to half the channels,
7×7 depthwise, 1×1, each with a norm, then 1×1 to nine numbers per pixel for each of G = ⌈C/8⌉ groups, normalised
within a group (group norm). Gathering: channel c of a pixel is the sum of its 3×3 neighbours, weighted by the
nine numbers of group c mod G. With a norm, that is added to the input; at stride 2 to every other pixel of
it. Neighbours are slices of the padded input, multiplied and added, so nothing nine times as large is kept in
inference; the paper's speed comes from a kernel of its own on GPUs, and is not to be expected here. Counted
as MACs are the convolutions alone: gathering multiplies nine times more per channel and pixel.

Narrow choices take the low channels, half channels and groups of every weight; the groups follow the width in
use, so a channel may meet another group's kernels. Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.elastic import ACTIVATIONS, Norm, Pointwise
from supernets.slicing import copied, same_padding
from supernets.spatial import conv, convolution

SEEN, SIDE, SHARING = 7, 3, 8  # large kernel, small kernel, channels that share one
TAPS = SIDE * SIDE


class Operator(nn.Module):
    paper = 'Wang et al., "LSNet: See Large, Focus Small", CVPR 2025'
    exactness = "exact slice; kernels anew for each pixel"
    settings: dict[str, tuple] = {}
    normalized = True
    experimental = True

    def __init__(self, channels: int, stride: int, activation: str = "relu"):
        super().__init__()
        self.stride = stride
        half, groups = halved(channels), groups_of(channels)
        self.reduce, self.reduce_norm = Pointwise(channels, half), Norm(half)
        self.see = nn.Parameter(torch.empty(half, 1, SEEN, SEEN))
        self.see_norm = Norm(half)
        self.mix, self.mix_norm = Pointwise(half, half), Norm(half)
        self.tell = Pointwise(half, groups * TAPS)
        self.scale = nn.Parameter(torch.ones(groups * TAPS))
        self.shift = nn.Parameter(torch.zeros(groups * TAPS))
        self.norm = Norm(channels)
        self.activation = ACTIVATIONS[activation]()
        nn.init.kaiming_normal_(self.see, nonlinearity="linear")

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        half, groups = halved(channels), groups_of(channels)
        y = self.activation(self.reduce_norm(self.reduce(x, half)))
        y = self.see_norm(conv(y, self.see[:half], self.stride, same_padding(SEEN), groups=half))
        y = self.tell(self.activation(self.mix_norm(self.mix(y, half))), groups * TAPS)
        kernels = F.group_norm(y, groups, self.scale[: groups * TAPS], self.shift[: groups * TAPS])
        return x[:, :, :: self.stride, :: self.stride] + self.norm(
            gathered(x, kernels, self.stride, channels)
        )

    def export(self, channels: int) -> nn.Module:
        half, groups = halved(channels), groups_of(channels)
        norm = nn.GroupNorm(groups, groups * TAPS, device=self.scale.device, dtype=self.scale.dtype)
        look = nn.Sequential(
            self.reduce.export(channels, half),
            self.reduce_norm.export(half),
            type(self.activation)(),
            convolution(self.see[:half], self.stride, same_padding(SEEN), groups=half),
            self.see_norm.export(half),
            self.mix.export(half, half),
            self.mix_norm.export(half),
            type(self.activation)(),
            self.tell.export(half, groups * TAPS),
            copied(norm, weight=self.scale[: groups * TAPS], bias=self.shift[: groups * TAPS]),
        )
        return LargeSmall(look, self.norm.export(channels), self.stride, channels)


class LargeSmall(nn.Module):
    """The plain layers that make the kernels, and what gathers with them."""

    def __init__(self, look: nn.Module, norm: nn.Module, stride: int, channels: int):
        super().__init__()
        self.look, self.norm, self.stride, self.channels = look, norm, stride, channels

    def forward(self, x: Tensor) -> Tensor:
        near = gathered(x, self.look(x), self.stride, self.channels)
        return x[:, :, :: self.stride, :: self.stride] + self.norm(near)


def gathered(x: Tensor, kernels: Tensor, stride: int, channels: int) -> Tensor:
    """Each pixel's neighbours, weighted by its own (N, G·9, ⌈H/s⌉, ⌈W/s⌉) kernels, tap by tap within a group."""
    padded = F.pad(x, (SIDE // 2,) * 4)
    repeats = -(-channels // groups_of(channels))
    total = None
    for tap in range(TAPS):
        row, column = divmod(tap, SIDE)
        weight = torch.cat([kernels[:, tap::TAPS]] * repeats, dim=1)[:, :channels]
        part = weight * padded[:, :, rest(row, stride), rest(column, stride)]
        total = part if total is None else total + part
    return total


def rest(start: int, stride: int) -> slice:
    """What a small kernel's tap sees of a padded side."""
    return slice(start, start - SIDE + 1 or None, stride)


def halved(channels: int) -> int:
    return -(-channels // 2)


def groups_of(channels: int) -> int:
    """How many kernels a pixel has."""
    return -(-channels // SHARING)
