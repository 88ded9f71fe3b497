"""Trials written out: a supernet whose rankings are known, without any network."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from nas.storage.records import Trial
from search_spaces import Architecture
from tests.synthetic import space

SAMPLED = Trial(
    "", "", "sampled", values={"edge/0": 1e6, "edge/1": 2e6, "edge/2": 3e6, "count/0": 30, "count/1": 10}
)


def architectures(number: int, seed: int = 0) -> list[Architecture]:
    """Different ones of the preset `digits`."""
    drawn, random = {}, Random(seed)
    while len(drawn) < number:
        one = space().sample(random)
        drawn[one.key] = one
    return list(drawn.values())


def trials_of(
    inherited: Sequence[float],
    alone: Sequence[float] | Sequence[Sequence[float]],
    macs: Sequence[float] | None = None,
    several: Sequence[Architecture] | None = None,
) -> list[Trial]:
    """Trials of as many architectures as there are accuracies; `alone` has one accuracy, or one per seed.

    Without MACs given, they grow in the order of the architectures. The one set of statistics costs 5 points.
    """
    several = several or architectures(len(inherited))
    macs = macs if macs is not None else [1e6 * (n + 1) for n in range(len(several))]
    found = []
    for one, accuracy, own, cost in zip(several, inherited, alone, macs, strict=True):
        costs = {"macs": cost, "parameters": cost / 10}

        def trial(kind, reached, seed=0, one=one, costs=costs, **values):
            measured = {"accuracy": reached, "loss": (100 - reached) / 30, **costs, **values}
            return Trial(
                one.key, one.to_json(), kind, seed, measured, seconds=60.0 if kind == "alone" else 2.0
            )

        found += [trial("inherited", accuracy), trial("uncalibrated", accuracy - 5)]
        own = [own] if np.isscalar(own) else own
        found += [trial("alone", reached, seed, epochs=5.0) for seed, reached in enumerate(own)]
    return found


def noisy(number: int, noise: float, of_macs: float = 0.0, seeds: int = 2, seed: int = 0) -> list[Trial]:
    """Trials of a quality that is MACs (in part `of_macs`) and chance; inherited accuracy adds noise to it."""
    random = np.random.default_rng(seed)
    macs = np.sort(random.uniform(1e6, 8e6, number))

    def draw() -> np.ndarray:
        return random.normal(size=number)

    quality = of_macs * (macs - 4.5e6) / 2e6 + (1 - of_macs) * draw()
    alone = 80 + np.array([quality + 0.1 * draw() for _ in range(seeds)]).T
    return trials_of(75 + quality + noise * draw(), alone, macs)
