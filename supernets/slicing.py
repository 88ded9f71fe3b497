"""How a small weight is cut from a large one, and copied. Every slice is a view, so gradients reach the
large weight; a whole weight is given as it is, since every slice costs a training step some microseconds.

Slices that autograd takes cost it most: on the way back each makes zeros as large as the whole weight and copies
its gradient into them. A training therefore has the `Slices` that `leading` and `first` take kept for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

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
    whole = weight.shape[:2] == (out_channels, in_channels)
    return weight if whole else _cut(weight, out_channels, in_channels)


def first(values: Tensor, count: int) -> Tensor:
    """The first of (C, ...) values."""
    return values if values.shape[0] == count else _cut(values, count)


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


# -- in a training -----------------------------------------------------------------------------


class _Slice(NamedTuple):
    weight: nn.Parameter
    leaf: Tensor  # the slice of it
    whole: Tensor  # memory for the gradient of the weight
    part: Tensor  # the slice of that


class Slices:
    """The slices of weights that a training takes, kept from step to step.

    Each is a leaf: it lies in the memory of its weight, but has a gradient of its own, which is then added to the
    weight's. Whoever puts other memory under a parameter (`parameter.data = ...`) must make new Slices.
    """

    def __init__(self):
        self.kept: dict[tuple[int, ...], _Slice] = {}
        self.taken: dict[tuple[int, ...], _Slice] = {}  # in this pass
        self.gradients: dict[int, Tensor] = {}

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Around a forward and a backward pass: slices of parameters are taken from here, and at the end their
        gradients are added to those of the weights."""
        before = _slices.set(self)
        try:
            yield
        finally:
            _slices.reset(before)
            self._gather()

    def take(self, weight: nn.Parameter, sizes: tuple[int, ...]) -> Tensor:
        """The first so many of each leading dimension."""
        key = (id(weight), *sizes)
        if key not in self.kept:
            index = tuple(slice(size) for size in sizes)
            leaf = weight.detach()[index].requires_grad_(weight.requires_grad)
            whole = self.gradients.setdefault(id(weight), torch.empty_like(weight))
            self.kept[key] = _Slice(weight, leaf, whole, whole[index])
        one = self.taken[key] = self.kept[key]
        return one.leaf

    @torch.no_grad()
    def _gather(self) -> None:
        parts, gradients = [], []
        for weight, leaf, whole, part in self.taken.values():
            if (gradient := leaf.grad) is None:
                continue
            if weight.grad is None:
                weight.grad = whole.zero_()
            elif weight.grad is not whole:  # autograd's own, of a pass that took the weight whole
                weight.grad = whole.copy_(weight.grad)
            parts.append(part)
            gradients.append(gradient)
            leaf.grad = None
        if parts:
            torch._foreach_add_(parts, gradients)
        self.taken = {}


_slices: ContextVar[Slices | None] = ContextVar("slices", default=None)


def _cut(weight: Tensor, *sizes: int) -> Tensor:
    slices = _slices.get()
    if slices is not None and type(weight) is nn.Parameter:
        return slices.take(weight, sizes)
    return weight[tuple(slice(size) for size in sizes)]
