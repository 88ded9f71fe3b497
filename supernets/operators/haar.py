"""Haar wavelet: of each channel one band of the 2-D wavelet transform. Its filters are fixed: no weights.

The mixing of Jeevan and Sethi, "WaveMix: A Resource-efficient Neural Network for Image Analysis", arXiv 2022,
as a depthwise convolution: they keep all four bands of each channel, here channel c gives band number c mod 4
of LL, LH, HL and HH (of a signal c mod 2 of L and H), the same at every width; the 1×1 convolutions around
mix them. At stride 2 it is the decimated transform, whose bands keep the energy of an image; at stride 1 the
undecimated one. Zeros come in at the bottom and the right.
Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉), (N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Operator(nn.Module):
    paper = 'Jeevan and Sethi, "WaveMix: A Resource-efficient Neural Network for Image Analysis", arXiv 2022'
    exactness = "nothing to slice"
    settings: dict[str, tuple] = {}
    dims = (1, 2)

    def __init__(self, channels: int, stride: int, dims: int = 2):
        super().__init__()
        self.wavelet = Haar(bands(channels, dims), stride)

    def forward(self, x: Tensor) -> Tensor:
        return haar(x, self.wavelet.filters[: x.shape[1]], self.wavelet.stride)

    def export(self, channels: int) -> nn.Module:
        return Haar(self.wavelet.filters[:channels].clone(), self.wavelet.stride)


class Haar(nn.Module):
    """Fixed filters of (C, 1, 2, 2) or (C, 1, 2)."""

    def __init__(self, filters: Tensor, stride: int):
        super().__init__()
        self.stride = stride
        self.register_buffer("filters", filters)

    def forward(self, x: Tensor) -> Tensor:
        return haar(x, self.filters, self.stride)


def haar(x: Tensor, filters: Tensor, stride: int) -> Tensor:
    channels, dims = len(filters), filters.ndim - 2
    convolve = F.conv2d if dims == 2 else F.conv1d
    return convolve(F.pad(x, (0, 1) * dims), filters, stride=stride, groups=channels)


def bands(channels: int, dims: int) -> Tensor:
    """An orthonormal filter for each channel, in turn: (C, 1, 2, 2) of ±1/2 or (C, 1, 2) of ±1/√2."""
    low, high = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    if dims == 1:
        every = torch.stack([low, high])
    else:
        every = torch.stack([torch.outer(down, right) for down in (low, high) for right in (low, high)])
    return every[torch.arange(channels) % len(every)].unsqueeze(1)
