"""Batch-norm statistics of one subnet.

The statistics of a supernet mean nothing for a subnet, and a subnet without its own scores near chance.
So they are reset and computed anew as the plain average over batches of training images, for every
subnet, before every use (once-for-all, Cai et al., ICLR 2020; OFA issues 15 and 60 show what happens
without).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.spatial import BATCH_NORMS


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
