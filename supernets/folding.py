"""A network for computing alone: what it computes in evaluation mode, up to rounding, in fewer steps.

The batch norm right after a convolution is folded into it; other norms, and activations, work in place where
what they take was made for them; a max pooling takes the maxima of rows, then of columns. All of it holds in rows
of layers, where nobody else sees what is between two of them; every other module keeps what it does, and its
children are folded in turn.
"""

from __future__ import annotations

from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.branches import SideBySide
from supernets.elastic import ACTIVATIONS
from supernets.merging import fold, is_plain
from supernets.spatial import AVERAGE_POOLS, BATCH_NORMS, CONVOLUTIONS, MAX_POOLS
from supernets.supernet import Residual

ROWS = (nn.Sequential, Residual)
CACHED = 2**17  # numbers that several steps in a row find in the cache
_POOLS = (*MAX_POOLS.values(), *AVERAGE_POOLS.values())
_MAKERS = (*CONVOLUTIONS.values(), *BATCH_NORMS, *_POOLS, SideBySide)
IN_PLACE = {kind: kind(inplace=True) for kind in ACTIVATIONS.values()}


def folded(network: nn.Module) -> nn.Module:
    """The network, which is in evaluation mode and does not change, without norms that follow a convolution.

    What stays as it is, is shared with the network. It is for computing: it is not what is exported or counted.
    """
    children = {name: folded(child) for name, child in network._modules.items()}
    if type(network) in ROWS:
        children = dict(_row(children))
    if children == network._modules:
        return network
    made = copy(network)
    made._modules = children
    return made


def makes(layer: nn.Module | None) -> bool:
    """Whether what the layer gives is new, and nobody but the next in its row sees it."""
    return isinstance(layer, _MAKERS)


def per_cache(x: Tensor) -> int:
    """How many images of (N, C, ...) to take at once where several steps in a row take the same numbers."""
    return max(1, CACHED // x[0].numel())


def faster(layer: nn.Module, before: nn.Module | None) -> nn.Module:
    """The layer of a row, or one that computes the very same: an activation in place if what it takes is made for it,
    a max pooling at stride 1 as `MaxPool`."""
    if type(layer) in IN_PLACE and makes(before):
        return IN_PLACE[type(layer)]
    return MaxPool(layer.kernel_size) if _keeps_size(layer) else layer


def _keeps_size(layer: nn.Module) -> bool:
    """Whether it is a max pooling of images at stride 1 whose output is as large as its input."""
    if type(layer) is not nn.MaxPool2d or not isinstance(layer.kernel_size, int):
        return False
    plain = layer.stride == layer.dilation == 1 and not layer.return_indices
    return plain and layer.kernel_size == 2 * layer.padding + 1


def _row(children: dict[str, nn.Module]) -> list[tuple[str, nn.Module]]:
    row: list[tuple[str, nn.Module]] = []
    before = None
    for name, layer in children.items():
        norm = isinstance(layer, BATCH_NORMS)
        if norm and is_plain(row[-1][1] if row else None):
            row[-1] = row[-1][0], _with_norm(row[-1][1], layer)
        elif norm and makes(before):
            row.append((name, ScaleAndShift(layer)))
        else:
            row.append((name, faster(layer, before)))
        before = layer
    return row


class ScaleAndShift(nn.Module):
    """What a norm in evaluation mode computes, (N, C, ...) to the same, in place and without gradients."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.scale, self.shift = fold(torch.ones_like(norm.running_mean), None, norm)  # (C,) both

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = (one.view(-1, *[1] * (x.ndim - 2)) for one in (self.scale, self.shift))
        return torch.addcmul(shift, x, scale, out=x)


class MaxPool(nn.Module):
    """Max pooling of images at stride 1 that keeps their size, (N, C, H, W) to the same: along rows, then columns.

    On a CPU some images at a time, which stay in the cache: 0.3 to 0.6 of the time of torch's
    (benchmarks/evaluation_xeon2_202611.md).
    """

    def __init__(self, kernel_size: int):
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return F.max_pool2d(x, self.kernel_size, 1, self.kernel_size // 2)
        pooled, images = torch.empty_like(x), per_cache(x)
        for some, into in zip(x.split(images), pooled.split(images), strict=True):
            rows = self._along(3, some, torch.empty_like(some))
            self._along(2, rows, into)
        return pooled

    def _along(self, dim: int, x: Tensor, pooled: Tensor) -> Tensor:
        """The maxima of all that is near along one dimension, into `pooled`."""
        pooled.copy_(x)
        for step in range(1, min(self.kernel_size // 2, x.shape[dim] - 1) + 1):
            near = x.shape[dim] - step
            for to, at in ((0, step), (step, 0)):
                most = pooled.narrow(dim, to, near)
                torch.maximum(most, x.narrow(dim, at, near), out=most)
        return pooled


def _with_norm(layer: nn.Module, norm: nn.Module) -> nn.Module:
    made = copy(layer)
    folded_in = zip(("weight", "bias"), fold(layer.weight, layer.bias, norm), strict=True)
    made._parameters = {name: nn.Parameter(one, requires_grad=False) for name, one in folded_in}
    return made
