"""From the structure that is trained to the one that is deployed, computing the same.

A module of an exported network that is trained in branches has a method `merge()`, which gives the plain
layers that its branches amount to, by the statistics its batch norms have. Everything that is measured,
counted or exported is the merged network; only training and calibration see the branches.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


def merged(network: nn.Module) -> nn.Module:
    """The network with every module that has a `merge()` replaced by what it gives.

    The network itself is not changed; one with nothing to merge is returned as it is.
    """
    return _replaced(network, "merge")


def embedded(network: nn.Module) -> nn.Module:
    """The network with every module that has an `embed()` replaced by what it gives: the same function as
    fewer, larger layers. The network itself if it has none."""
    return _replaced(network, "embed")


def forms(network: nn.Module) -> dict[str, nn.Module]:
    """The ways in which a merged network can be deployed, by name; a device is asked which it runs faster."""
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
    if not any(hasattr(module, method) for module in network.modules()):
        return network
    return _replace(deepcopy(network), method, {})


def _replace(module: nn.Module, method: str, done: dict[nn.Module, nn.Module]) -> nn.Module:
    if module not in done:  # what stands in two places stays one
        for name, child in list(module._modules.items()):
            setattr(module, name, _replace(child, method, done))
        new = getattr(module, method)().train(module.training) if hasattr(module, method) else module
        done[module] = new
    return done[module]
