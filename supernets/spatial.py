"""Images and signals: the same layers over two dimensions (N, C, H, W) and over one (N, C, L)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.depthwise_gradient import depthwise, is_worthwhile
from supernets.slicing import copied, same_padding

CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d}
NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
MAX_POOLS: dict[int, type[nn.Module]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d}
AVERAGE_POOLS: dict[int, type[nn.Module]] = {1: nn.AvgPool1d, 2: nn.AvgPool2d}
GLOBAL_POOLS: dict[int, type[nn.Module]] = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d}
BATCH_NORMS = tuple(NORMS.values())

Size = int | tuple[int, ...]


def conv(
    x: Tensor,
    weight: Tensor,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    bias: Tensor | None = None,
) -> Tensor:
    """Convolution of images by an (O, I, k, k) weight or of signals by an (O, I, k) one."""
    plain = x.ndim == 4 and groups == len(weight) == x.shape[1] and bias is None
    if plain and is_worthwhile(x, weight) and padding == same_padding(weight.shape[2], dilation):
        return depthwise(x, weight, stride, dilation)
    convolve = F.conv2d if x.ndim == 4 else F.conv1d
    return convolve(x, weight, bias, stride, padding, dilation, groups)


def convolution(
    weight: Tensor,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    bias: Tensor | None = None,
) -> nn.Module:
    """A plain convolution with its own copy of the (O, I/groups, k, ...) weight and the (O,) bias, if any."""
    out, per_group, *kernel_size = weight.shape
    made = CONVOLUTIONS[weight.ndim - 2](
        per_group * groups,
        out,
        tuple(kernel_size),
        stride,
        padding,
        dilation,
        groups,
        bias=bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    return copied(made, weight=weight, bias=bias)


def every(stride: int, dims: int = 2) -> tuple:
    """The index of every stride-th pixel or sample."""
    return (..., *[slice(None, None, stride)] * dims)


class Subsample(nn.Module):
    """What an index of `every` keeps."""

    def __init__(self, kept: tuple):
        super().__init__()
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        return x[self.kept]


def mean(x: Tensor, keepdim: bool = False) -> Tensor:
    """Over all places: (N, C, ...) to (N, C)."""
    return x.mean(tuple(range(2, x.ndim)), keepdim=keepdim)


def channels_last(module: nn.Module) -> nn.Module:
    """The module with its (O, I, k, k) weights in the layout that convolutions of images are fastest in.

    As `module.to(memory_format=...)`, which fails for a weight of five dimensions. A weight of one input channel is in
    both layouts at once, but its strides are those of one of them, and torch computes in the layout that input or
    weight have by their strides: if both are of one channel and `contiguous` leaves them as they are, a network does
    everything in the slow layout.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return module
