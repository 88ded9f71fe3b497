"""The layers around an operator, in a version whose width may vary: each owns its largest weight."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.slicing import copied, first, leading
from supernets.spatial import GLOBAL_POOLS, NORMS, conv, convolution, mean

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "hardswish": nn.Hardswish, "silu": nn.SiLU}


NOISE = 0.3  # of the initial weights that are left beside the identity


@torch.no_grad()
def start_near_identity(operator: nn.Module, channels: int) -> None:
    """Change the initial kernels of an operator so that they give each channel to itself, with some noise.

    For operators that take turns in one place: whichever has its turn, a channel means what it meant before.
    From independent initial weights they find no common basis, and the layers around them serve none of
    them well (docs/decisions.md has figures; ours). An operator may know better how to, and then has a method
    `start_near_identity`; of others, these are kernels: (C, 1, k, ...) and (C, C, k, ...) for all C channels,
    with odd k. Experimental operators stay as they are.
    """
    if hasattr(operator, "start_near_identity"):
        operator.start_near_identity()
    elif not getattr(operator, "experimental", False):
        for weight in operator.parameters():
            if weight.ndim > 2 and weight.shape[0] == channels and weight.shape[1] in (1, channels):
                add_identity(weight)


@torch.no_grad()
def add_identity(weight: Tensor) -> None:
    """Make an (O, I, k, ...) kernel with odd k nearly the identity in the middle; where I is 1, or where O
    and I differ, channels go round."""
    out, per_group, *sizes = weight.shape
    if any(size % 2 == 0 for size in sizes):
        return
    same = torch.arange(out)[:, None] - torch.arange(per_group)
    same = same % min(out, per_group) == 0
    weight.mul_(NOISE)
    weight[(..., *(size // 2 for size in sizes))] += same.to(weight.device)


class Pointwise(nn.Module):
    """1×1 convolution without bias; the low channels are shared by all widths."""

    def __init__(self, in_channels: int, out_channels: int, dims: int = 2):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *[1] * dims))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, out_channels: int) -> Tensor:
        return conv(x, leading(self.weight, out_channels, x.shape[1]))

    def export(self, in_channels: int, out_channels: int) -> nn.Module:
        return convolution(leading(self.weight, out_channels, in_channels))


class Norm(nn.modules.batchnorm._BatchNorm):
    """Batch norm of any width up to its own, over images or signals.

    In training it normalises by the batch and keeps no running statistics: those of one architecture
    would be wrong for every other. Its buffers stay as they were made; a subnet gets statistics of its
    own from `supernets.calibration`.
    """

    def __init__(self, channels: int, dims: int = 2):
        super().__init__(channels)
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[1]
        weight, bias = first(self.weight, width), first(self.bias, width)
        if self.training:
            return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)
        mean, variance = self.running_mean[:width], self.running_var[:width]
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=self.eps)

    def export(self, width: int) -> nn.Module:
        plain = NORMS[self.dims](width, eps=self.eps, device=self.weight.device, dtype=self.weight.dtype)
        return copied(
            plain,
            weight=self.weight[:width],
            bias=self.bias[:width],
            running_mean=self.running_mean[:width],
            running_var=self.running_var[:width],
        )


class Classifier(nn.Module):
    """Global average pooling and a linear layer on the channels that are there."""

    def __init__(self, channels: int, classes: int, dims: int = 2):
        super().__init__()
        self.dims = dims
        self.weight = nn.Parameter(torch.empty(classes, channels))
        self.bias = nn.Parameter(torch.zeros(classes))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(mean(x), leading(self.weight, len(self.bias), x.shape[1]), self.bias)

    def export(self, channels: int) -> nn.Module:
        plain = nn.Linear(channels, len(self.bias), device=self.weight.device, dtype=self.weight.dtype)
        linear = copied(plain, weight=self.weight[:, :channels], bias=self.bias)
        return nn.Sequential(GLOBAL_POOLS[self.dims](1), nn.Flatten(), linear)
