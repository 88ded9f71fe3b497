"""A network for computing alone: what it computes in evaluation mode, up to rounding, in fewer steps.

The batch norm right after a convolution is folded into it, and an activation right after either works in place. Both
hold in rows of layers, where nobody else sees what is between two of them; every other module keeps what it does,
and its children are folded in turn.
"""

from __future__ import annotations

from copy import copy

from torch import nn

from supernets.elastic import ACTIVATIONS
from supernets.merging import fold, is_plain
from supernets.spatial import BATCH_NORMS, CONVOLUTIONS
from supernets.supernet import Residual

ROWS = (nn.Sequential, Residual)
_CONVOLUTIONS = tuple(CONVOLUTIONS.values())
_ACTIVATIONS = tuple(ACTIVATIONS.values())


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


def in_place(layer: nn.Module, before: nn.Module | None) -> nn.Module:
    """The layer of a row, in place if it is an activation and what it takes is made for it alone, by a convolution
    or a norm before it."""
    makes = isinstance(before, (*_CONVOLUTIONS, *BATCH_NORMS))
    return type(layer)(inplace=True) if makes and type(layer) in _ACTIVATIONS else layer


def _row(children: dict[str, nn.Module]) -> list[tuple[str, nn.Module]]:
    row: list[tuple[str, nn.Module]] = []
    for name, layer in children.items():
        before = row[-1][1] if row else None
        if isinstance(layer, BATCH_NORMS) and is_plain(before):
            row[-1] = row[-1][0], _with_norm(before, layer)
        else:
            row.append((name, in_place(layer, before)))
    return row


def _with_norm(layer: nn.Module, norm: nn.Module) -> nn.Module:
    made = copy(layer)
    folded_in = zip(("weight", "bias"), fold(layer.weight, layer.bias, norm), strict=True)
    made._parameters = {name: nn.Parameter(one, requires_grad=False) for name, one in folded_in}
    return made
