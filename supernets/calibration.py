"""Batch-norm statistics: of one subnet, or one set for a whole supernet.

The statistics of a supernet mean nothing for a subnet, and a subnet without its own scores near chance.
So they are reset and computed anew as the plain average over batches of training images, for every
subnet, before every use (once-for-all, Cai et al., ICLR 2020; OFA issues 15 and 60 show what happens
without). What a subnet without its own scores can be seen with one set for all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from copy import copy
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from search_spaces import Architecture
from supernets.folding import IN_PLACE, ROWS, faster, makes, per_cache
from supernets.spatial import BATCH_NORMS
from supernets.supernet import Residual
from supernets.training import batch_statistics

SUMMED = 2048  # values of a channel that are added up in their own precision


@torch.no_grad()
def recalibrate(subnet: nn.Module, images: Tensor, batch_size: int = 256) -> nn.Module:
    """The subnet in evaluation mode with statistics from `images`, (N, C, H, W) or (N, C, L), at its own resolution.

    Everything but batch norm works as in evaluation. A last batch of fewer than half of `batch_size`
    is left out unless it is the only one.
    """
    subnet.eval()
    for norm in _norms(subnet):
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative average
    for batch in images.split(batch_size):
        if len(batch) >= batch_size / 2 or len(images) < batch_size:
            _through(subnet, batch)
    return subnet


def with_own_statistics(network: nn.Module, done: dict[nn.Module, nn.Module] | None = None) -> nn.Module:
    """The network with batch norms of its own, to be calibrated; weights, and layers without norms, are shared.

    Args:
        done: what there is of a network that this is a part of.
    """
    done = {} if done is None else done
    if network not in done:  # what stands in two places stays one
        children = {name: with_own_statistics(child, done) for name, child in network._modules.items()}
        made = network
        if isinstance(network, BATCH_NORMS):
            made = copy(network)
            made._buffers = {name: one.clone() for name, one in network._buffers.items()}
        elif children != network._modules:
            made = copy(network)
            made._modules = children
        done[network] = made
    return done[network]


def _through(module: nn.Module, x: Tensor) -> Tensor:
    """A batch through a module whose norms go by the batch.

    On a CPU rows of layers are gone through one by one, and a module with a method `through` says how it is gone
    through. Any other module is computed as in training, and so is all on other devices, whose kernels do it at once.
    """
    if x.device.type == "cpu" and hasattr(module, "through"):
        return module.through(x, _through)
    if x.device.type == "cpu" and type(module) in ROWS:
        y = _through_row(module, x)
        return x + y if type(module) is Residual else y
    norms = _norms(module) if module._modules or isinstance(module, BATCH_NORMS) else ()
    for norm in norms:
        norm.train()
    y = module(x)
    for norm in norms:
        norm.eval()
    return y


def _through_row(row: nn.Sequential, x: Tensor) -> Tensor:
    before, layers = None, deque(row)
    while layers:
        layer = layers.popleft()
        if isinstance(layer, BATCH_NORMS) and makes(before):
            activation = IN_PLACE.get(type(layers[0])) if layers else None
            normalize_(x, layer, activation)
            layer = layers.popleft() if activation else layer
        else:
            x = _through(faster(layer, before), x)
        before = layer
    return x


def normalize_(x: Tensor, norm: nn.Module, activation: nn.Module | None = None) -> None:
    """As the norm in training, in place: (N, C, ...) by its own statistics, which go into the running ones.

    Args:
        activation: what comes after it, in place as well.

    Raises:
        ValueError: there is but one value of a channel.
    """
    count = x.numel() // x.shape[1]
    if count < 2:
        raise ValueError(f"batch norm needs more than one value of each channel, and the batch has {count}")
    mean, variance = _statistics(x)
    norm.num_batches_tracked += 1
    share = 1 / norm.num_batches_tracked.item()
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(variance * (count / (count - 1)), share)
    scale = (variance + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
    scale, shift = (one.view(-1, *[1] * (x.ndim - 2)) for one in (scale, shift))
    for part in x.split(per_cache(x)):
        torch.addcmul(shift, part, scale, out=part)
        if activation is not None:
            activation(part)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of (N, C, ...), each right to some units in the last place.

    torch adds up the values of a channel one after the other where channels come last, and of 100,000 numbers of
    float32 four digits are right. So it adds up some images at a time, and what they come to is added in double
    precision (Chan et al., "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979).
    """
    parts = x.split(max(1, SUMMED // prod(x.shape[2:])))
    found = [torch.batch_norm_update_stats(part, None, None, 0.0) for part in parts]
    if len(found) == 1:
        return found[0]
    means, variances = (torch.stack(several).double() for several in zip(*found, strict=True))
    shares = means.new_tensor([len(part) / len(x) for part in parts]).unsqueeze(1)
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean).square())).sum(0)
    return mean.to(x.dtype), variance.to(x.dtype)


def _norms(module: nn.Module) -> list[nn.Module]:
    return [one for one in module.modules() if isinstance(one, BATCH_NORMS)]


@torch.no_grad()
def share_statistics(
    supernet: nn.Module, architectures: Sequence[Architecture], images: Tensor, batch_size: int = 256
) -> None:
    """Give the norms of a supernet one set of statistics for all its architectures; it ends in evaluation mode.

    A supernet keeps no running statistics in training. These are what they would have become: of each channel
    the plain average over what came by while the architectures took turns, one batch of `images`,
    (N, C, H, W) or (N, C, L), each. A channel that none of them used keeps mean 0 and variance 1.
    """
    supernet.eval()
    norms = [one for one in supernet.modules() if isinstance(one, BatchNorm) and one.track_running_stats]
    hooks = [norm.train().register_forward_pre_hook(_Average(norm)) for norm in norms]
    batches = [one for one in images.split(batch_size) if len(one) >= batch_size / 2] or [images]
    with batch_statistics(supernet):
        for turn, architecture in enumerate(architectures):
            supernet(batches[turn % len(batches)], architecture)
    for hook in hooks:
        hook.remove()
    supernet.eval()


class _Average:
    """Keeps in a norm the average of the statistics of what it is given, channel by channel."""

    def __init__(self, norm: BatchNorm):
        norm.reset_running_stats()
        self.visits = torch.zeros_like(norm.running_mean)  # (C,)

    def __call__(self, norm: BatchNorm, inputs: tuple[Tensor]) -> None:
        [x] = inputs  # (N, c, ...), c at most C
        width = x.shape[1]
        variance, mean = torch.var_mean(x.float(), [0, *range(2, x.ndim)])
        self.visits[:width] += 1
        for kept, seen in ((norm.running_mean, mean), (norm.running_var, variance)):
            kept[:width] += (seen - kept[:width]) / self.visits[:width]
