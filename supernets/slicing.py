"""How a small weight is cut from a large one. Every slice is a view, so gradients reach the large weight."""

from __future__ import annotations

from torch import Tensor


def center(weight: Tensor, kernel_size: int) -> Tensor:
    """The middle kernel_size × kernel_size of a (..., K, K) weight (once-for-all, Cai et al., ICLR 2020)."""
    start = (weight.shape[-1] - kernel_size) // 2
    stop = start + kernel_size
    return weight[..., start:stop, start:stop]


def leading(weight: Tensor, out_channels: int, in_channels: int) -> Tensor:
    """The first channels of an (O, I, ...) weight: narrow networks are nested in wide ones."""
    return weight[:out_channels, :in_channels]


def same_padding(kernel_size: int, dilation: int = 1) -> int:
    """The padding that keeps the size at stride 1, for an odd kernel; dilation widens it."""
    return dilation * (kernel_size // 2)
