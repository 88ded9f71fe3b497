"""Batch-norm statistics: of one subnet, or one set for a whole supernet.

The statistics of a supernet mean nothing for a subnet, and a subnet without its own scores near chance.
So they are reset and computed anew as the plain average over batches of training images, for every
subnet, before every use (once-for-all, Cai et al., ICLR 2020; OFA issues 15 and 60 show what happens
without). What a subnet without its own scores can be seen with one set for all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from search_spaces import Architecture
from supernets.spatial import BATCH_NORMS
from supernets.training import batch_statistics


@torch.no_grad()
def recalibrate(subnet: nn.Module, images: Tensor, batch_size: int = 256) -> nn.Module:
    """The subnet in evaluation mode with statistics from `images`, (N, C, H, W) or (N, C, L), at its own resolution.

    Everything but batch norm works as in evaluation. A last batch of fewer than half of `batch_size`
    is left out unless it is the only one.
    """
    norms = [module for module in subnet.modules() if isinstance(module, BATCH_NORMS)]
    subnet.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative average
        norm.train()
    for batch in images.split(batch_size):
        if len(batch) >= batch_size / 2 or len(images) < batch_size:
            subnet(batch)
    return subnet.eval()


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
