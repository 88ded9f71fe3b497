"""Shift sampling: train more where the validation loss still falls.

After Zhang et al., "ShiftNAS: Improving One-shot NAS via Probability Shift", ICCV 2023. The range of a cost is
cut into bins; a bin is drawn from a learned distribution, then an architecture of about that cost. The
distribution descends the expected change of the validation loss (the paper's equations 5 to 8), so
probability moves to the bins whose loss fell most since the last update. `shift_rule` has the equations.

Our deviations, each with its reason (methods section 1 has the measurements):
- the gradient over bins is exact, p_k (d_k - sum_j p_j d_j); the paper's pathwise one, which only knows whether
  more or less cost would be better, is `gradient: pathwise`. There the derivative of the supernet's loss in the
  cost is a difference between neighbouring bins, since our architectures are arguments, not masks;
- the change d_k is paired: the same architectures on the same images, then and now, which needs no second
  copy of the supernet;
- it is divided by how often bin k was trained since: raw progress is self-reinforcing, a bin that is drawn
  more improves more. `normalise: cost` divides by what that training cost as well, so that probability follows
  improvement per second;
- an update is made only if some bin's progress, over the last four updates together, stands out of the spread
  within bins (a paired t, at 5 % for all bins together); otherwise every logit falls back towards 0, by `rate`.
  Adam's steps have no scale, so noise alone would carry the distribution away, and one that is merely held would
  stay where it last was when the signal fades. The same test of one update alone misses most of the signal;
- the distribution keeps a floor and its logits are re-centred and clamped, so no bin starves;
- it stays uniform during the warm-up: early on the cheap bins progress most, which says nothing.

Architectures come from tables per bin (`cost_bins`) or, as in the paper, from a generator: fitted to the cost
before the first step, then trained on with every update. The paper's task loss reaches it through masks on the
supernet; ours by the score function (REINFORCE), from the validation losses that are measured anyway and with
the mean of the bin's draws as the baseline. It is left out while the generator's costs are more than
3 % off, since a loss that says "always bigger" must not drown the cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np

from search_spaces import Architecture, SearchSpace, architecture_from_json
from supernets.cost import Costs
from supernets.samplers.cost_bins import cost_bins
from supernets.samplers.generator import Generator
from supernets.samplers.plan import Look, Plan, Probe, Watch, check_cost, check_one_of, check_setting
from supernets.samplers.shift_rule import (
    adam,
    chance,
    deviation,
    exact_gradient,
    pathwise_gradient,
    per_cost,
    per_visit,
    softmax,
    step_costs,
)

LIMITS = {
    "bins": (1, 1000),
    "warmup": (0, 1),
    "every": (1, 10**9),
    "rate": (0, 10),
    "floor": (0, 1),
    "clamp": (0, 100),
    "measured": (1, 1000),
    "gate": (1e-9, 1),
    "overhead": (0, 1000),
    "fit": (1, 10**6),
}
WHOLE = ("bins", "every", "measured", "fit")
NAMES = {
    "gradient": ("exact", "pathwise"),
    "normalise": ("none", "visits", "cost"),
    "architectures": ("marginals", "generator"),
}
MEASURED, GATE = 2, 0.05
TESTED = 4  # updates that the gate takes together
TASK = 0.02  # what validation loss is worth to the generator in squared relative error of its cost
AHEAD = 32  # architectures that a generator draws at once, which takes as long as about five drawn one by one
MOST = 1e6  # a deviation without any spread, as a finite number that can be shown


class Shift:
    """
    Args:
        cost: what the bins are cut in: macs, parameters, bytes or latency_ms.
        bins: how many bins of equal width in the cost; sparse ones are merged.
        warmup: share of the steps with a uniform distribution over the bins.
        every: steps between two updates of the distribution.
        rate: Adam's learning rate of the logits.
        floor: share of the draws that stays uniform.
        clamp: the largest absolute logit.
        measured: how many architectures of each bin are measured at an update, and again at the next; of one
            alone a generator learns nothing but its cost.
        gate: the chance that an update is followed where there is nothing but noise; 1 follows all.
        gradient: exact or pathwise.
        normalise: what a bin's progress is divided by: none, visits or cost.
        overhead: what a step costs beside its MACs, as a share of the average bin's; for `normalise: cost`.
        architectures: marginals or generator.
        fit: the generator's own steps before the first of the training.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: Costs,
        steps: int,
        bins: int = 8,
        cost: str = "macs",
        warmup: float = 0.4,
        every: int = 100,
        rate: float = 0.06,  # with an update every 100 steps; what counts is the rate per step
        floor: float = 0.2,
        clamp: float = 2.0,
        measured: int = MEASURED,
        gate: float = GATE,
        gradient: str = "exact",
        normalise: str = "visits",
        overhead: float = 0.1,  # on a CPU the step of a 19 times dearer subnet took 10 times as long
        architectures: str = "marginals",
        fit: int = 300,
    ):
        self.check(
            bins=bins, cost=cost, warmup=warmup, every=every, rate=rate, floor=floor, clamp=clamp, measured=measured,
            gate=gate, gradient=gradient, normalise=normalise, overhead=overhead, architectures=architectures, fit=fit,
        )  # fmt: skip
        self.space, self.macs = space, costs.of("macs")
        self.warmup, self.every, self.rate, self.floor, self.clamp = warmup * steps, every, rate, floor, clamp
        self.measured, self.gate, self.gradient, self.normalise = measured, gate, gradient, normalise
        self.overhead, self.generates, self.fit = overhead, architectures == "generator", fit
        self.bins = cost_bins(space, costs.of(cost), bins, (costs.table.smallest, costs.table.largest))
        self.centres = (self.bins.edges[:-1] + self.bins.edges[1:]) / 2
        self.generator: Generator | None = None  # until it is needed, since fitting it takes a while
        self.logits = np.zeros(len(self.bins))
        self.moments = np.zeros((2, len(self.bins)))  # Adam's
        self.updates = 0
        # changes (K, M) and divisors (K,) of the updates that are tested together
        self.recent: list[tuple[np.ndarray, np.ndarray]] = []
        self.deviation = 0.0  # the |t| at the last update
        self.visits = np.zeros(len(self.bins))  # since the last update
        self.trained = np.zeros((2, len(self.bins)))  # since the start: steps, and their MACs on one image
        self.pending: list[tuple[Architecture, int, float]] = []  # bin after bin: what was probed, its loss
        self.ahead: list[tuple[int, Architecture]] = []  # bins and what the generator drew for the next plans

    @staticmethod
    def check(**settings: Any) -> None:
        for name, value in settings.items():
            if name == "cost":
                check_cost(value)
            elif name in NAMES:
                check_one_of(name, value, NAMES[name])
            else:
                check_setting(name, value, *LIMITS[name], whole=name in WHOLE)
        gate, measured = settings.get("gate", GATE), settings.get("measured", MEASURED)
        if gate < 1 and measured < 2:
            raise ValueError(f"measured is {measured}, but gate {gate:g} needs 2 or more; or set gate to 1")

    @property
    def probabilities(self) -> np.ndarray:
        """Of the bins, (K,)."""
        return self.floor / len(self.bins) + (1 - self.floor) * softmax(self.logits)

    def prepare(self, watch: Watch) -> None:
        if self.generates:
            self._fitted(watch)

    def plan(self, step: int, random: Random, look: Look) -> Plan:
        number, architecture = self._drawn(random)
        self.visits[number] += 1
        self.trained[:, number] += 1, self._macs_of(architecture)
        return Plan((architecture,))

    def update(self, step: int, random: Random, probe: Probe) -> None:
        if step < self.warmup or step % self.every:
            return
        if self.pending:
            changes = np.array([probe.loss(one, number) - then for one, number, then in self.pending])
            means = [probe.mean_over_ranks(one) for one in (changes, self.visits, self.trained)]
            self.learn(means[0].reshape(len(self.bins), -1), *means[1:], random, probe.mean_over_ranks)
        self._measure(step, random, probe)
        self.visits[:] = 0
        self.ahead = []  # drawn by what was known before

    def learn(
        self,
        changes: np.ndarray,
        visits: np.ndarray,
        trained: np.ndarray,
        random: Random,
        mean_over_ranks: Callable[[np.ndarray], np.ndarray] = lambda values: values,
    ) -> None:
        """One step of Adam down the expected change of the loss.

        Args:
            changes: (K, M) changes of the validation losses of each bin's architectures since the last update,
                negative where they fell.
            visits: (K,) how many steps each bin was trained since.
            trained: (2, K) how many it was trained since the start, and the MACs of these.
            random: of the pathwise gradient, which is then averaged over the training processes.
        """
        if not np.isfinite(changes).all():
            return  # the training diverged and will be rolled back, the sampler with it
        divisors = self._divisors(visits, trained)
        if not self._stands_out(changes, divisors):
            self.logits = self.logits - np.clip(self.logits, -self.rate, self.rate)
            return
        change = changes.mean(axis=1) / divisors
        if self.gradient == "exact":
            gradient = exact_gradient(self.logits, change)
        else:
            dice = np.random.default_rng(random.getrandbits(64))
            gradient = mean_over_ranks(pathwise_gradient(self.logits, change, self.centres, dice))
        self.updates += 1
        self.logits += adam(self.moments, self.updates, gradient, self.rate)
        self.logits -= self.logits.mean()
        self.logits = np.clip(self.logits, -self.clamp, self.clamp)

    def _stands_out(self, changes: np.ndarray, divisors: np.ndarray) -> bool:
        """Whether what is learned from, with the updates just before, is more than noise."""
        if self.measured == 1:
            return True  # it has no spread, so the gate is open
        self.recent = [*self.recent[1 - TESTED :], (changes, divisors)]
        tested, parts = (np.stack(one) for one in zip(*self.recent, strict=True))
        self.deviation = min(deviation(tested, parts), MOST)
        updates, bins, pairs = tested.shape
        return chance(self.deviation, bins, updates * bins * (pairs - 1)) <= self.gate

    def observables(self) -> Mapping[str, float]:
        shares = {f"probability/{k}": float(p) for k, p in enumerate(self.probabilities)}
        edges = {f"edge/{k}": float(edge) for k, edge in enumerate(self.bins.edges[1:])}
        return shares | edges | {"deviation": self.deviation}

    def state_dict(self) -> dict[str, Any]:
        return {
            "logits": self.logits.tolist(),
            "moments": self.moments.tolist(),
            "updates": self.updates,
            "recent": [[one.tolist() for one in pair] for pair in self.recent],
            "deviation": self.deviation,
            "visits": self.visits.tolist(),
            "trained": self.trained.tolist(),
            "pending": [(one.to_json(), number, loss) for one, number, loss in self.pending],
            "ahead": [(number, self.space.encode(one)) for number, one in self.ahead],
            "generator": self.generator and self.generator.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.logits, self.moments = np.array(state["logits"]), np.array(state["moments"])
        self.updates, self.deviation = state["updates"], state["deviation"]
        self.recent = [(np.array(changes), np.array(parts)) for changes, parts in state.get("recent", [])]
        self.visits, self.trained = np.array(state["visits"]), np.array(state["trained"])
        self.pending = [(architecture_from_json(one), number, loss) for one, number, loss in state["pending"]]
        self.ahead = [(number, self.space.decode(vector)) for number, vector in state.get("ahead", [])]
        self.generator = self._made() if state["generator"] else None
        if self.generator:
            self.generator.load_state_dict(state["generator"])

    # -- what is measured ----------------------------------------------------------------------

    def _measure(self, step: int, random: Random, probe: Probe) -> None:
        """Probe new architectures of every bin, to be probed again at the next update."""
        numbers = np.repeat(np.arange(len(self.bins)), self.measured)
        if not self.generates:
            self._probe([self.bins.sample(number, random) for number in numbers], step, probe)
            return
        generator, targets = self._fitted(), np.array([self._target(number, random) for number in numbers])
        vectors = generator.draw(targets, random)
        losses = self._probe([self.space.decode(vector) for vector in vectors.tolist()], step, probe)
        if np.isfinite(
            probe.mean_over_ranks(losses)
        ).all():  # of all ranks, or they would wait for each other
            advantages = TASK * (losses - losses.mean(axis=1, keepdims=True)).ravel()
            generator.learn(vectors, targets, advantages, random, probe.mean_over_ranks)

    def _probe(self, drawn: Sequence[Architecture], step: int, probe: Probe) -> np.ndarray:
        """Remember what was drawn, bin after bin, with its losses, (K, M)."""
        self.pending = [(one, step, probe.loss(one, step)) for one in drawn]
        return np.array([loss for _, _, loss in self.pending]).reshape(len(self.bins), -1)

    def _divisors(self, visits: np.ndarray, trained: np.ndarray) -> np.ndarray:
        """What each bin's progress is divided by, (K,)."""
        if self.normalise == "none":
            return np.ones(len(visits))
        if self.normalise == "visits":
            return per_visit(visits)
        return per_cost(visits, step_costs(*trained, self.overhead))

    # -- what is trained -----------------------------------------------------------------------

    def _drawn(self, random: Random) -> tuple[int, Architecture]:
        """A bin and an architecture of it."""
        if not self.generates:
            [number] = self._numbers(1, random)
            return number, self.bins.sample(number, random)
        if not self.ahead:
            numbers = self._numbers(AHEAD, random)
            targets = [self._target(number, random) for number in numbers]
            self.ahead = list(zip(numbers, self._fitted().samples(targets, random), strict=True))
        return self.ahead.pop()

    def _numbers(self, count: int, random: Random) -> list[int]:
        """So many bins by their probabilities."""
        return random.choices(range(len(self.bins)), self.probabilities, k=count)

    def _target(self, number: int, random: Random) -> float:
        """A cost anywhere in a bin."""
        return random.uniform(*self.bins.edges[number : number + 2].tolist())

    def _macs_of(self, architecture: Architecture) -> float:
        return float(self.macs(np.array([self.space.encode(architecture)]))[0])

    def _fitted(self, watch: Watch = lambda what, step, steps: None) -> Generator:
        """The generator, fitted when it is first needed: that takes a while, and a training that goes on from a
        checkpoint has it there."""
        if self.generator is None:
            generator = self._made()
            generator.fit(self.fit, lambda step, error: watch("fitting the generator", step, self.fit))
            self.generator = generator
        return self.generator

    def _made(self) -> Generator:
        return Generator(self.space, self.bins.cost, *self.bins.edges[[0, -1]])
