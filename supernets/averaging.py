"""Weight averaging: an exponential moving average of the weights over the steps, which is what is evaluated.

After Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 30(4),
1992; with the rising decay of TensorFlow's ExponentialMovingAverage, min(d, (1 + t)/(10 + t)), by which the
initial weights are soon forgotten.

Every weight is averaged at every step, also one that the step did not train: the average is one of whole networks
over one stretch of time. Averaged over its own updates only, a weight that is seldom drawn would come from an earlier
stretch than the weights around it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class WeightAverage:
    """The average of some weights; `average` is in their order, shapes and layouts."""

    def __init__(self, weights: Iterable[Tensor], decay: float):
        self.weights, self.decay = list(weights), decay
        self.average = [one.detach().clone() for one in self.weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they are after a step; the first is step 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, self.weights, 1 - decay)

    @torch.no_grad()
    def load(self, average: Iterable[Tensor]) -> None:
        """Go on from an average that was kept."""
        for own, kept in zip(self.average, average, strict=True):
            own.copy_(kept)
