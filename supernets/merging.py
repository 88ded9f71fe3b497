"""From the structure that is trained to the one that is deployed, computing the same.

A module of an exported network that is trained in branches has a method `merge()`, which gives the plain
layers that its branches amount to, by the statistics its batch norms have. What a kernel then has around it of
nothing but zeros is cut, so an operator may learn how large its kernel is. Everything that is measured,
counted or exported is the network so deployed; only training and calibration see the branches, and only
`supernets.cost.CostTable`, which knows no weights, counts the kernels whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from operator import le

import torch
from torch import Tensor, nn

from supernets.spatial import CONVOLUTIONS, convolution


def deployed(network: nn.Module) -> nn.Module:
    """The network in its last form: merged, then trimmed. The network itself is not changed."""
    return trimmed(merged(network))


def merged(network: nn.Module) -> nn.Module:
    """The network with every module that has a `merge()` replaced by what it gives.

    The network itself is not changed; one with nothing to merge is returned as it is.
    """
    return _replaced(network, "merge")


def embedded(network: nn.Module) -> nn.Module:
    """The network with every module that has an `embed()` replaced by what it gives: the same function as
    fewer, larger layers. The network itself if it has none."""
    return _replaced(network, "embed")


def trimmed(network: nn.Module) -> nn.Module:
    """The network without the zeros that its kernels have all around them, computing the same.

    Cut are whole rings, as many on one side as on the other, of plain convolutions, as far as their padding
    goes; what is zero altogether stays, and so do the parts of what has an `embed()`. The network itself if
    there are none.
    """
    fixed = {part for one in network.modules() if hasattr(type(one), "embed") for part in one.modules()}
    large = (one for one in network.modules() if is_plain(one) and max(one.kernel_size) > 1)
    sizes = {one: _least_size(one) for one in large if one not in fixed}
    return _with_kernels(network, sizes)


def fitted(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A merged network with kernels as small as in a state dict of it, trimmed; the network itself if none is
    smaller."""
    sizes = {
        one: tuple(tensors[f"{name}.weight"].shape[2:])
        for name, one in network.named_modules()
        if is_plain(one) and f"{name}.weight" in tensors
    }
    return _with_kernels(network, sizes)


def forms(network: nn.Module) -> dict[str, nn.Module]:
    """The ways in which a network can be deployed, by name; a device is asked which it runs faster."""
    other = embedded(network)
    return {"plain": network} if other is network else {"plain": network, "embedded": other}


def fold(weight: Tensor, bias: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight (O, ...) and bias (O,) of a convolution with the batch norm after it, computed in float64.

    W' = W γ/√(σ² + ε), b' = β + (b − μ) γ/√(σ² + ε).
    """
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shifted = -norm.running_mean.double() if bias is None else bias.double() - norm.running_mean
    if norm.affine:
        scale = scale * norm.weight.double()
    shifted = shifted * scale + (norm.bias.double() if norm.affine else 0)
    scaled = weight.double() * scale.view(-1, *[1] * (weight.ndim - 1))
    return scaled.to(weight.dtype), shifted.to(weight.dtype)


def is_plain(module: nn.Module | None) -> bool:
    """Whether it is a convolution whose padding is so many zeros."""
    known = type(module) in CONVOLUTIONS.values() and module.padding_mode == "zeros"
    return known and not isinstance(module.padding, str)


def enlarged(weight: Tensor, kernel_size: int, dilation: int = 1) -> Tensor:
    """An (O, I, k, ...) kernel with zeros between its taps and around it, as one of `kernel_size`.

    With padding for the same size, both convolutions compute the same, at the borders too.
    """
    small = dilation * (weight.shape[-1] - 1) + 1
    start = (kernel_size - small) // 2
    taps = slice(start, start + small, dilation)
    large = weight.new_zeros(*weight.shape[:2], *[kernel_size] * (weight.ndim - 2))
    large[(..., *[taps] * (weight.ndim - 2))] = weight
    return large


@torch.no_grad()
def _replaced(network: nn.Module, method: str) -> nn.Module:
    if not any(hasattr(type(module), method) for module in network.modules()):
        return network
    return _replace(deepcopy(network), method, {})


def _replace(module: nn.Module, method: str, done: dict[nn.Module, nn.Module]) -> nn.Module:
    if module not in done:  # what stands in two places stays one
        for name, child in list(module._modules.items()):
            setattr(module, name, _replace(child, method, done))
        new = getattr(module, method)().train(module.training) if hasattr(module, method) else module
        done[module] = new
    return done[module]


def _least_size(layer: nn.Module) -> tuple[int, ...]:
    """The size of the smallest kernel in the middle of the layer's that computes the same."""
    sizes = []
    for axis, whole in enumerate(layer.kernel_size):
        used = layer.weight.movedim(2 + axis, 0).flatten(1).any(1).nonzero().flatten().tolist()
        rings = min(used[0], whole - 1 - used[-1], layer.padding[axis] // layer.dilation[axis]) if used else 0
        sizes.append(whole - 2 * rings)
    return tuple(sizes)


@torch.no_grad()
def _with_kernels(network: nn.Module, sizes: Mapping[nn.Module, tuple[int, ...]]) -> nn.Module:
    """The network with only the middle, of these sizes, of its convolutions' kernels."""
    smaller = {
        one: _middle(one, size)
        for one, size in sizes.items()
        if size != one.kernel_size and all(map(le, size, one.kernel_size))
    }
    if not smaller:
        return network
    # copying finds these done already, in every place where one stands
    return deepcopy(network, {id(one): new for one, new in smaller.items()})


def _middle(layer: nn.Module, sizes: tuple[int, ...]) -> nn.Module:
    rings = [(whole - size) // 2 for whole, size in zip(layer.kernel_size, sizes, strict=True)]
    middle = [slice(ring, ring + size) for ring, size in zip(rings, sizes, strict=True)]
    geometry = zip(layer.padding, layer.dilation, rings, strict=True)
    padding = tuple(pad - dilation * ring for pad, dilation, ring in geometry)
    weight = layer.weight[(..., *middle)]
    made = convolution(weight, layer.stride, padding, layer.dilation, layer.groups, layer.bias)
    return made.train(layer.training)
