"""Spatial shift: every channel moves by one pixel, in turn in different directions. No weights, no MACs.

Wu et al., "Shift: A Zero FLOP, Zero Parameter Alternative to Spatial Convolutions", CVPR 2018, section 3.1,
without their copy that stays: `directions` are the 4 neighbours of a pixel or all 8. Channel c goes the way
of number c mod directions, so it goes there at every width. What comes in at the border is 0; a stride keeps
every s-th pixel of the shifted image.
Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WAYS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1))  # down and right are positive


class Operator(nn.Module):
    paper = 'Wu et al., "Shift: A Zero FLOP, Zero Parameter Alternative to Spatial Convolutions", CVPR 2018'
    exactness = "nothing to slice"
    settings = {"directions": (4, 8)}

    def __init__(self, channels: int, stride: int, directions: tuple[int, ...]):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, directions: int) -> Tensor:
        return shifted(x, x.shape[1], directions, self.stride)

    def export(self, channels: int, directions: int) -> nn.Module:
        return Shift(channels, directions, self.stride)


class Shift(nn.Module):
    """So many channels, each shifted in its direction."""

    def __init__(self, channels: int, directions: int, stride: int):
        super().__init__()
        self.channels, self.directions, self.stride = channels, directions, stride

    def forward(self, x: Tensor) -> Tensor:
        return shifted(x, self.channels, self.directions, self.stride)


def shifted(x: Tensor, channels: int, directions: int, stride: int) -> Tensor:
    """(N, C, H, W) seen as (N, ⌈C/directions⌉, directions, H, W): a slice of it, in zeros, for each."""
    turns = -(-channels // directions)
    around = F.pad(x, (1, 1, 1, 1, 0, turns * directions - channels))
    around = around.unflatten(1, (turns, directions))
    ways = [
        around[:, :, number : number + 1, _from(1 - down, stride), _from(1 - right, stride)]
        for number, (down, right) in enumerate(WAYS[:directions])
    ]
    return torch.cat(ways, dim=2).flatten(1, 2)[:, :channels]


def _from(start: int, stride: int) -> slice:
    """All but two of a side, from this one on."""
    return slice(start, start - 2 or None, stride)
