"""FlexConv: depthwise convolution by a kernel that a small network writes, under a mask of learned size.

After Romero et al., "FlexConv: Continuous Kernel Convolutions with Differentiable Kernel Sizes", ICLR 2022,
sections 3.1 and 3.2. MAGNet, a multiplicative filter network of anisotropic Gabor filters, h_1 = g_1(p) and
h_{l+1} = g_{l+1}(p) ⊙ (W h_l + b), gives the values at the places p in [-1, 1] of a kernel; a Gaussian with a
learned centre and width along each dimension multiplies them.

Taps beyond where the mask falls below 0.1 along a dimension, at 2.146 widths from its centre, are exactly zero,
as in the paper, and cut when a network is deployed (`supernets.merging.trimmed`): the kernel then has the size
that was learned, odd and of its own along each dimension, where a cost table has max_size, the most that it
may become. A mask that ends there hardly grows, so two things are different: the next tap beyond stays too, to
learn what is missing there; and centre and width have the gradient of the whole mask, as if nothing had been
cut (straight-through). Nothing but the task pulls a mask in. The frequencies start at half of what the
largest grid can show at most; the penalty on higher ones is left out. A smaller max_size is the centre of a
larger one; widths share all but the last layer, of which they take the first outputs.
Shapes: (N, C, H, W) to (N, C, ⌈H/s⌉, ⌈W/s⌉), (N, C, L) to (N, C, ⌈L/s⌉).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from supernets.slicing import same_padding
from supernets.spatial import conv, convolution

HIDDEN, LAYERS = 32, 3
WIDTH = 0.15  # of the mask, to start with: a kernel of 5 taps, of the 9 or 13 that it may have
REACH = math.sqrt(-2 * math.log(0.1))  # of the mask, in widths: there it is 0.1


class Operator(nn.Module):
    paper = 'Romero et al., "FlexConv", ICLR 2022'
    exactness = "frozen into one dense kernel, cropped to its learned size"
    settings = {"max_size": (9, 13)}
    dims = (1, 2)
    shareable = True
    experimental = True
    rates = {"center": 0.1, "width": 0.1, "mix_biases": 1.0, "phases": 1.0, "centers": 1.0, "decays": 1.0}

    def __init__(self, channels: int, stride: int, max_size: tuple[int, ...], dims: int = 2):
        super().__init__()
        self.stride, self.dims = stride, dims
        self.half, self.least_half = max(max_size) // 2, min(max_size) // 2
        self.center, self.width = nn.Parameter(torch.zeros(dims)), nn.Parameter(torch.full((dims,), WIDTH))
        # of the Gabor filters, by layer
        self.frequencies = nn.Parameter(
            torch.empty(LAYERS, HIDDEN, dims).uniform_(-1, 1) * self.half * math.pi / 2
        )
        self.phases = nn.Parameter(torch.empty(LAYERS, HIDDEN).uniform_(-math.pi, math.pi))
        self.centers = nn.Parameter(torch.empty(LAYERS, HIDDEN, dims).uniform_(-1, 1) * 1.667 * WIDTH)
        shapes = 6 / torch.arange(1.0, LAYERS + 1).view(-1, 1, 1).expand(-1, HIDDEN, dims)
        self.decays = nn.Parameter(torch.distributions.Gamma(shapes, 1.0).sample())
        bound = HIDDEN**-0.5
        self.mixes = nn.Parameter(torch.empty(LAYERS - 1, HIDDEN, HIDDEN).uniform_(-bound, bound))
        self.mix_biases = nn.Parameter(torch.empty(LAYERS - 1, HIDDEN).uniform_(-bound, bound))
        self.out = nn.Parameter(torch.empty(channels, HIDDEN).uniform_(-bound, bound))
        with torch.no_grad():  # kernels of the norm that Kaiming's would have
            norms = self.kernel(channels, max(max_size)).flatten(1).norm(dim=1, keepdim=True)
            self.out.mul_(2**0.5 / norms)

    def constrain(self) -> None:
        """Keep the mask where it leaves something of the smallest kernel."""
        center, width = self.bounded()
        self.center.copy_(center)
        self.width.copy_(width)

    def bounded(self) -> tuple[Tensor, Tensor]:
        """Centre within the smallest kernel and width of at least a quarter of a tap, each (dims,)."""
        farthest = self.least_half / self.half
        return self.center.clamp(-farthest, farthest), self.width.clamp(min=0.25 / self.half)

    def kernel(self, channels: int, max_size: int) -> Tensor:
        """The (C, 1, k, k) or (C, 1, k) weight of one choice."""
        half = max_size // 2
        along = torch.arange(-half, half + 1, device=self.out.device, dtype=self.out.dtype) / self.half
        places = torch.stack(torch.meshgrid(*[along] * self.dims, indexing="ij"), -1).flatten(0, -2)
        values = self.values(places) @ self.out[:channels].T
        values = values * self.mask(places).unsqueeze(-1)
        return values.T.reshape(channels, 1, *[max_size] * self.dims)

    def values(self, places: Tensor) -> Tensor:
        """The last hidden layer of MAGNet: (P, dims) to (P, hidden)."""
        away = self.decays.unsqueeze(1) * (places.unsqueeze(1) - self.centers.unsqueeze(1))
        waves = places @ self.frequencies.transpose(1, 2) + self.phases.unsqueeze(1)
        hidden, *gabors = torch.exp(-away.square().sum(-1) / 2) * waves.sin()
        for gabor, mix, bias in zip(gabors, self.mixes, self.mix_biases, strict=True):
            hidden = gabor * (hidden @ mix.T + bias)
        return hidden

    def mask(self, places: Tensor) -> Tensor:
        """(P, dims) to (P,): zero from the second tap beyond the reach, with the gradient of the uncut mask."""
        center, width = self.bounded()
        away = (places - center).abs()
        whole = torch.exp(-(away / width).square().sum(-1) / 2)
        outside = (away > REACH * width + 1 / self.half).any(-1)
        return whole - (whole * outside).detach()

    def forward(self, x: Tensor, max_size: int) -> Tensor:
        channels = x.shape[1]
        return conv(x, self.kernel(channels, max_size), self.stride, same_padding(max_size), groups=channels)

    def export(self, channels: int, max_size: int) -> nn.Module:
        kernel = self.kernel(channels, max_size)
        return convolution(kernel, self.stride, same_padding(max_size), groups=channels)
