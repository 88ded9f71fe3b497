"""Paths that are left out of some images in training, and what is kept divided by the chance of keeping it.

Stochastic depth: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, section 3. A residual block is left
out with a chance that rises linearly with its depth. They draw for a whole batch, here each image has a draw of
its own. Only the largest architecture is trained so: Yu et al., "BigNAS", ECCV 2020, section 3.2: it alone
overfits, and the smaller ones have too little capacity as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from search_spaces import Architecture, SearchSpace


class StochasticDepth:
    """
    Args:
        last: the chance of leaving out the last block, at least 0 and below 1.
        seed: of the draws, which are made on the device.
    """

    def __init__(self, last: float, seed: int, device: torch.device):
        self.last, self.generator = last, torch.Generator(device).manual_seed(seed)

    def __call__(self, x: Tensor, depth: float) -> Tensor:
        """What a residual block adds, (N, C, ...), left out of some images; `depth` is 1 for the last block."""
        return leave_out(x, self.last * depth, self.generator)


def leave_out(x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """(N, C, ...) with 0 for some of the N, the others divided by the chance of being kept."""
    kept = torch.rand(len(x), generator=generator, device=generator.device) >= probability
    scale = (kept / (1 - probability)).to(x.device, x.dtype)
    return x * scale.view(-1, *[1] * (x.ndim - 1))


def is_largest(space: SearchSpace, architecture: Architecture) -> bool:
    """Whether resolution, widths, depths and expansions are the space's highest, with whatever operators."""
    return architecture.resolution == max(space.resolutions) and all(
        chosen.width == max(stage.widths)
        and len(chosen.blocks) == max(stage.depths)
        and all(
            choice.expansion == max(block.expansions)
            for block, choice in zip(stage.blocks, chosen.blocks, strict=True)
        )
        for stage, chosen in zip(space.stages, architecture.stages, strict=True)
    )
