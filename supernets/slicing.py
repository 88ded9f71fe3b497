"""How a small weight is cut from a large one, and copied. Every slice is a view, so gradients reach the
large weight; a whole weight is given as it is, since every slice costs a training step some microseconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def center(weight: Tensor, kernel_size: int) -> Tensor:
    """The middle of an (O, I, K) or (O, I, K, K) weight, kernel_size along each dimension of space
    (once-for-all, Cai et al., ICLR 2020)."""
    if weight.shape[-1] == kernel_size:
        return weight
    start = (weight.shape[-1] - kernel_size) // 2
    middle = slice(start, start + kernel_size)
    return weight[(..., *[middle] * (weight.ndim - 2))]


def leading(weight: Tensor, out_channels: int, in_channels: int) -> Tensor:
    """The first channels of an (O, I, ...) weight: narrow networks are nested in wide ones."""
    return weight if weight.shape[:2] == (out_channels, in_channels) else weight[:out_channels, :in_channels]


def first(values: Tensor, count: int) -> Tensor:
    """The first of (C, ...) values."""
    return values if len(values) == count else values[:count]


def same_padding(kernel_size: int, dilation: int = 1) -> int:
    """The padding that keeps the size at stride 1, for an odd kernel; dilation widens it."""
    return dilation * (kernel_size // 2)


def equal(channels: int, groups: int) -> list[int]:
    """Equal shares of the channels, the remainder to the first; with few channels some are 0."""
    share = channels // groups
    return [channels - share * (groups - 1)] + [share] * (groups - 1)


def copied(module: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """The module with copies of the given tensors as its parameters and buffers."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            if tensor is not None:
                getattr(module, name).copy_(tensor)
    return module
