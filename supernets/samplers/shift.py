"""Shift sampling: train more where the validation loss still falls.

After Zhang et al., "ShiftNAS: Improving One-shot NAS via Probability Shift", ICCV 2023. The cost range is
cut into bins; a bin is drawn from a learned distribution, then an architecture of about that cost. The
distribution descends the expected change of the validation loss (the paper's equations 5 to 8), so
probability moves to the bins whose loss fell most since the last update.

Our deviations, each with its reason (methods section 1 has the measurements):
- the gradient over bins is exact, p_k (d_k - sum_j p_j d_j), not a noisy pathwise one through a generator;
- the change d_k is paired: the same architecture on the same images, then and now, which needs no second
  copy of the supernet;
- it is divided by how much bin k was trained since: raw progress is self-reinforcing, a bin that is drawn
  more improves more;
- the distribution keeps a floor and its logits are re-centred and clamped, so no bin starves;
- it stays uniform during the warm-up: early on the cheap bins progress most, which says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np

from search_spaces import Architecture, SearchSpace, architecture_from_json
from supernets.cost import Costs
from supernets.samplers.cost_bins import cost_bins
from supernets.samplers.plan import Look, Plan, Probe, check_setting

LIMITS = {
    "bins": (1, 1000),
    "warmup": (0, 1),
    "every": (1, 10**9),
    "rate": (0, 10),
    "floor": (0, 1),
    "clamp": (0, 100),
}


class Shift:
    """
    Args:
        bins: how many bins of equal width in MACs; sparse ones are merged.
        warmup: share of the steps with a uniform distribution over the bins.
        every: steps between two updates of the distribution.
        rate: Adam's learning rate of the logits.
        floor: share of the draws that stays uniform.
        clamp: the largest absolute logit.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: Costs,
        steps: int,
        bins: int = 8,
        warmup: float = 0.4,
        every: int = 100,
        rate: float = 0.06,  # with an update every 100 steps; what counts is the rate per step
        floor: float = 0.2,
        clamp: float = 2.0,
    ):
        self.check(bins=bins, warmup=warmup, every=every, rate=rate, floor=floor, clamp=clamp)
        self.warmup, self.every, self.rate, self.floor, self.clamp = warmup * steps, every, rate, floor, clamp
        self.bins = cost_bins(space, costs.of("macs"), bins, (costs.table.smallest, costs.table.largest))
        self.logits = np.zeros(len(self.bins))
        self.moments = np.zeros((2, len(self.bins)))  # Adam's
        self.updates = 0
        self.visits = np.zeros(len(self.bins))  # since the last update
        self.pending: list[tuple[Architecture, int, float]] = []  # per bin: what was probed, and its loss

    @staticmethod
    def check(**settings: float) -> None:
        for name, value in settings.items():
            low, high = LIMITS[name]
            check_setting(name, value, low, high, whole=name in ("bins", "every"))

    @property
    def probabilities(self) -> np.ndarray:
        """Of the bins, (K,)."""
        weights = np.exp(self.logits - self.logits.max())
        return self.floor / len(self.bins) + (1 - self.floor) * weights / weights.sum()

    def plan(self, step: int, random: Random, look: Look) -> Plan:
        [number] = random.choices(range(len(self.bins)), self.probabilities)
        self.visits[number] += 1
        return Plan((self.bins.sample(number, random),))

    def update(self, step: int, random: Random, probe: Probe) -> None:
        if step < self.warmup or step % self.every:
            return
        if self.pending:
            change = np.array([probe.loss(one, number) - then for one, number, then in self.pending])
            self.learn(probe.mean_over_ranks(change), probe.mean_over_ranks(self.visits))
        self.pending = [
            (architecture, step, probe.loss(architecture, step))
            for architecture in (self.bins.sample(k, random) for k in range(len(self.bins)))
        ]
        self.visits[:] = 0

    def learn(self, change: np.ndarray, visits: np.ndarray) -> None:
        """One step of Adam down the expected change of the loss.

        Args:
            change: (K,) change of each bin's validation loss since the last update, negative where it fell.
            visits: (K,) how many steps each bin was trained since.
        """
        if not np.isfinite(change).all():
            return  # the training diverged and will be rolled back, the sampler with it
        share = visits / max(visits.sum(), 1) * len(visits)  # 1 where trained as much as on average
        change = change / np.maximum(share, 0.25)
        weights = np.exp(self.logits - self.logits.max())
        weights /= weights.sum()
        gradient = weights * (change - weights @ change)
        self.updates += 1
        for moment, decay, new in zip(self.moments, (0.9, 0.999), (gradient, gradient**2), strict=True):
            moment += (1 - decay) * (new - moment)
        first = self.moments[0] / (1 - 0.9**self.updates)
        second = self.moments[1] / (1 - 0.999**self.updates)
        self.logits -= self.rate * first / (np.sqrt(second) + 1e-12)
        self.logits -= self.logits.mean()
        self.logits = np.clip(self.logits, -self.clamp, self.clamp)

    def observables(self) -> Mapping[str, float]:
        shares = {f"probability/{k}": float(p) for k, p in enumerate(self.probabilities)}
        return shares | {f"edge/{k}": float(edge) for k, edge in enumerate(self.bins.edges[1:])}

    def state_dict(self) -> dict[str, Any]:
        return {
            "logits": self.logits.tolist(),
            "moments": self.moments.tolist(),
            "updates": self.updates,
            "visits": self.visits.tolist(),
            "pending": [(one.to_json(), number, loss) for one, number, loss in self.pending],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.logits, self.moments = np.array(state["logits"]), np.array(state["moments"])
        self.updates, self.visits = state["updates"], np.array(state["visits"])
        self.pending = [(architecture_from_json(one), number, loss) for one, number, loss in state["pending"]]
